"""How an example becomes the vector whose second moments are summed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from stockpot.backbones import Backbone
from stockpot.errors import InputError
from stockpot.tangent.statistics.sketch import TangentSketch, one_by_one
from stockpot.tasks import named_generator

Kind = Literal["joined", "tangent", "random", "plain"]
Features = Callable[[Any], Tensor]


@dataclass(frozen=True)
class FeatureMap:
    """A feature map as data: with the base's weights it says all that phi depends on.

    ``kind``: "plain" (the base's features z), "random" (relu(z R) with R from N(0, 1), as in
    RanPAC, McDonnell et al. 2023, eq. 6), "tangent" (sketched gradients, see ``TangentSketch``), or
    "joined": the three beside each other in this order, so that a ridge regression on them can do
    what one on any of the first blocks alone can do. ``dimension`` is the length of the sketch and
    ``random_dimension`` of the random features; a component costs D (D + 1) / 2 float64 numbers
    where D is the length of all. ``directions`` (J) is for the sketch. No constant is fitted to
    data: what depended on one shard would stay in the others after its removal.
    """

    kind: Kind = "joined"
    dimension: int = 2048
    directions: int = 4
    seed: int = 0
    random_dimension: int = 2048

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(
                f"feature map: unknown kind {self.kind!r}",
                hint=f"one of {', '.join(get_args(Kind))}",
            )
        for name in ("dimension", "directions", "random_dimension"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise InputError(f"feature map: {name} is {getattr(self, name)!r}, expected >= 1")

    @property
    def parts(self) -> tuple[Kind, ...]:
        """The kinds that phi consists of, in its order."""
        return ("plain", "random", "tangent") if self.kind == "joined" else (self.kind,)

    @property
    def uses(self) -> set[str]:
        """The fields that this kind depends on."""
        return {"kind"} | {field for part in self.parts for field in _USES[part]}

    def to_json(self) -> dict[str, str | int]:
        """The fields that this kind uses."""
        return {name: value for name, value in asdict(self).items() if name in self.uses}

    def blocks(self, backbone: Backbone) -> tuple[int, ...]:
        """Lengths of the parts of phi."""
        lengths = {
            "plain": backbone.feature_dim,
            "random": self.random_dimension,
            "tangent": self.dimension,
        }
        return tuple(lengths[part] for part in self.parts)

    def size(self, backbone: Backbone) -> int:
        """Length of phi."""
        return sum(self.blocks(backbone))

    def bind(
        self,
        backbone: Backbone,
        device: torch.device | None = None,
        *,
        only: Sequence[int] | None = None,
    ) -> Features:
        """The function from a batch (of ``Feed.batch``) to phi, float64 (N, D), on ``device``.

        The backbone moves there and is set to evaluation mode. ``only``: positions of the parts of
        phi that are computed.
        """
        device = device or torch.device("cpu")
        network = backbone.upper if backbone.upper is not None else backbone.module
        network.to(device).eval()
        parts = tuple(self.parts[index] for index in only) if only is not None else self.parts
        sketch = matrix = None
        if "tangent" in parts:
            sketch = TangentSketch(
                network,
                backbone.feature_dim,
                dimension=self.dimension,
                directions=self.directions,
                seed=self.seed,
                device=device,
            )
        if "random" in parts:
            matrix = self.projection(backbone.feature_dim).to(device)

        def phi(batch: Any) -> Tensor:
            made = []
            if parts != ("tangent",):
                with torch.no_grad():
                    plain = one_by_one(batch, network).double()
            if "plain" in parts:
                made.append(plain)
            if matrix is not None:
                made.append(torch.relu(plain @ matrix))
            if sketch is not None:
                made.append(sketch(batch))
            return torch.cat(made, 1)

        return phi

    def projection(self, feature_dim: int) -> Tensor:
        """R, float64 (d, random_dimension)."""
        draw = named_generator(self.seed, "random projection")
        return torch.from_numpy(draw.standard_normal((feature_dim, self.random_dimension)))


_USES: dict[Kind, tuple[str, ...]] = {
    "plain": (),
    "random": ("random_dimension", "seed"),
    "tangent": ("dimension", "directions", "seed"),
}
