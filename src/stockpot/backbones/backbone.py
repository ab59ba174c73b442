"""A pretrained feature extractor with the names of its base, and the linear head on top."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stockpot.backbones.batchnorm import freeze_statistics
from stockpot.backbones.buffers import all_tensors, changing_buffers, unchanged_buffers
from stockpot.backbones.cut import Activations, Cut, cut_graph, cut_stack, find_stack
from stockpot.backbones.names import adopt, check_shape
from stockpot.backbones.pooling import choose_pooling
from stockpot.backbones.preparation import Preparation, TextPreparation, Transform
from stockpot.backbones.sources import (
    Readout,
    Run,
    Source,
    build_source,
    is_pooler,
    read_tokens,
)
from stockpot.backbones.spec import BackboneSpec
from stockpot.checkpoints.torch_io import load_state
from stockpot.errors import BackboneError
from stockpot.files import digest
from stockpot.tasks import Task

State = dict[str, Tensor]
_CPU = torch.device("cpu")


class Featurizer(nn.Module):
    """Prepared batch -> features (N, D)."""

    def __init__(self, network: nn.Module, run: Run, readout: Readout) -> None:
        super().__init__()
        self.network = network
        self.run = run
        self.readout = readout

    def forward(self, batch: Any) -> Tensor:
        """``batch`` is what ``Backbone.prepare`` returns."""
        mask = batch.get("attention_mask") if isinstance(batch, dict) else None
        return self.readout(self.run(self.network, batch), mask)


class Backbone:
    """A feature extractor whose tensors keep the names they have in the base.

    ``module`` is the whole. With ``freeze_below``, ``trunk`` is what runs before the cut (frozen,
    in evaluation mode) and ``upper`` the trained rest: ``upper(trunk(batch)) == module(batch)``.
    """

    def __init__(
        self, spec: BackboneSpec, source: Source, cut: Cut | None, feature_dim: int
    ) -> None:
        self.spec = spec
        self.network = source.network
        self.module = Featurizer(source.network, source.run, source.readout)
        self.trunk = cut.trunk if cut else None
        self.upper = cut.upper if cut else None
        self.preparation: Preparation = source.preparation
        self.feature_dim = feature_dim
        self.folder = source.folder
        self._source = source
        names = [name for name, _ in self.network.named_parameters()]
        if cut is not None:
            names = [name for name in names if name in cut.trainable]
        else:
            names = _without_pooler(names, spec)
        self.trainable = frozenset(names)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in self.trainable)
        self.network.eval()
        self._buffers = {name: buffer.shape for name, buffer in self.network.named_buffers()}
        self._changing = changing_buffers(
            self.network,
            frozen_batchnorm=spec.batchnorm == "frozen",
            above=cut.buffers if cut else None,
        )
        self._base = self.trainable_state()

    @property
    def modality(self) -> str:
        """What it takes: "text", "image", or "array" (a function whose input is no RGB image)."""
        if isinstance(self.preparation, TextPreparation):
            return "text"
        shape = self._source.example_shape
        return "array" if shape is not None and (len(shape) != 3 or shape[0] != 3) else "image"

    def reset(self) -> None:
        """Back to the weights and buffers that were loaded first."""
        self.load(self._base)

    def check_takes(self, task: Task) -> None:
        """Raise ``BackboneError`` unless it takes what the task has: texts, or arrays."""
        if (self.modality == "text") != (task.modality == "text"):
            raise BackboneError(
                f"backbone '{self.spec.name}' takes {self.modality} inputs, "
                f"task '{task.name}' has {task.modality} inputs"
            )

    def prepare(
        self, raw: Any, device: torch.device = _CPU, transform: Transform | None = None
    ) -> Any:
        """Raw inputs of a task (texts, uint8 images (N, H, W, 3), float arrays) as model input."""
        encoded = self.preparation.encode(raw)
        return self.preparation.batch(encoded, np.arange(len(encoded)), device, transform)

    def example(self) -> Any:
        """A prepared batch of two inputs of the model's own size; None where that is unknown."""
        return _example_batch(self._source, None)

    def state(self, trained: Mapping[str, Tensor] | None = None) -> State:
        """What a checkpoint of this network holds, under its original names, as copies on the CPU.

        ``trained`` replaces tensors, also where the network knows them under a second name.
        """
        own = all_tensors(self.network)
        given = {id(own[name]): tensor for name, tensor in (trained or {}).items()}
        return {
            name: given.get(id(own[name]), own[name]).detach().cpu().clone()
            for name in self.network.state_dict()
        }

    def changed_buffers(self, state: Mapping[str, Tensor]) -> State:
        """Of ``state``, the buffers that no checkpoint holds and that differ from the base's."""
        return {
            name: tensor
            for name, tensor in state.items()
            if name in self.transient and not torch.equal(tensor, self._base[name])
        }

    def trainable_names(self) -> list[str]:
        """Names of what training can change: parameters above the cut, and every buffer there but
        those of frozen BatchNorm (see ``buffers.py``)."""
        names = [name for name, _ in self.network.named_parameters() if name in self.trainable]
        return names + self._changing

    @cached_property
    def transient(self) -> frozenset[str]:
        """Buffers that training can change and that a checkpoint of this network does not hold."""
        return frozenset(self._changing) - self.network.state_dict().keys()

    def trainable_state(self) -> State:
        """Copies of what training can change, on the CPU.

        Raises ``BackboneError`` naming a buffer that came, went or took another shape since the
        base was loaded: such buffers cannot be averaged.
        """
        now = {name: buffer.shape for name, buffer in self.network.named_buffers()}
        for name in now.keys() | self._buffers.keys():
            if now.get(name) != self._buffers.get(name):
                raise BackboneError(
                    f"the backbone's buffer '{name}' does not keep its shape in training",
                    hint="register it with the shape that it has in the end",
                )
        return {name: _copy(tensor) for name, tensor in self.trainable_tensors().items()}

    def trainable_tensors(self) -> State:
        """The tensors that training can change themselves, by name."""
        tensors = all_tensors(self.network)
        return {name: tensors[name] for name in self.trainable_names()}

    def changing(self) -> State:
        """The buffers that training can change themselves, by name."""
        tensors = all_tensors(self.network)
        return {name: tensors[name] for name in self._changing}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over the tensors in ``state``; names it lacks stay as they are.

        With ``freeze_below``, tensors below the cut are passed over: what the trunk computes may be
        cached already. Raises ``BackboneError`` for an unknown name or another shape.
        """
        own = all_tensors(self.network)
        taken = set(self.trainable_names()) if self.trunk is not None else set(own)
        for name, tensor in state.items():
            if name not in own:
                raise BackboneError(
                    f"the backbone has no tensor '{name}'",
                    hint="these weights belong to another architecture",
                )
            check_shape(name, tensor, own[name], "weights")
        for name, tensor in state.items():
            if name in taken:
                own[name].copy_(tensor)

    def adopt(self, state: Mapping[str, Tensor], source: str = "the weights") -> State:
        """Weights from the wild under this backbone's names, reduced to what is trained.

        A wrapper's prefix ('bert.', 'module.', ...) and old heads go. Every trained parameter must
        be there; of buffers that training can change those that are there are taken. With
        ``freeze_below`` only tensors above the cut are taken: the trunk stays the base's. Frozen
        BatchNorm's running statistics stay the base's as well.
        """
        names = self.trainable_names()
        parameters = [name for name in names if name in self.trainable]
        found = adopt(state, self.network.state_dict(), required=parameters, source=source)
        return {name: found[name] for name in names if name in found}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights as loaded and of how inputs are prepared."""
        return self._hash(list(self.network.state_dict()))

    @cached_property
    def trunk_fingerprint(self) -> str:
        """SHA-256 of what determines the activations at the cut."""
        taken = set(self.trainable_names())
        return self._hash([name for name in self.network.state_dict() if name not in taken])

    def _hash(self, names: list[str]) -> str:
        tensors = self.network.state_dict()
        found = hashlib.sha256()
        for name in sorted(names):
            array = np.ascontiguousarray(tensors[name].detach().cpu().numpy())
            found.update(f"{name} {array.dtype} {array.shape}\n".encode())
            found.update(array.tobytes())
        spec = self.spec.model_dump(mode="json", exclude={"name", "weights"})
        return digest({"spec": spec, "weights": found.hexdigest()})

    def train(self, mode: bool = True) -> None:
        """Training mode for what is trained; trunk and frozen BatchNorm stay in evaluation mode."""
        self.network.train(mode)
        for part in (self.module, self.upper):
            if part is not None:
                part.train(mode)
        if self.trunk is not None:
            self.trunk.training = False
            self._calm_trunk()
        if self.spec.batchnorm == "frozen":
            freeze_statistics(self.network)

    def _calm_trunk(self) -> None:
        """Modules without trained parameters, BatchNorm and dropout below the cut above all."""
        assert self.upper is not None
        above = set(self.upper.modules())
        for module in self.network.modules():
            if module not in above:
                module.training = False


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _without_pooler(names: list[str], spec: BackboneSpec) -> list[str]:
    """Without the layers of transformers' models that only ``pooling: pooler`` reads."""
    if spec.kind != "transformers" or spec.pooling == "pooler":
        return names
    return [name for name in names if not is_pooler(name)]


def load_backbone(spec: BackboneSpec, *, root: Path | None = None, example: Any = None) -> Backbone:
    """Build a backbone and load its weights.

    ``root`` is the folder at which relative paths start, by default the current one. ``example``
    holds raw inputs of the task, from which the feature dimension is found and, with
    ``freeze_below``, that trunk and upper part together equal the whole; without it an input of the
    model's own size is made up.
    Raises ``BackboneError`` naming what cannot be built, loaded or cut.
    """
    root = root or Path()
    source = build_source(spec, root)
    if spec.weights is not None:
        path = root / Path(spec.weights).expanduser()
        if not path.exists():
            raise BackboneError(f"there is no weights file {path}")
        given = load_state(path)
        own = source.network.state_dict()
        required = [name for name, _ in source.network.named_parameters()]
        required = _without_pooler(required, spec)
        found = adopt(given, own, required=required, source=str(path))
        source.network.load_state_dict(found, strict=False)
    elif lacking := _without_pooler(list(source.missing), spec):
        raise BackboneError(
            f"the weights of '{spec.name}' lack '{lacking[0]}', which its config asks for",
            hint="it would be drawn at random, and averages need one base",
        )
    source.network.eval()
    if any(parameter.ndim == 4 for parameter in source.network.parameters()):
        source.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = _example_batch(source, example)
    if spec.kind == "transformers" and spec.pooling == "auto":
        pooling = choose_pooling(source, _example_batch(source, None))
        spec = spec.model_copy(update={"pooling": pooling})
        source = replace(source, readout=functools.partial(read_tokens, pooling=pooling))
    whole = Featurizer(source.network, source.run, source.readout)
    with torch.no_grad(), unchanged_buffers(source.network):
        features = whole(batch) if batch is not None else None
    dimension = int(features.shape[1]) if features is not None else source.feature_dim
    if dimension is None:
        raise BackboneError(
            f"backbone '{spec.name}': the number of features is unknown",
            hint="give the network an attribute feature_dim or input_shape, or for images set "
            "image_size",
        )
    if isinstance(source.preparation, TextPreparation):
        spec = spec.model_copy(update={"max_length": source.preparation.max_length})
    pooled = spec.pooling == "pooler"
    with unchanged_buffers(source.network):
        cut = _cut(spec.freeze_below, source, batch, pooled=pooled) if spec.freeze_below else None
        if cut is not None and features is not None:
            _check_cut(cut, batch, features, spec.freeze_below or "")
    return Backbone(spec, source, cut, dimension)


def _example_batch(source: Source, example: Any) -> Any:
    preparation = source.preparation
    if example is not None:
        encoded = preparation.encode(example)
        return preparation.batch(encoded, np.arange(min(2, len(encoded))), _CPU)
    if isinstance(preparation, TextPreparation):
        texts = ["a short one", "a text that is quite a bit longer than that"]
        return preparation.batch(preparation.encode(texts), np.arange(2), _CPU)
    if source.example_shape is None:
        return None
    generator = torch.Generator().manual_seed(0)
    return torch.randn((2, *source.example_shape), generator=generator)


def _cut(name: str, source: Source, batch: Any, *, pooled: bool) -> Cut:
    stack = find_stack(source.network, name)
    if stack is None:
        return cut_graph(source.network, name, readout=source.readout)
    return cut_stack(
        source.network,
        *stack,
        run=source.run,
        readout=source.readout,
        example=batch,
        pooled=pooled,
    )


def _check_cut(cut: Cut, batch: Any, features: Tensor, name: str) -> None:
    with torch.no_grad():
        crossing = cut.trunk(batch)
        assert isinstance(crossing, Activations)
        again = cut.upper(crossing)
    scale = float(features.abs().max()) or 1.0
    worst = float((again - features).abs().max()) / scale
    if not worst < 1e-4:
        raise BackboneError(
            f"freeze_below '{name}': the halves differ from the whole by {worst:.1e} (relative)",
            hint="name a module whose only input is the result of what runs before it",
        )
