"""A base with an adapter applied, computed as it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints.adapters.changes import (
    GROUP,
    Blocks,
    Delta,
    Edit,
    Factors,
    Rows,
    Slice,
    add,
    scale_columns,
    scale_rows,
    set_length,
    set_rows,
    take_out,
)
from stockpot.checkpoints.adapters.names import BaseNames
from stockpot.checkpoints.adapters.reading import EMBEDDINGS, Adapter, Update
from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.dtypes import STORAGE, Array, encode, working_dtype
from stockpot.checkpoints.header import TensorInfo
from stockpot.checkpoints.memory import MemoryCheckpoint
from stockpot.errors import CheckpointError
from stockpot.reading import read_json

# Architectures whose head PEFT can reach, and what they call it.
_HEADED = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_OTHER_HEADS = {"gpt_neox": "embed_out"}


class AdaptedCheckpoint(Checkpoint):
    """A base with an adapter applied. ``decode`` is not rounded in between.

    Attributes:
        config_changes: what the model's config must say from now on: ``tie_word_embeddings``,
            ``vocab_size``.

    Raises ``CheckpointError`` where the adapter does not fit the base.
    """

    def __init__(self, base: Checkpoint, adapter: Adapter, *, label: str) -> None:
        self.base = self._base = base
        self._adapter = adapter
        self._names = BaseNames(base.tensors, base.home)
        self._tensors = dict(base.tensors)
        self._sources: dict[str, str] = {}
        self._edits: dict[str, list[Edit]] = {}
        self._widths: dict[str, int] = {}
        self.config_changes: dict[str, Any] = {}
        self._replaced = MemoryCheckpoint(self._replacements())
        self._tensors |= self._replaced.tensors
        for update in adapter.updates:
            if not self._is_tied_copy(update):
                self._apply(update)
        self._untie()
        super().__init__(self._tensors, label=label, path=adapter.folder, metadata=base.metadata)

    @property
    def home(self) -> Path | None:
        """The base's: an adapter has no config of a model."""
        return self._base.home

    @property
    def notes(self) -> list[str]:
        """The base's: how its weights were read."""
        return self._base.notes

    def raw(self, name: str) -> Array:
        info = self.info(name)
        if name not in self._edits and name not in self._sources:
            return self._stored(name)[0].raw(name)
        values = np.empty(info.size, working_dtype([info.dtype]))
        self.decode(name, 0, info.size, values)
        return encode(values, info.dtype, np.empty(info.size, STORAGE[info.dtype]))

    def decode(self, name: str, start: int, stop: int, out: Array) -> Array:
        source, stored = self._stored(name)
        if name not in self._edits:
            return source.decode(stored, start, stop, out)
        if stop <= start:
            return out
        columns = self._columns(name)
        read, rows = self._reader(name), self.info(name).size // columns
        first, last = start // columns // GROUP * GROUP, -(-stop // columns)
        for row in range(first, last, GROUP):
            values = read(row, min(row + GROUP, rows)).reshape(-1)
            begin = row * columns
            lower, upper = max(start, begin), min(stop, begin + len(values))
            out[lower - start : upper - start] = values[lower - begin : upper - begin]
        return out

    def prefetch(self, name: str) -> None:
        source, stored = self._stored(name)
        source.prefetch(stored)

    def first_nonfinite(self, name: str, start: int, stop: int) -> int | None:
        # The updates were found finite when they were read; what is left are the stored tensors.
        source, stored = self._stored(name)
        return source.first_nonfinite(stored, start, stop)

    def close(self) -> None:
        self._base.close()

    def _stored(self, name: str) -> tuple[Checkpoint, str]:
        """Where the values that ``name`` begins with are stored, and under which name."""
        if name in self._sources:
            return self._base, self._sources[name]
        return (self._replaced if name in self._replaced else self._base), name

    def _columns(self, name: str) -> int:
        return self._widths.get(name) or _matrix(self.info(name).shape)[1]

    def _reader(self, name: str) -> Rows:
        source, stored = self._stored(name)
        columns = self._columns(name)

        def stored_rows(start: int, stop: int) -> Array:
            out = np.empty((stop - start) * columns)
            return source.decode(stored, start * columns, stop * columns, out).reshape(-1, columns)

        read: Rows = stored_rows
        for edit in self._edits[name]:
            read = edit(read)
        return read

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        """The base's config; nothing where it has none."""
        home = self._base.home
        config = read_json(home / "config.json", "a model's config") if home is not None else None
        return config if isinstance(config, dict) else {}

    @cached_property
    def _head(self) -> str | None:
        """The weight of a head that the base does not store because it is tied; else None."""
        architecture = str((self._config.get("architectures") or [""])[0])
        name = _OTHER_HEADS.get(str(self._config.get("model_type")), "lm_head") + ".weight"
        known = architecture.endswith(_HEADED) and name not in self._base.tensors
        return name if known else None

    @cached_property
    def _embedding(self) -> str | None:
        """The embedding that a head is tied to: the only large table of that name."""
        named = [
            name
            for name, info in self._base.tensors.items()
            if len(info.shape) == 2 and name.split(".")[-2:-1] and name.split(".")[-2] in EMBEDDINGS
        ]
        return named[0] if len(named) == 1 else None

    def _replacements(self) -> dict[str, Array]:
        """Whole tensors by the base's names."""
        tensors: dict[str, Array] = {}
        for name, value in self._adapter.replaced.items():
            known = self._names.find(name)
            saved = self._adapter.settings.get("modules_to_save", [])
            if known is None and name != self._head and not any(one in name for one in saved):
                raise self._adapter.error(
                    f"'{name}' replaces a tensor that the base lacks", _OTHER_BASE
                )
            info = self._base.tensors.get(known) if known is not None else None
            if info is not None and info.shape[1:] != value.shape[1:]:
                raise self._misfit(known or name, tuple(value.shape), info.shape)
            tensors[known or name] = value
            if info is not None and info.shape != value.shape:
                self._resize(known or name, value.shape)
        return tensors

    def _resize(self, name: str, shape: Sequence[int]) -> None:
        """The config's word about the vocabulary, where its tokens became more or fewer."""
        if name.split(".")[-2] not in EMBEDDINGS:
            return
        if "vocab_size" in self._config:
            self.config_changes["vocab_size"] = int(shape[0])
        elif isinstance(text := self._config.get("text_config"), dict):
            self.config_changes["text_config"] = {**text, "vocab_size": int(shape[0])}

    def _apply(self, update: Update) -> None:
        kind = self._adapter.settings.kind
        if any("trainable_tokens_delta" in part for part in update.parts):
            self._set_tokens(update)
        elif kind == "IA3":
            self._rescale(update)
        else:
            delta = self._adapter.delta(update)
            assert delta is not None
            self._add(update, delta)

    def _is_tied_copy(self, update: Update) -> bool:
        """Whether the update of a head is that of the embedding again (``ensure_weight_tying``)."""
        if not self._adapter.settings.get("ensure_weight_tying") or self._embedding is None:
            return False
        others = [other for other in self._adapter.updates if other is not update]
        return f"{update.module}.weight" == self._head and any(
            self._weight(other) == self._embedding for other in others
        )

    def _add(self, update: Update, delta: Delta) -> None:
        weight = self._weight(update)
        if weight is None:
            self._add_to_experts(update, delta)
            return
        shape = self._tensors[weight].shape
        rows, columns = _matrix(shape)
        if isinstance(delta, Factors) and self._adapter.projections:
            width = columns if rows == delta.shape[0] else rows
            delta = Factors(delta.left, delta.right[:, :width], delta.scale)
        turned = self._is_transposed(update, weight, delta.shape)
        if turned is None:
            raise self._misfit(weight, delta.shape, shape)
        settings, edits = self._adapter.settings, self._edits.setdefault(weight, [])
        if settings.initial is not None and isinstance(delta, Factors):
            if settings.initial == "olora" and turned:
                raise self._adapter.error(f"OLoRA of '{weight}', which is stored transposed")
            rank = delta.left.shape[1]
            edits.append(take_out(settings.initial, rows, rank, delta.scale, transposed=turned))
        edits.append(add(delta.transposed() if turned else delta))
        magnitude = update.parts.get("lora_magnitude_vector")
        if magnitude is not None:
            lengths = magnitude.reshape(-1)
            if len(lengths) != delta.shape[0]:
                raise self._adapter.error(f"'{update.module}' has {len(lengths)} magnitudes")
            edits.append(set_length(lengths, rows, columns=turned))
        elif settings.get("use_dora"):
            raise self._adapter.error(f"'{update.module}' lacks lora_magnitude_vector")
        bias = update.parts.get("lora_B.bias")
        if bias is not None:
            self._add_to_bias(update, bias * getattr(delta, "scale", 1.0))

    def _add_to_bias(self, update: Update, values: Array) -> None:
        name = self._names.find(f"{update.module}.bias")
        if name is None or self._tensors[name].shape != values.shape:
            raise self._adapter.error(f"'{update.module}' has a LoRA bias, but the base no bias")
        self._edits.setdefault(name, []).append(add(Factors(values[:, None], np.ones((1, 1)), 1.0)))

    def _add_to_experts(self, update: Update, delta: Delta) -> None:
        """A LoRA of one parameter of a module (``target_parameters``): experts in one tensor, or
        in a tensor each where the file keeps them apart.
        """
        settings = self._adapter.settings
        fits = []
        for target in settings.get("target_parameters", []):
            module, _, parameter = target.rpartition(".")
            if f".{update.module}".endswith(f".{module}"):
                fits += self._expert_targets(update, delta, parameter)
        if not fits:
            raise self._adapter.error(
                f"adapts '{update.module}', which the base lacks", _OTHER_BASE
            )
        if len(fits) > 1:
            raise self._adapter.error(f"'{update.module}' fits more than one parameter")
        for name, edit in fits[0]:
            self._edits.setdefault(name, []).append(edit)

    def _expert_targets(
        self, update: Update, delta: Delta, parameter: str
    ) -> list[list[tuple[str, Edit]]]:
        assert isinstance(delta, Factors)
        outputs, inputs = delta.shape
        fused = self._names.find(f"{update.module}.{parameter}")
        if fused is not None:
            shape = self._tensors[fused].shape
            if len(shape) == 2 and shape == (outputs, inputs):
                return [[(fused, add(delta))]]
            if len(shape) != 3 or {*shape[1:]} != {outputs, inputs}:
                return []
            turned = shape[1:] == (inputs, outputs)
            if outputs == inputs:
                turned = self._names.transposed(fused, flag=False)
            parts = _by_expert(self._adapter, update, delta, shape[0])
            self._widths[fused] = shape[2]
            return [
                [(fused, add(Blocks([part.transposed() if turned else part for part in parts])))]
            ]
        experts = self._names.experts(update.module, parameter)
        if not experts:
            return []
        edits = []
        parts = _by_expert(self._adapter, update, delta, len(experts))
        for part, names in zip(parts, experts, strict=True):
            sizes = [self._tensors[name].shape for name in names]
            if sum(size[0] for size in sizes) != outputs or any(s[1] != inputs for s in sizes):
                return []
            start = 0
            for name, (rows, _) in zip(names, sizes, strict=True):
                edits.append((name, add(Slice(part, start, start + rows))))
                start += rows
        return [edits]

    def _rescale(self, update: Update) -> None:
        """IA3: inputs of feed-forward layers, outputs of others are scaled."""
        weight, values = self._weight(update), update.parts["ia3_l"]
        if weight is None:
            raise self._adapter.error(
                f"adapts '{update.module}', which the base lacks", _OTHER_BASE
            )
        rows, columns = _matrix(self._tensors[weight].shape)
        inputs = values.reshape(len(values), -1).shape[0] == 1 and values.size > 1
        factors = values.reshape(-1)
        turned = self._is_transposed(
            update, weight, (0, len(factors)) if inputs else (len(factors), 0)
        )
        if turned is None:
            raise self._misfit(weight, values.shape, (rows, columns))
        by_column = inputs != turned
        edit = scale_columns if by_column else scale_rows
        self._edits.setdefault(weight, []).append(edit(factors))
        bias = self._names.find(f"{update.module}.bias")
        if not inputs and bias is not None:
            self._edits.setdefault(bias, []).append(scale_rows(factors))

    def _set_tokens(self, update: Update) -> None:
        settings = self._adapter.settings
        (values,) = update.parts.values()
        indices = settings.get("trainable_token_indices", settings.get("token_indices"))
        if isinstance(indices, dict):
            ends = [key for key in indices if f".{update.module}".endswith(f".{key}")]
            indices = indices[ends[0]] if len(ends) == 1 else None
        weight = self._weight(update)
        if weight is None or indices is None or len(indices) != len(values):
            raise self._adapter.error(f"the tokens of '{update.module}' do not fit the base")
        rows, columns = _matrix(self._tensors[weight].shape)
        if values.shape[1] != columns or max(indices, default=0) >= rows:
            raise self._misfit(weight, values.shape, (rows, columns))
        positions = np.asarray(indices, dtype=np.int64)
        self._edits.setdefault(weight, []).append(set_rows(positions, values))

    def _weight(self, update: Update) -> str | None:
        """The tensor that an update changes; a tied head becomes a tensor of its own."""
        for leaf in ("weight", "in_proj_weight"):
            name = self._names.find(f"{update.module}.{leaf}")
            if name is not None:
                return name
        head = f"{update.module}.weight"
        if head == self._head and self._embedding is not None:
            if self._adapter.settings.get("ensure_weight_tying"):
                return self._embedding
            self._own_head()
            return head
        return None

    def _own_head(self) -> None:
        """The tied head becomes a tensor of its own, with the embedding's values of the base."""
        assert self._head is not None
        assert self._embedding is not None
        self._sources.setdefault(self._head, self._embedding)
        info = self._base.info(self._embedding)
        self._tensors.setdefault(self._head, TensorInfo(self._head, info.shape, info.dtype))
        self.config_changes["tie_word_embeddings"] = False

    def _untie(self) -> None:
        """Embedding and head go apart where one of them alone was trained.

        Tokens that were trained alone (``trainable_token_indices``) stay tied, as PEFT ties them.
        """
        head, embedding = self._head, self._embedding
        if head is None or embedding is None or head in self._edits:
            return
        if head in self._replaced:
            source = self._replaced if embedding in self._replaced else self._base
            if not np.array_equal(self._replaced.read(head), source.read(embedding)):
                self.config_changes["tie_word_embeddings"] = False
                return
            del self._tensors[head]
        if self._adapter.settings.get("ensure_weight_tying"):
            return
        trained = any(
            self._weight(update) == embedding
            for update in self._adapter.updates
            if not any("trainable_tokens_delta" in part for part in update.parts)
        )
        resized = self._tensors[embedding].shape != self._base.info(embedding).shape
        if (trained or embedding in self._replaced) and not resized:
            self._own_head()

    def _is_transposed(self, update: Update, weight: str, shape: tuple[int, int]) -> bool | None:
        """Whether a weight is stored ``(in, out)``; None where ``shape`` (0: any) does not fit."""
        stored = self._tensors[weight].shape
        rows, columns = _matrix(stored)
        straight = shape[0] in (0, rows) and shape[1] in (0, columns)
        turned = shape[1] in (0, rows) and shape[0] in (0, columns) and len(stored) == 2
        if any("embedding" in part for part in update.parts):
            return True if turned else None
        if straight and turned:
            flag = bool(self._adapter.settings.get("fan_in_fan_out"))
            return self._names.transposed(weight, flag=flag)
        return turned if straight != turned else None

    def _misfit(self, name: str, ours: Sequence[int], theirs: Sequence[int]) -> CheckpointError:
        return self._adapter.error(
            f"the update of '{name}' has shape {tuple(ours)}, the base's tensor {tuple(theirs)}",
            _OTHER_BASE,
        )


_OTHER_BASE = "the adapter belongs to another base"


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tensor seen as a matrix; a vector is one column."""
    if not shape:
        return 1, 1
    return shape[0], math.prod(shape[1:])


def _by_expert(adapter: Adapter, update: Update, delta: Factors, experts: int) -> list[Factors]:
    """The factors of each expert: A holds them one after another, B interleaves them."""
    rank, rest = divmod(len(delta.right), experts)
    if rest:
        raise adapter.error(
            f"the rank of '{update.module}' does not share out to {experts} experts"
        )
    scale = adapter.scale(update, rank)
    up = delta.left.reshape(len(delta.left), rank, experts)
    return [
        Factors(
            np.ascontiguousarray(up[:, :, expert]),
            delta.right[expert * rank : (expert + 1) * rank],
            scale,
        )
        for expert in range(experts)
    ]
