"""Backbone, dropout and linear head as one trainable module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stockpot.backbones.backbone import Backbone, State
from stockpot.backbones.cut import Activations
from stockpot.backbones.names import check_shape
from stockpot.errors import BackboneError

PREFIX = "featurizer."
BUFFER = "buffer."


class Model(nn.Module):
    """Featurizer, dropout, linear head: (N, ...) -> (N, n_outputs).

    The head starts at zero, so that an untrained model says nothing; a linear probe replaces it.
    """

    def __init__(self, backbone: Backbone, n_outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.featurizer = backbone.module
        self.upper = backbone.upper
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.feature_dim, n_outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, batch: Any) -> Tensor:
        """(N, D). ``batch`` is a prepared batch, or activations at the cut."""
        if not isinstance(batch, Activations):
            features: Tensor = self.featurizer(batch)
            return features
        if self.upper is None:
            raise BackboneError(
                "activations at a cut were given to a backbone without freeze_below"
            )
        above: Tensor = self.upper(batch)
        return above

    def forward(self, batch: Any) -> Tensor:
        """Logits or values, (N, n_outputs)."""
        logits: Tensor = self.head(self.dropout(self.features(batch)))
        return logits

    def train(self, mode: bool = True) -> Model:
        """As ``nn.Module.train``; frozen parts stay in evaluation mode."""
        super().train(mode)
        self.backbone.train(mode)
        return self

    def state(self) -> State:
        """Copies of all that training can change: 'featurizer.<base's name>', 'head.weight',
        'head.bias', and 'buffer.<name>' for buffers that a checkpoint of the base does not hold.
        """
        state = {
            self._prefix(name) + name: t for name, t in self.backbone.trainable_state().items()
        }
        for name, tensor in self.head.state_dict().items():
            state[f"head.{name}"] = tensor.detach().cpu().clone()
        return state

    def live(self) -> State:
        """The tensors themselves, named as in ``state``."""
        state = {self._prefix(n) + n: t for n, t in self.backbone.trainable_tensors().items()}
        return state | {f"head.{name}": t for name, t in self.head.named_parameters()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor], *, partial: bool = False) -> None:
        """Take over tensors named as in ``state()``; with ``partial`` some may be missing.

        Raises ``BackboneError`` for a missing or unknown name and for another shape.
        """
        names = [self._prefix(name) + name for name in self.backbone.trainable_names()]
        names += [f"head.{name}" for name, _ in self.head.named_parameters()]
        missing = [name for name in names if name not in state]
        if missing and not partial:
            raise BackboneError(
                f"tensor '{missing[0]}' is missing ({len(missing)} of {len(names)} are)"
            )
        self.backbone.load(backbone_part(state))
        own = self.head.state_dict()
        for name, tensor in state.items():
            if name.startswith((PREFIX, BUFFER)):
                continue
            key = name.removeprefix("head.")
            if not name.startswith("head.") or key not in own:
                raise BackboneError(f"a model has no tensor '{name}'")
            check_shape(name, tensor, own[key], "weights")
            own[key].copy_(tensor)

    @torch.no_grad()
    def set_head(self, weight: Any, bias: Any) -> None:
        """Replace the head: weight (n_outputs, D) and bias (n_outputs,), arrays or tensors."""
        self.load_state(
            {"head.weight": torch.as_tensor(weight), "head.bias": torch.as_tensor(bias)},
            partial=True,
        )

    def is_weight(self, name: str) -> bool:
        """Whether a name of ``state()`` is a parameter's, and not a buffer's."""
        prefix, _, rest = name.partition(".")
        return prefix == "head" or (f"{prefix}." == PREFIX and rest in self.backbone.trainable)

    def _prefix(self, name: str) -> str:
        return BUFFER if name in self.backbone.transient else PREFIX

    def trained_parameters(self, *, head_only: bool = False) -> list[nn.Parameter]:
        """Parameters an optimizer gets, in the order of their names in the network."""
        head = list(self.head.parameters())
        if head_only:
            return head
        return [p for p in self.backbone.network.parameters() if p.requires_grad] + head


def backbone_part(state: Mapping[str, Tensor]) -> State:
    """What a state of ``Model.state`` holds of the backbone, under the network's own names."""
    return {
        name.partition(".")[2]: tensor
        for name, tensor in state.items()
        if name.startswith((PREFIX, BUFFER))
    }
