"""MonoSoup by itself, on spectra that are known, and on top of other methods."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.errors import MethodError
from stockpot.merging import merge
from stockpot.merging.method import get_method
from stockpot.merging.methods.monosoup import coefficients
from stockpot.merging.testing import MethodCase, contract

from .references import REFERENCES
from .references.matrices import monosoup_update


def on_top(reference):
    """MonoSoup of what another reference gives."""

    def edited(base, models, **values):
        merged = reference(base, models, **values)
        return {
            name: theta_0
            + (
                monosoup_update((merged[name] - theta_0).reshape(len(theta_0), -1)).reshape(
                    theta_0.shape
                )
                if theta_0.ndim >= 2
                else merged[name] - theta_0
            )
            for name, theta_0 in base.items()
        }

    return edited


def averaged(base, models, **values):
    return REFERENCES["linear"](base, models, **values)


SUBJECTS = [
    MethodCase("monosoup+linear", {}, on_top(averaged)),
    MethodCase("monosoup+ties", {"scope": "model"}, on_top(REFERENCES["ties"])),
    MethodCase("monosoup+breadcrumbs", {}, on_top(REFERENCES["breadcrumbs"])),
    MethodCase("monosoup+tsv", {}, on_top(REFERENCES["tsv"])),
]
CASES = [
    pytest.param(subject, check, id=f"{subject.name}-{check.__name__}")
    for subject in SUBJECTS
    for check in contract(subject)
]


@pytest.mark.parametrize(("subject", "check"), CASES)
def test_on_top_of_another_method(subject, check):
    check(subject)


def test_a_flat_spectrum_is_all_strong():
    rank, high, low = coefficients(np, np.ones(5))
    assert (rank, high, low) == (5, 1.0, 0.0)


def test_of_one_direction_nothing_is_taken():
    rank, high, low = coefficients(np, np.array([3.0, 0.0, 0.0]))
    assert (rank, high, low) == (1, 1.0, 0.0)


def test_two_unequal_values_by_hand():
    # p = 4/5, 1/5: entropy .5004, effective rank 1.65, so both are strong.
    assert coefficients(np, np.array([4.0, 1.0]))[0] == 2
    # 9 : 1 : 1: p = 9/11, 1/11, 1/11, effective rank 1.82: the third is weak.
    rank, high, low = coefficients(np, np.array([9.0, 1.0, 1.0]))
    assert rank == 2
    decay, cosine = (1 / 9) ** 2, np.sqrt(1 / 83)
    assert low == pytest.approx(decay + (1 - decay) * cosine)
    assert high == pytest.approx(1 - low)


def test_one_checkpoint_is_enough_and_two_are_refused():
    base = {"w": np.zeros((2, 2), dtype=np.float32)}
    model = {"w": np.diag([3.0, 3.0]).astype(np.float32)}
    merged = merge([model], method="monosoup", base=base).state["w"]
    np.testing.assert_allclose(merged, model["w"], atol=1e-6)
    with pytest.raises(MethodError, match="takes 1 models"):
        merge([model, model], method="monosoup", base=base)


@pytest.mark.parametrize("name", ["monosoup+emr", "monosoup+monosoup", "monosoup+lines+monosoup"])
def test_packed_models_and_its_own_result_are_refused(name):
    with pytest.raises(MethodError, match="'monosoup' cannot change"):
        get_method(name)
