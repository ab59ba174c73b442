"""The result of a merge as a LoRA adapter of the base: its change, cut to a rank matrix by matrix.

One path for all: adapters merged by any method, and the LoRA of a full fine-tuning (the merge of
one model). The cut is the best there is (Eckart and Young 1936), its error is told for each module.
What is no matrix (norms, biases, a new head) is stored whole, as PEFT's ``modules_to_save`` and
``bias``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stockpot.checkpoints import Checkpoint
from stockpot.checkpoints.adapters.names import BaseNames, renamed_by_transformers
from stockpot.checkpoints.dtypes import Array, is_float
from stockpot.errors import CheckpointError, InputError, OutputError
from stockpot.merging.adapter_output import ROOT, named_factors, write_adapter_folder
from stockpot.merging.chained import open_merged
from stockpot.merging.engine import Options
from stockpot.merging.job import MergeJob, Spec
from stockpot.provenance import Parent

Kind = Literal["linear", "transposed", "convolution", "embedding", "whole"]

# How embeddings are called; a linear layer of such a name would be stored under the wrong names.
_EMBEDDING = re.compile(r"embed_(tokens|positions|in)|\w*_embeddings?|w[tp]e|shared|embeddings?")


@dataclass(frozen=True)
class AdapterReport:
    """What an adapter holds of a merge.

    ``errors`` of the cut by module, ||cut - change|| / ||change|| (Frobenius), and its ``ranks``;
    ``whole`` are tensors that are stored as they are, ``left_out`` those that no adapter can hold,
    with the relative size of their change.
    """

    errors: dict[str, float]
    ranks: dict[str, int]
    whole: tuple[str, ...]
    left_out: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest relative error of a module."""
        return max(self.errors.values(), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


def write_adapter(
    spec: Spec,
    output: str | Path,
    *,
    rank: int | None = None,
    error: float | None = None,
    options: Options | None = None,
) -> AdapterReport:
    """Merge, and write the change against ``spec.base`` as a PEFT folder.

    Args:
        spec: the merge; its base is what the adapter will lie on.
        output: the new folder.
        rank: the largest rank of a module's update.
        error: the largest relative error of one, which chooses its rank; within ``rank``.

    Raises:
        InputError: no base, or neither rank nor error.
        CheckpointError: a model that cannot be read, or a merge that changes no matrix.
        OutputError: the output exists.
    """
    if rank is None and error is None:
        raise InputError("how large may the adapter be?", hint="give a rank, an error, or both")
    if spec.base is None:
        raise InputError("the change is measured against a base", hint="give it with --base")
    if Path(output).exists():
        raise OutputError(f"{output} exists already", hint="choose another name")
    with MergeJob(spec, options) as job:
        assert job.base is not None
        merged = open_merged(job, options or Options())
        adapter = _Adapter(merged, job.base)
        for change in _changes(merged, job.base):
            adapter.add(change, rank, error)
        extracted = adapter.finish()
        if not extracted.errors:
            problem = "the merge changes no matrix of the base"
            raise CheckpointError(problem, hint="is the base one of the models?")
        write_adapter_folder(
            Path(output),
            adapter.tensors,
            extracted.ranks,
            base=job.base.label,
            parents=[Parent(name=f"./{Path(s.label).name}", digest="") for s in job.sources],
            recipe={**merged.recipe, "rank": rank, "error": error},
            **adapter.settings,
        )
    return extracted


def cut(matrix: Array, rank: int | None, error: float | None) -> tuple[Array, Array, float]:
    """Best factors (rows, r) and (r, columns) of a float64 matrix, and their relative error.

    r is the smallest that keeps the error within ``error``, at most ``rank``, at least one.
    """
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    squares = s**2
    # The relative error of each rank, beginning with 0.
    errors = np.sqrt(np.append(np.cumsum(squares[::-1])[::-1], 0.0) / (squares.sum() or 1.0))
    keep = len(s) if rank is None else min(rank, len(s))
    if error is not None:
        keep = min(keep, int(np.argmax(errors <= error)))
    keep = max(keep, 1)
    root = np.sqrt(s[:keep])
    return u[:, :keep] * root, root[:, None] * vt[:keep], float(errors[keep])


@dataclass(frozen=True)
class _Change:
    """How one tensor changed."""

    name: str
    value: Array
    delta: Array
    kind: Kind

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]

    def matrix(self) -> Array:
        """(outputs, inputs)."""
        if self.kind in ("transposed", "embedding"):
            return self.delta.T
        return self.delta.reshape(len(self.delta), -1)


def _changes(merged: Checkpoint, base: Checkpoint) -> Iterator[_Change]:
    names = BaseNames(base.tensors)
    for name in merged.names:
        info = merged.info(name)
        if not is_float(info.dtype):
            continue
        value = merged.decode(name, 0, info.size, np.empty(info.size)).reshape(info.shape)
        if name not in base or base.info(name).shape != info.shape:
            yield _Change(name, value, value, "whole")
            continue
        before = base.decode(name, 0, info.size, np.empty(info.size)).reshape(info.shape)
        if not np.array_equal(value, before):
            yield _Change(name, value, value - before, _kind(name, info.shape, names))


def _kind(name: str, shape: tuple[int, ...], names: BaseNames) -> Kind:
    module, _, leaf = name.rpartition(".")
    if leaf != "weight" or not module or len(shape) not in (2, 3, 4, 5):
        return "whole"
    if len(shape) > 2:
        return "convolution"
    if _EMBEDDING.fullmatch(module.split(".")[-1]):
        return "embedding"
    bias = names.tensors.get(f"{module}.bias")
    if bias is not None and shape[0] != shape[1]:
        return "linear" if bias.shape == shape[:1] else "transposed"
    return "transposed" if names.transposed(name, flag=False) else "linear"


class _Adapter:
    """What is written, change by change."""

    def __init__(self, merged: Checkpoint, base: Checkpoint) -> None:
        self._merged = merged
        self._in_model = _module_names(base)
        self._parents = {
            ".".join(parts[:end])
            for parts in (name.split(".") for name in base.names)
            for end in range(1, len(parts) - 1)
        }
        self._errors: dict[str, float] = {}
        self._ranks: dict[str, int] = {}
        self._others: list[_Change] = []
        self.tensors: dict[str, Array] = {}
        self.settings: dict[str, Any] = {"bias": "none", "fan_in_fan_out": False}

    def add(self, change: _Change, rank: int | None, error: float | None) -> None:
        """Cut what is a matrix; the rest waits until all matrices are known."""
        if change.kind == "whole":
            self._others.append(change)
            return
        up, down, miss = cut(change.matrix(), rank, error)
        module = self._in_model.get(change.module, change.module)
        self._errors[module], self._ranks[module] = miss, up.shape[1]
        self.settings["fan_in_fan_out"] |= change.kind == "transposed"
        kernel = change.value.shape[2:] if change.kind == "convolution" else ()
        embedding = change.kind == "embedding"
        self.tensors |= named_factors(module, up, down, embedding=embedding, kernel=kernel)

    def finish(self) -> AdapterReport:
        """Store what is no matrix: biases of adapted modules, and other modules whole."""
        whole, left_out, saved = [], {}, set()
        for change in self._others:
            leaf = change.name.rpartition(".")[2]
            module = self._in_model.get(change.module, change.module)
            if module in self._errors and leaf == "bias":
                self.settings["bias"] = "lora_only"
                self._store(f"{module}.base_layer.bias", change.name)
            elif module in self._errors or not module or change.module in self._parents:
                norm = float(np.linalg.norm(change.value)) or 1.0
                left_out[change.name] = float(np.linalg.norm(change.delta)) / norm
                continue
            else:
                saved.add(module)
                for name in self._merged.names:
                    if name.rpartition(".")[0] == change.module:
                        self._store(f"{module}.{name.rpartition('.')[2]}", name)
            whole.append(change.name)
        self.settings["modules_to_save"] = sorted(saved) or None
        return AdapterReport(self._errors, self._ranks, tuple(whole), left_out)

    def _store(self, key: str, name: str) -> None:
        self.tensors[ROOT + key] = self._merged.read(name).astype(np.float32)


def _module_names(base: Checkpoint) -> Mapping[str, str]:
    """Modules of the file -> modules of the model that transformers makes of it, where they
    differ.
    """
    renamed = renamed_by_transformers(base.names, base.home)
    return {old.rpartition(".")[0]: new.rpartition(".")[0] for new, old in renamed.items()}
