"""Contributions that can be added, scaled, subtracted and forgotten: models linear in their deltas.

Liu & Soatto, "Tangent Model Composition for Ensembling and Continual Fine-tuning", ICCV 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.extras import lazily

if TYPE_CHECKING:
    from stockpot.tangent import statistics
    from stockpot.tangent.checks import check_linearisation
    from stockpot.tangent.component import Component
    from stockpot.tangent.composer import AverageComposer, Composed, Composer
    from stockpot.tangent.deploy import deployable
    from stockpot.tangent.feeds import TensorFeed, cache_trunk
    from stockpot.tangent.fitting import train_component
    from stockpot.tangent.forgetting.certificate import AuditData, certify, outputs
    from stockpot.tangent.forgetting.run import forget, verify
    from stockpot.tangent.forgetting.schema import Certificate
    from stockpot.tangent.head import draw_head, save_head
    from stockpot.tangent.linear import TangentModel
    from stockpot.tangent.run import check, plan_recipe, train
    from stockpot.tangent.schema import CompositionScores, TangentResults
    from stockpot.tangent.settings import TangentSettings
    from stockpot.tangent.statistics.composer import StatisticsComposer
    from stockpot.tangent.statistics.maps import FeatureMap
    from stockpot.tangent.summing import aggregate, from_arrays, to_arrays
    from stockpot.tangent.verbs import compose, evaluate, show

__all__ = [
    "AuditData",
    "AverageComposer",
    "Certificate",
    "Component",
    "Composed",
    "Composer",
    "CompositionScores",
    "FeatureMap",
    "StatisticsComposer",
    "TangentModel",
    "TangentResults",
    "TangentSettings",
    "TensorFeed",
    "aggregate",
    "cache_trunk",
    "certify",
    "check",
    "check_linearisation",
    "compose",
    "deployable",
    "draw_head",
    "evaluate",
    "forget",
    "from_arrays",
    "outputs",
    "plan_recipe",
    "save_head",
    "show",
    "statistics",
    "to_arrays",
    "train",
    "train_component",
    "verify",
]

__getattr__ = lazily(
    __name__,
    {
        "checks": "check_linearisation",
        "component": "Component",
        "composer": "AverageComposer Composed Composer",
        "deploy": "deployable",
        "feeds": "TensorFeed cache_trunk",
        "fitting": "train_component",
        "forgetting.certificate": "AuditData certify outputs",
        "forgetting.run": "forget verify",
        "forgetting.schema": "Certificate",
        "head": "draw_head save_head",
        "linear": "TangentModel",
        "run": "check plan_recipe train",
        "settings": "TangentSettings",
        "statistics": "",
        "statistics.composer": "StatisticsComposer",
        "statistics.maps": "FeatureMap",
        "summing": "aggregate from_arrays to_arrays",
        "schema": "CompositionScores TangentResults",
        "verbs": "compose evaluate show",
    },
)
