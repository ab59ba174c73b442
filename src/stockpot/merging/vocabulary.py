"""Tokenizers of the parents: averaging embeddings makes sense only where rows mean the same token.

Equal vocabularies are merged. Embeddings that differ only in padding rows at the end (rows that no
token uses) are brought to the first model's size. Different vocabularies are refused with the
reason.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stockpot.checkpoints import Checkpoint, TensorInfo
from stockpot.checkpoints.dtypes import Array, decode
from stockpot.errors import CheckpointError
from stockpot.files import file_digest

_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "word_embeddings.weight", "wte.weight")


class PaddedCheckpoint(Checkpoint):
    """A model whose embeddings have as many rows as the first model's.

    Rows it lacks (padding) are the first model's; rows the first model lacks are left away.
    """

    def __init__(self, model: Checkpoint, first: Checkpoint, names: Sequence[str]) -> None:
        tensors = dict(model.tensors)
        for name in names:
            tensors[name] = TensorInfo(name, first.info(name).shape, model.info(name).dtype)
        super().__init__(tensors, label=model.label, path=model.path, metadata=model.metadata)
        self._model, self._first, self._names = model, first, frozenset(names)

    def raw(self, name: str) -> Array:
        if name not in self._names:
            return self._model.raw(name)
        mine, wanted = self._model.raw(name), self.info(name).size
        if mine.size >= wanted:
            return mine[:wanted]
        if self._first.info(name).dtype != self.info(name).dtype:
            raise CheckpointError(f"{self.label}: '{name}' needs rows of another dtype")
        return np.concatenate([mine, self._first.raw(name)[mine.size :]])

    def prefetch(self, name: str) -> None:
        self._model.prefetch(name)

    def decode(self, name: str, start: int, stop: int, out: Array) -> Array:
        if name not in self._names:
            return self._model.decode(name, start, stop, out)
        own = self._model.info(name)
        split = min(max(own.size, start), stop)
        decode(self._model.raw(name)[start:split], own.dtype, out[: split - start])
        if split < stop:
            self._first.decode(name, split, stop, out[split - start :])
        return out

    def first_nonfinite(self, name: str, start: int, stop: int) -> int | None:
        stop = min(stop, self._model.info(name).size)
        return self._model.first_nonfinite(name, start, stop) if start < stop else None


def match_vocabularies(models: Sequence[Checkpoint]) -> tuple[list[Checkpoint], list[str]]:
    """Models with embeddings of one size, and what had to be done for that in words.

    Raises ``CheckpointError`` where two tokenizers give a token different numbers.
    """
    tables = [_Vocabulary(model) for model in models]
    for table, model in zip(tables[1:], models[1:], strict=True):
        difference = tables[0].difference(table)
        if difference:
            raise CheckpointError(
                f"{models[0].label} and {model.label} have different vocabularies: {difference}",
                hint="only models of one tokenizer can be averaged; merge without embeddings "
                "or choose other models",
            )
    matched: list[Checkpoint] = [models[0]]
    words = []
    for table, model in zip(tables[1:], models[1:], strict=True):
        names = [
            name
            for name in model.names
            if name.endswith(_EMBEDDINGS)
            and name in models[0]
            and _only_rows_differ(models[0].info(name).shape, model.info(name).shape)
        ]
        known = tables[0].known and table.known
        if (
            names
            and known
            and tables[0].size
            <= min(min(models[0].info(name).shape[0], model.info(name).shape[0]) for name in names)
        ):
            shape, wanted = model.info(names[0]).shape, models[0].info(names[0]).shape
            words.append(
                f"{model.label}: embeddings padded to {shape[0]} rows were brought to {wanted[0]}, "
                f"the vocabulary of {table.size} tokens is the same"
            )
            matched.append(PaddedCheckpoint(model, models[0], names))
        else:
            matched.append(model)
    return matched, words


class _Vocabulary:
    """The token table of a model folder, read only where it has to be."""

    def __init__(self, model: Checkpoint) -> None:
        home = model.home
        files = ("tokenizer.json", "vocab.json", "vocab.txt")
        self.file = next((home / f for f in files if home and (home / f).is_file()), None)

    @property
    def known(self) -> bool:
        return self.file is not None

    @property
    def size(self) -> int:
        return max(self.tokens().values(), default=-1) + 1

    def tokens(self) -> dict[str, int]:
        return _read_tokens(self.file) if self.file is not None else {}

    def difference(self, other: _Vocabulary) -> str | None:
        """What is different in words; None where the tables agree or one is not known."""
        if self.file is None or other.file is None or self.file == other.file:
            return None
        if self.file.name == other.file.name and file_digest(self.file) == file_digest(other.file):
            return None
        mine, theirs = self.tokens(), other.tokens()
        if mine == theirs:
            return None
        moved = [token for token in mine if token in theirs and mine[token] != theirs[token]]
        if moved:
            token = moved[0]
            return f"token {token!r} is number {mine[token]} and number {theirs[token]}"
        return f"{len(mine.keys() ^ theirs.keys())} tokens are in one of them only"


def _read_tokens(path: Path) -> dict[str, int]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".txt":
            return {token: number for number, token in enumerate(text.splitlines())}
        content = json.loads(text)
        if path.name == "vocab.json":
            return dict(content)
        table = content["model"]["vocab"]
        if isinstance(table, list):
            table = {entry[0]: number for number, entry in enumerate(table)}
        added = {item["content"]: item["id"] for item in content.get("added_tokens", [])}
        return {**table, **added}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"cannot read the vocabulary in {path}: {error}") from error


def _only_rows_differ(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return len(a) == len(b) == 2 and a[1] == b[1] and a[0] != b[0]
