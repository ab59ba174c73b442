"""A key of the composer that nothing reads is refused."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from stockpot.tangent.recipe import FEATURE_KEYS, Composition
from stockpot.tangent.statistics.maps import FeatureMap, Kind

VALUES: dict[str, Any] = {
    "dimension": 7, "random_dimension": 7, "directions": 2, "seed": 3, "penalty": 0.1, "blocks": 3,
}  # fmt: skip
STATISTICS: dict[str, Any] = {"kind": "statistics"}


@pytest.mark.parametrize("features", get_args(Kind))
def test_the_keys_are_those_of_the_map(features: Kind) -> None:
    assert FEATURE_KEYS[features] | {"kind"} == FeatureMap(features).uses


@pytest.mark.parametrize("key", VALUES)
@pytest.mark.parametrize("solver", ["ridge", "means"])
@pytest.mark.parametrize("features", get_args(Kind))
def test_a_key_is_read_or_refused(features: Kind, solver: str, key: str) -> None:
    given = {**STATISTICS, "features": features, "solver": solver, key: VALUES[key]}
    reads = {"blocks"} | FEATURE_KEYS[features] | ({"penalty"} if solver == "ridge" else set())
    if key in reads:
        assert getattr(Composition.model_validate(given), key) == VALUES[key]
    else:
        with pytest.raises(ValidationError, match=f"'{key}' has no effect beside"):
            Composition.model_validate(given)


@pytest.mark.parametrize("key", ["features", "solver", *VALUES])
def test_averages_take_no_key_of_statistics(key: str) -> None:
    value = VALUES.get(key, {"features": "plain", "solver": "means"}.get(key))
    with pytest.raises(ValidationError, match=f"'{key}' has no effect beside 'kind: average'"):
        Composition.model_validate({key: value})
