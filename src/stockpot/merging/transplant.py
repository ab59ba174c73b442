"""The vocabulary of another model, given to a model without training.

Tokens that both know keep the model's vectors. The vector of any other token is, in the donor's
space, a combination of few tokens that both know, found by orthogonal matching pursuit; the same
combination of the model's vectors takes its place. Source: Goddard and Fernandes Neto 2025,
Training-free tokenizer transplantation, arXiv 2506.06607.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints import Checkpoint, MemoryCheckpoint
from stockpot.checkpoints.dtypes import Array
from stockpot.compat import import_transformers
from stockpot.errors import CheckpointError
from stockpot.extras import require
from stockpot.files import write_json
from stockpot.merging.alignment import Aligned
from stockpot.merging.engine import Copy
from stockpot.merging.job import TRANSPLANT, Source, Spec
from stockpot.merging.mergekit.classes import empty_model
from stockpot.merging.mergekit.names import read_config
from stockpot.merging.mergekit.tokens import FILES, with_vocabulary_size
from stockpot.merging.mergekit.views import taken
from stockpot.merging.plan import MergePlan
from stockpot.reading import read_json

TOKENS = 64
"""Shared tokens that one vector is combined of; mergekit's default."""
_ROOM = 2**24
_TINY = 1e-8
_STARTS = ("Ġ", "▁")
_IDS = ("pad_token_id", "eos_token_id", "bos_token_id", "unk_token_id", "mask_token_id")


@dataclass(frozen=True)
class Transplant:
    """The first source with the vocabulary of the second; see ``job.SelfPlanned``."""

    tokens: int = TOKENS

    @property
    def needs_folder(self) -> bool:
        """The result has another tokenizer."""
        return True

    def plan(self, sources: Sequence[Checkpoint], dtype: str | None) -> MergePlan:
        """Works for the engine; the new rows are computed here."""
        require("transformers", "--vocabulary")
        model, donor = sources
        own, theirs = _vocabulary(model), _vocabulary(donor)
        tables, others = _tables(model), _tables(donor)
        made: dict[str, Array] = {}
        notes = []
        for role, name in tables.items():
            rows, given = model.read(name), donor.read(others.get(role, others["input"]))
            made[name], count = self._rows(rows, given, own, theirs)
            notes.append(
                f"'{name}': {count} of {len(made[name])} tokens are combined of shared ones"
            )
        table = MemoryCheckpoint(made, label=donor.label)
        works = [
            taken(table if name in made else model, name, name, dtype or model.info(name).dtype)
            for name in model.names
        ]
        aligned = [Aligned(w.info, "copy" if isinstance(w, Copy) else "merge", ()) for w in works]
        return MergePlan(works, aligned, [], notes)

    def _rows(
        self, rows: Array, given: Array, own: Mapping[Any, int], theirs: Mapping[Any, int]
    ) -> tuple[Array, int]:
        """(a row for each token of the donor, how many of them are combined)."""
        own = {token: place for token, place in own.items() if place < len(rows)}
        known = {token: place for token, place in theirs.items() if place < len(given)}
        shared = [token for token in known if token in own]
        new = [place for token, place in known.items() if token not in own]
        made = np.zeros((max(theirs.values()) + 1, rows.shape[1]), np.float64)
        ours = rows[[own[token] for token in shared]].astype(np.float64)
        made[[known[token] for token in shared]] = ours
        if new:
            if not shared:
                raise CheckpointError("the two vocabularies have no token in common")
            count = min(self.tokens, len(shared))
            points = given[[known[token] for token in shared]].astype(np.float64)
            step = max(_ROOM // (len(points) + points.shape[1] * count), 1)
            for start in range(0, len(new), step):
                places = new[start : start + step]
                chosen, factors = pursue(given[places].astype(np.float64), points, count)
                made[places] = np.einsum("bk,bkd->bd", factors, ours[chosen])
        return made.astype(rows.dtype), len(new)

    def complete(self, folder: Path, sources: Sequence[Checkpoint]) -> None:
        """The donor's tokenizer, and a config that speaks of its tokens."""
        donor = sources[1]
        assert donor.home is not None
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
            if (donor.home / name).is_file():
                shutil.copyfile(donor.home / name, folder / name)
        config = read_json(folder / "config.json", "a model's config")
        size = max(_vocabulary(donor).values()) + 1
        ids = {key: value for key, value in read_config(donor).items() if key in _IDS}
        write_json(folder / "config.json", {**with_vocabulary_size(config, size), **ids})

    def to_json(self) -> dict[str, Any]:
        """The settings."""
        return {"transplant": self.tokens}


def transplanted_spec(spec: Spec, donor: Source) -> Spec:
    """``spec``, its result with the vocabulary of ``donor``."""
    return Spec([spec, donor], TRANSPLANT, dtype=spec.dtype, layout=Transplant())


def pursue(targets: Array, points: Array, count: int) -> tuple[Array, Array]:
    """Orthogonal matching pursuit: each of ``targets`` (b, d) by ``count`` of ``points`` (n, d).

    Returns the points' numbers and factors, both (b, count). A target that fewer points make up
    gets zeros for the rest.
    """
    b, d = targets.shape
    each = np.arange(b)
    basis = np.zeros((b, count, d))
    triangle = np.broadcast_to(np.eye(count), (b, count, count)).copy()
    chosen = np.zeros((b, count), np.intp)
    residuals = targets.copy()
    free = np.ones((b, len(points)), bool)
    sizes = np.linalg.norm(targets, axis=1)
    for step in range(count):
        inner = np.where(free, np.abs(residuals @ points.T), -1.0)
        chosen[:, step] = inner.argmax(axis=1)
        free[each, chosen[:, step]] = False
        atoms = points[chosen[:, step]]
        left = atoms.copy()
        before = basis[:, :step]
        for _ in range(2):  # once more, for what rounding leaves
            part = np.einsum("bkd,bd->bk", before, left)
            left -= np.einsum("bk,bkd->bd", part, before)
        norms = np.linalg.norm(left, axis=1)
        live = (norms > _TINY) & (np.linalg.norm(residuals, axis=1) > _TINY * sizes)
        basis[live, step] = left[live] / norms[live, None]
        triangle[:, :step, step] = np.einsum("bkd,bd->bk", before, atoms) * live[:, None]
        triangle[live, step, step] = norms[live]
        along = np.einsum("bd,bd->b", basis[:, step], residuals)
        residuals -= along[:, None] * basis[:, step]
    wanted = np.einsum("bkd,bd->bk", basis, targets)
    return chosen, np.linalg.solve(triangle, wanted[..., None])[..., 0]


def _vocabulary(source: Checkpoint) -> dict[Any, int]:
    """Token -> its number; beginnings of words and special tokens by what they are for."""
    if source.home is None or not any((source.home / name).is_file() for name in FILES):
        raise CheckpointError(f"{source.label} has no tokenizer")
    tokenizer = import_transformers().AutoTokenizer.from_pretrained(source.home)
    tokens = tokenizer.get_vocab()
    begins = Counter(token[:1] for token in tokens)
    start = max(_STARTS, key=lambda mark: begins[mark])
    roles = {text: role for role, text in tokenizer.special_tokens_map.items() if text in tokens}
    return {
        (("word", token[1:]) if token.startswith(start) else ("role", roles[token]))
        if token.startswith(start) or token in roles
        else token: number
        for token, number in tokens.items()
    }


def _tables(source: Checkpoint) -> dict[str, str]:
    """The tensors with a row for each token: "input", and "output" where it is another one."""
    model = empty_model(read_config(source))
    named: dict[int, str] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        named.setdefault(id(value), name)
    tables: dict[str, str] = {}
    modules = {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
    for role, module in modules.items():
        known = named.get(id(getattr(module, "weight", None)), "")
        if known in source and known not in tables.values():
            tables[role] = known
    if "input" not in tables:
        raise CheckpointError(f"{source.label}: its embeddings are not found")
    return tables
