"""The composer that a recipe asks for."""

from __future__ import annotations

from collections.abc import Sequence

from stockpot.backbones import Backbone
from stockpot.tangent.composer import AverageComposer, Composer
from stockpot.tangent.linear import TangentModel
from stockpot.tangent.recipe import Composition
from stockpot.tangent.statistics import FeatureMap, StatisticsComposer


def make_composer(
    wanted: Composition, model: TangentModel, backbone: Backbone, classes: Sequence[str]
) -> Composer:
    """A composer of deltas on ``model``, or of statistics on ``backbone``."""
    if wanted.kind == "average":
        return AverageComposer(model, classes)
    return statistics_composer(wanted, backbone, classes)


def statistics_composer(
    wanted: Composition, backbone: Backbone, classes: Sequence[str]
) -> StatisticsComposer:
    """A composer of statistics as a recipe describes it."""
    features = FeatureMap(
        wanted.features, wanted.dimension, wanted.directions, wanted.seed, wanted.random_dimension
    )
    return StatisticsComposer(
        backbone, features, classes, solver=wanted.solver, penalty=wanted.penalty
    )
