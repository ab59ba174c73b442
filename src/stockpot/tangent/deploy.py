"""Composed models as ordinary modules: state_dict, torch.export, torch.compile, ONNX."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, export

from stockpot.backbones import Backbone, Model
from stockpot.errors import BackboneError, InputError
from stockpot.tangent.composer import Composed, ComposedDelta
from stockpot.tangent.duals import dual_graph
from stockpot.tangent.halves import Caller

if TYPE_CHECKING:
    from stockpot.tangent.statistics.composer import ComposedStatistics

TOLERANCE = 1e-5


class LinearHead(nn.Module):
    """A backbone's features, random projections of them where the map has some, and a linear layer.

    ``head`` is an ``nn.Linear`` without bias, in float64 where there are random projections.
    """

    projection: Tensor | None

    def __init__(
        self, backbone: Backbone, weight: Tensor, projection: Tensor | None, *, plain: bool = True
    ) -> None:
        super().__init__()
        self.plain = plain
        self.featurizer = copy.deepcopy(backbone.module).eval()
        self.register_buffer("projection", projection)
        self.head = nn.Linear(len(weight), weight.shape[1], bias=False, dtype=weight.dtype)
        self.head.weight.data.copy_(weight.T)

    def forward(self, batch: Any) -> Tensor:
        """(N, C)."""
        features: Tensor = self.featurizer(batch)
        if self.projection is not None:
            wide = features.double()
            random = torch.relu(wide @ self.projection)
            features = torch.cat([wide, random], 1) if self.plain else random
        output: Tensor = self.head(features.to(self.head.weight.dtype))
        return output


def deployable(composed: Composed, example: Any) -> nn.Module:
    """A module that computes what ``composed`` predicts, with ordinary operators only.

    ``example``: two prepared inputs or more, as the base takes them; the number of rows, and for
    texts their length, stay free. The module takes one batch and returns (N, C). Its ``state_dict``
    holds the base's weights and, of a linearised model, the deltas. It is compared with
    ``composed.predict`` on ``example`` and on one row of it.

    Raises ``BackboneError`` for an operator that cannot be deployed, or where the outputs differ by
    more than 1e-5 of the largest; ``InputError`` for statistics of sketched gradients, which need a
    gradient for every example (compose with ``StatisticsComposer(..., parts=2)``).
    """
    if isinstance(composed, ComposedDelta):
        module = _linearised(composed, example)
    else:
        module = _statistics(composed)  # type: ignore[arg-type]
    module.eval()
    for rows in (example, _take(example, 1)):
        expected = composed.predict(rows).double()
        with torch.no_grad():
            gap = float((module(rows).double() - expected).abs().max())
        if not gap <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise BackboneError(
                f"the deployed model's outputs differ by {gap:.1e} from the composed one's",
                hint="report the architecture; until then use the composed model itself",
            )
    return module


def _linearised(composed: ComposedDelta, example: Any) -> nn.Module:
    model = composed.model
    whole = model.module.eval()
    graph = _graph(whole if isinstance(whole, Model) else Caller(whole), example)
    inside = {id(parameter): name for name, parameter in graph.named_parameters()}
    tangents = {}
    for name, parameter in model.parameters().items():
        tangents[inside[id(parameter)]] = buffer = "delta_" + name.replace(".", "_")
        graph.register_buffer(buffer, composed.delta[name].to(model.dtype))
    return dual_graph(graph, tangents)


def _graph(module: nn.Module, example: Any) -> fx.GraphModule:
    """Functional ATen operators; rows, and the length of texts, stay free."""
    module = module.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about its own code
        exported = export(module, (example,), dynamic_shapes=(_free(example),), strict=False)
        graph = exported.run_decompositions({}).module()
    assert isinstance(graph, fx.GraphModule)
    return graph


def _free(example: Any) -> Any:
    if isinstance(example, Mapping):
        return {name: _free(value) for name, value in example.items()}
    text = example.ndim == 2 and not example.is_floating_point()
    return {0: Dim.DYNAMIC, 1: Dim.AUTO} if text else {0: Dim.DYNAMIC}


def _statistics(composed: ComposedStatistics) -> nn.Module:
    composer, solution = composed.composer, composed.solution
    backbone, features = composer.backbone, composer.features
    kinds = [features.parts[index] for index in solution.blocks]
    if "tangent" in kinds:
        raise InputError(
            "sketched gradients need a gradient for every example and cannot be deployed",
            hint="compose with parts=2: StatisticsComposer(..., parts=2)",
        )
    blocks = torch.split(solution.weight, list(features.blocks(backbone)))
    weight = torch.cat([blocks[index] for index in solution.blocks])
    if kinds == ["plain"]:
        return LinearHead(backbone, weight.float(), None)
    projection = features.projection(backbone.feature_dim)
    return LinearHead(backbone, weight, projection, plain="plain" in kinds)


def _take(batch: Any, rows: int) -> Any:
    if isinstance(batch, Mapping):
        return {name: value[:rows] for name, value in batch.items()}
    return batch[:rows]
