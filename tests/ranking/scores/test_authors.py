"""The numbers that the authors' own code gives on the same data.

Printed by the functions that ``benchmarks/scores.py`` reads out of their repositories (commits are
named there), with an exact PCA in place of a randomised one.
"""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.ranking.scores import compute
from stockpot.ranking.scores.etran import nearest_mean
from stockpot.ranking.scores.logme import Normal, fixed_point
from stockpot.ranking.scores.spectrum import Spectrum
from stockpot.ranking.scores.workspace import Workspace

from .worlds import world

THEIRS = {
    "logme": -0.34627054542829705,
    "hscore": 3.04497111797913,
    "reg_hscore": 1.7308696540815434,
    "transrate": 138.23638777730227,
    "sfda": 0.6564655907722371,
    "leep": -1.235522403068955,
    "nce": -1.0148224011302651,
    "ncti": 0.8952869299673926,
    "pactran_dirichlet": -0.19300853985620947,
    "pactran_gamma": -1.1918494498954675,
    "parc": 9.850825262746687,
}


@pytest.fixture(scope="module")
def evidence():
    return world(rows=240, width=72, classes=6, apart=0.25, dtype=np.float64)


@pytest.mark.parametrize("name", list(THEIRS))
def test_value_is_theirs(name, evidence):
    assert compute([name], evidence)[name].value == pytest.approx(THEIRS[name], rel=1e-9)


def test_parts_are_theirs(evidence):
    assert nearest_mean(Workspace(evidence)) == pytest.approx(0.7503984824357908, rel=1e-9)
    energy = compute(["etran"], evidence)["etran"].details["energy"]
    assert energy == pytest.approx(4.934837139642361, rel=1e-9)
    details = compute(["ncti"], evidence)["ncti"].details
    assert details["span"] == pytest.approx(121.08066310050991, rel=1e-9)
    assert details["spread"] == pytest.approx(3.8793854902086338, rel=1e-9)


def test_the_optimum_is_near_where_theirs_stops(evidence):
    """After 100 rounds from a random start; ours goes on until it has converged."""
    value = compute(["pactran"], evidence)["pactran"].value
    assert value == pytest.approx(-9.546206263068147, rel=1e-4)


def test_tllib_stops_the_fixed_point_earlier(evidence):
    x, y = evidence.features, np.eye(6)[evidence.targets]
    spectrum = Spectrum(np.asfortranarray(x.T @ x))
    problem = Normal(spectrum, x.T @ y, y.sum(axis=0), np.zeros(72))
    fit = fixed_point(problem, 6, 240, tolerance=0.01, epsilon=0.0)
    assert fit.evidence.mean() == pytest.approx(-0.34627196914551034, rel=1e-9)
