"""One vocabulary for several models: which tokens the result has, and whose vector each one gets.

A token that a model has keeps that model's vector. One that it lacks gets: what the recipe says;
else the vector of the only model that has it; else the base's; else the mean over those that have
it; zeros where none has. Rows that pad the vocabulary to a multiple are the mean of all others.

New tokens are numbered in the order of the models and, within one, of its own numbers (mergekit's
order changes from run to run).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints import Checkpoint, TensorInfo
from stockpot.checkpoints.dtypes import STORAGE, Array, encode, working_dtype
from stockpot.checkpoints.open import weights_folder
from stockpot.compat import import_transformers
from stockpot.errors import CheckpointError, MethodError
from stockpot.extras import require
from stockpot.merging.mergekit.document import Document, Reference, TokenRule
from stockpot.reading import read_json

Row = tuple[tuple[int, int], ...]
"""(model, row) of the vectors whose mean a token gets; none: zeros."""

FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja"),
    "chat_template.json",
)


@dataclass(frozen=True)
class SharedVocabulary:
    """The vocabulary of the result.

    Attributes:
        tokenizer: of transformers, for the result.
        tokens: token -> its number.
        places: for each model, number in the result -> row of the model, where it has the token.
        own: for each model, token -> row.
        rules: what the recipe says of single tokens.
        multiple: the number of rows is one of this number.
    """

    tokenizer: Any
    tokens: Mapping[str, int]
    places: Mapping[Reference, Mapping[int, int]]
    own: Mapping[Reference, Mapping[str, int]]
    rules: Mapping[str, TokenRule]
    multiple: int | None

    @property
    def rows(self) -> int:
        """Rows of the embeddings, padding included."""
        count, multiple = len(self.tokens), self.multiple or 1
        return -(-count // multiple) * multiple

    def sources(self, models: Sequence[Reference], base: Reference | None) -> list[list[Row]]:
        """For each of ``models`` (those of a slice), where each row of its embeddings comes from.

        Raises ``MethodError`` for a token whose vector is not to be found.
        """
        number = {model: i for i, model in enumerate(models)}
        rows: list[list[Row]] = [[() for _ in self.tokens] for _ in models]
        for token, place in self.tokens.items():
            rule = self.rules.get(token, TokenRule(None, force=False))
            has = [model for model in models if place in self.places[model]]
            needed = rule.force or len(has) < len(models)
            shared = self._default(token, place, rule, has, base, number) if needed else ()
            for i, model in enumerate(models):
                own = model in has and not rule.force
                rows[i][place] = ((i, self.places[model][place]),) if own else shared
        return rows

    def _default(
        self,
        token: str,
        place: int,
        rule: TokenRule,
        has: Sequence[Reference],
        base: Reference | None,
        number: Mapping[Reference, int],
    ) -> Row:
        """The vector of a token for models that lack it."""
        if token not in self.rules:
            donors = [base] if base in has and len(has) > 1 else has
            return tuple((number[m], self.places[m][place]) for m in donors if m is not None)
        source = rule.source
        if source is None:
            raise MethodError(
                f"token {token!r} needs a 'source': a model lacks it, or it is forced"
            )
        if source.zero:
            return ()
        assert source.model is not None
        if source.model not in number:
            raise MethodError(f"token {token!r}: {source.model} is not among the models of a slice")
        row = source.token_id
        if source.token is not None:
            row = self.own[source.model].get(source.token)
        elif row is None:
            row = self.places[source.model].get(place)
        if row is None:
            raise MethodError(f"token {source.token or token!r} is not in {source.model}")
        return ((number[source.model], row),)


class VocabularyView(Checkpoint):
    """Tensors of a model that have a row for each token, in the vocabulary of the result.

    ``models``: those of a slice, which rows may come from. ``rows``: whence each row of this one.
    """

    def __init__(
        self, models: Sequence[Checkpoint], number: int, rows: Sequence[Row], size: int
    ) -> None:
        source = models[number]
        super().__init__({}, label=source.label, path=source.path)
        self._models, self._number, self._rows, self._size = models, number, rows, size
        self._last: tuple[str, Array] | None = None

    def show(self, name: str) -> None:
        """Show the tensor ``name``, which all models have under it."""
        infos = [model.info(name) for model in self._models]
        shapes = {info.shape[1:] for info in infos}
        if len(shapes) > 1 or not infos[0].shape:
            raise CheckpointError(f"'{name}' differs in more than the number of its rows")
        code = infos[self._number].dtype
        self.tensors[name] = TensorInfo(name, (self._size, *infos[0].shape[1:]), code)

    def raw(self, name: str) -> Array:
        info = self.info(name)
        return encode(self._whole(name), info.dtype, np.empty(info.size, STORAGE[info.dtype]))

    def decode(self, name: str, start: int, stop: int, out: Array) -> Array:
        np.copyto(out, self._whole(name)[start:stop], casting="unsafe")
        return out

    def _whole(self, name: str) -> Array:
        """The tensor, flat; the last one that was asked for is kept."""
        last = self._last
        if last is not None and last[0] == name:
            return last[1]
        read = [self._read(model, name) for model in self._models]
        made = np.zeros(self.info(name).shape, np.result_type(*read))
        for place, row in enumerate(self._rows):
            for model, theirs in row:
                if theirs >= len(read[model]):
                    raise CheckpointError(
                        f"{self._models[model].label}: '{name}' has no row {theirs}"
                    )
                made[place] += read[model][theirs]
            if len(row) > 1:
                made[place] /= len(row)
        if self._size > len(self._rows):
            made[len(self._rows) :] = made[: len(self._rows)].mean(axis=0)
        flat = made.reshape(-1)
        self._last = (name, flat)
        return flat

    def _read(self, model: Checkpoint, name: str) -> Array:
        info = model.info(name)
        values = np.empty(info.size, working_dtype([info.dtype]))
        return model.decode(name, 0, info.size, values).reshape(info.shape)


# ------------------------------------------------------------------------------------ tokenizers
class Tokenizers:
    """The tokenizers of a document's models, read with transformers.

    Raises ``MissingDependencyError`` without transformers.
    """

    def __init__(self, document: Document, sources: Mapping[Reference, Checkpoint]) -> None:
        require("transformers", "a recipe with 'tokenizer'")
        self._document, self._sources = document, sources
        self.notes: list[str] = []

    def shared(self) -> SharedVocabulary:
        """The vocabulary that the document asks for."""
        wanted = self._document.vocabulary
        assert wanted is not None
        loaded = self._loaded
        base = self._document.donor
        if isinstance(wanted.source, Reference):
            tokenizer = self._load(wanted.source)
            if tokenizer is None:
                raise CheckpointError(f"{wanted.source} has no tokenizer")
        else:
            tokenizer = _reloaded(loaded[base])
            if wanted.source == "union":
                self._add_all(tokenizer)
        known = tokenizer.get_vocab()
        tokenizer.add_tokens([token for token in wanted.tokens if token not in known])
        tokens = _by_number(tokenizer.get_vocab())
        if list(tokens.values()) != list(range(len(tokens))):
            raise CheckpointError("the vocabulary of the result leaves numbers out")
        own = {model: (loaded.get(model) or loaded[base]).get_vocab() for model in self._sources}
        return SharedVocabulary(
            tokenizer,
            tokens,
            {model: self._places(model, tokens, own[model]) for model in self._sources},
            own,
            wanted.tokens,
            wanted.multiple,
        )

    def _places(
        self, model: Reference, tokens: Mapping[str, int], own: Mapping[str, int]
    ) -> dict[int, int]:
        size = self._size(model) or len(own)
        return {
            place: own[token]
            for token, place in tokens.items()
            if token in own and own[token] < size
        }

    @cached_property
    def _loaded(self) -> dict[Reference, Any]:
        """Tokenizers by model, the base's first and without tokens that have no row."""
        base = self._document.donor
        first = self._load(base)
        if first is None:
            raise CheckpointError(f"{base} has no tokenizer", hint="'tokenizer' starts from it")
        loaded = {base: _stripped(first, self._size(base) or len(first.get_vocab()))}
        for model in self._sources:
            if model == base:
                continue
            tokenizer = self._load(model)
            if tokenizer is None:
                self.notes.append(f"{model} has no tokenizer: taken to be that of {base}")
            else:
                loaded[model] = tokenizer
        return loaded

    def _add_all(self, tokenizer: Any) -> None:
        """Add every token that some model has a row for."""
        known = dict(tokenizer.get_vocab())
        plain: dict[str, None] = {}
        special: dict[str, Any] = {}
        for model, other in self._loaded.items():
            size = self._size(model) or other.vocab_size
            added = {item.content: item for item in other.added_tokens_decoder.values()}
            for token, number in _by_number(other.get_vocab()).items():
                if number < size and token in added:
                    special.setdefault(token, added[token])
                elif number < size and token not in known:
                    plain.setdefault(token)
        tokenizer.add_tokens([token for token in plain if token not in special])
        tokenizer.add_tokens(list(special.values()))

    def _load(self, model: Reference) -> Any:
        """A tokenizer; None for a model without one."""
        source = self._sources.get(model)
        home = weights_folder(model.model) if source is None else source.home
        if home is None or not any((home / name).is_file() for name in FILES):
            return None
        return import_transformers().AutoTokenizer.from_pretrained(home)

    def _size(self, model: Reference) -> int | None:
        """Rows of a model's embeddings, as its config says."""
        home = self._sources[model].home
        if home is None:
            return None
        return vocabulary_size(read_json(home / "config.json", "a model's config"))


def vocabulary_size(config: Mapping[str, Any]) -> int | None:
    """Number of tokens that a config speaks of, of the text part where there are several."""
    inner = config.get("text_config")
    size = config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, dict) else None)
    return size if isinstance(size, int) else None


def with_vocabulary_size(config: dict[str, Any], size: int) -> dict[str, Any]:
    """A config that speaks of ``size`` tokens."""
    inner = config.get("text_config")
    if "vocab_size" not in config and isinstance(inner, dict):
        return {**config, "text_config": {**inner, "vocab_size": size}}
    return {**config, "vocab_size": size}


def _by_number(vocabulary: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(vocabulary.items(), key=lambda item: item[1]))


def _reloaded(tokenizer: Any) -> Any:
    """A copy that may be changed."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return import_transformers().AutoTokenizer.from_pretrained(folder)


def _stripped(tokenizer: Any, size: int) -> Any:
    """A tokenizer without the tokens that a model with ``size`` rows has no vector for.

    Raises ``CheckpointError`` where these are not the kind that can be taken out.
    """
    unused = {token for token, number in tokenizer.get_vocab().items() if number >= size}
    if not unused:
        return tokenizer
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        path = Path(folder) / "tokenizer.json"
        content = read_json(path) if path.is_file() else {}
        model = content.get("model", {})
        if model.get("type") != "BPE":
            raise CheckpointError(
                f"{len(unused)} tokens have no row in the embeddings, and only of BPE tokenizers "
                "they can be taken out"
            )
        content["added_tokens"] = [item for item in content["added_tokens"] if item["id"] < size]
        model["vocab"] = {t: n for t, n in model["vocab"].items() if t not in unused}
        model["merges"] = [
            merge
            for merge in model["merges"]
            if unused.isdisjoint(merge.split(" ") if isinstance(merge, str) else merge)
        ]
        path.write_text(json.dumps(content), encoding="utf-8")
        settings = Path(folder) / "tokenizer_config.json"
        config = read_json(settings)
        config.pop("added_tokens_decoder", None)
        settings.write_text(json.dumps(config), encoding="utf-8")
        return import_transformers().AutoTokenizer.from_pretrained(folder)
