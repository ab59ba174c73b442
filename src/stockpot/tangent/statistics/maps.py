"""How an example becomes the vector whose second moments are summed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stockpot.backbones import Backbone
from stockpot.errors import InputError
from stockpot.tangent.statistics.sketch import TangentSketch
from stockpot.tasks import named_generator

Kind = Literal["tangent", "random", "plain"]
Features = Callable[[Any], Tensor]


@dataclass(frozen=True)
class FeatureMap:
    """A feature map as data: with the base's weights it says all that phi depends on.

    ``kind``: "tangent" (gradients, see ``TangentSketch``), "random" (ReLU of a random projection of
    the base's features, as in RanPAC, McDonnell et al. 2023, eq. 6) or "plain" (the features
    themselves). ``dimension`` is D; it costs D (D + 1) / 2 float64 numbers per component.
    ``directions`` (J) is for "tangent". No constant is fitted to data: what depended on one shard
    would stay in the others after its removal.
    """

    kind: Kind = "tangent"
    dimension: int = 4096
    directions: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("tangent", "random", "plain"):
            raise InputError(f"feature map: unknown kind {self.kind!r}, expected tangent, ...")
        for name in ("dimension", "directions"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise InputError(f"feature map: {name} is {getattr(self, name)!r}, expected >= 1")

    def to_json(self) -> dict[str, str | int]:
        """The fields that this kind uses."""
        unused = {"random": {"directions"}, "plain": {"directions", "dimension", "seed"}}
        return {k: v for k, v in asdict(self).items() if k not in unused.get(self.kind, set())}

    def size(self, backbone: Backbone) -> int:
        """Length of phi."""
        return backbone.feature_dim if self.kind == "plain" else self.dimension

    def bind(self, backbone: Backbone, device: torch.device | None = None) -> Features:
        """The function from a batch (of ``Feed.batch``) to phi, float64 (N, D), on ``device``.

        The backbone moves there and is set to evaluation mode.
        """
        device = device or torch.device("cpu")
        network = backbone.upper if backbone.upper is not None else backbone.module
        network.to(device).eval()
        if self.kind == "tangent":
            return TangentSketch(
                network,
                backbone.feature_dim,
                dimension=self.dimension,
                directions=self.directions,
                seed=self.seed,
                device=device,
            )

        def plain(batch: Any) -> Tensor:
            with torch.no_grad():
                found: Tensor = network(batch)
            return found.double()

        if self.kind == "plain":
            return plain
        draw = named_generator(self.seed, "random projection")
        matrix = torch.from_numpy(draw.standard_normal((backbone.feature_dim, self.dimension)))
        matrix = matrix.to(device)
        return lambda batch: torch.relu(plain(batch) @ matrix)
