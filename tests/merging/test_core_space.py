"""Core Space: exact for methods that add up, a method's own formula on the cores for the others."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.checkpoints.adapters import Factors
from stockpot.errors import MethodError
from stockpot.merging.core_space import core, merged_cores, reference_bases

from .methods.references import REFERENCES

ROWS, COLUMNS = 14, 9


def adapters(count=3, rank=2, rows=ROWS, columns=COLUMNS, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Factors(rng.standard_normal((rows, rank)), rng.standard_normal((rank, columns)), 0.5 + i)
        for i in range(count)
    ]


@pytest.mark.parametrize(("rows", "columns"), [(14, 9), (3, 20), (20, 4)])
def test_every_update_is_its_core_in_the_common_bases(rows, columns):
    factors = adapters(rows=rows, columns=columns)
    left, right = reference_bases(factors)
    assert left.shape == (rows, min(rows, 6))
    assert right.shape == (min(columns, 6), columns)
    np.testing.assert_allclose(left.T @ left, np.eye(left.shape[1]), atol=1e-12)
    np.testing.assert_allclose(right @ right.T, np.eye(len(right)), atol=1e-12)
    for each in factors:
        np.testing.assert_allclose(left @ core(each, left, right) @ right, each.whole(), atol=1e-12)


@pytest.mark.parametrize(
    ("method", "parameters", "weights"),
    [
        ("linear", {}, [1 / 3, 1 / 3, 1 / 3]),
        ("linear", {"weights": [1.0, 2.0, 1.0]}, [0.25, 0.5, 0.25]),
        ("task_arithmetic", {"scale": 0.3, "weights": [1.0, -1.0, 0.5]}, [0.3, -0.3, 0.15]),
    ],
)
def test_what_adds_up_is_the_merge_of_the_whole_updates(method, parameters, weights):
    factors = adapters()
    up, down, error = merged_cores({"layer": factors}, method, parameters)["layer"]
    expected = sum(w * f.whole() for w, f in zip(weights, factors, strict=True))
    np.testing.assert_allclose(up @ down, expected, atol=1e-12)
    assert error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("ties", {"density": 0.4, "scale": 1.0}),
        ("tsv", {"scale": 1.0}),
        ("iso_c", {"scale": 1.3}),
        ("magmax", {"scale": 0.5}),
    ],
)
def test_other_methods_are_their_formula_on_the_cores(method, parameters):
    from stockpot.merging.method import get_method

    factors = adapters()
    up, down, _ = merged_cores({"layer": factors}, method, parameters)["layer"]
    left, right = reference_bases(factors)
    name = "layer.weight"
    cores = [{name: core(f, left, right)} for f in factors]
    resolved = get_method(method).resolve(dict(parameters), models=len(factors))
    zero = {name: np.zeros_like(cores[0][name])}
    expected = REFERENCES[method](zero, cores, **resolved)[name]
    np.testing.assert_allclose(up @ down, left @ expected @ right, atol=1e-10)


def test_iso_in_core_space_is_iso_on_the_whole_updates_up_to_the_mean_of_fewer_values():
    """Singular values of a core are those of the update, without its zeros."""
    factors = adapters(rows=6, columns=6)
    up, down, _ = merged_cores({"layer": factors}, "iso_c", {"scale": 1.0})["layer"]
    u, s, vt = np.linalg.svd(sum(f.whole() for f in factors))
    np.testing.assert_allclose(up @ down, s.mean() * u @ vt, atol=1e-10)


def test_an_adapter_that_leaves_a_module_alone_counts_as_no_change():
    one, two = adapters(2)
    updates = merged_cores({"a": [one, two], "b": [one, None]}, "linear", {})
    up, down, _ = updates["b"]
    np.testing.assert_allclose(up @ down, one.whole() / 2, atol=1e-12)


def test_the_cut_is_the_best_of_its_rank_and_its_error_is_told():
    factors = adapters()
    up, down, error = merged_cores({"a": factors}, "task_arithmetic", {}, rank=2)["a"]
    u, s, vt = np.linalg.svd(sum(f.whole() for f in factors))
    np.testing.assert_allclose(up @ down, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-10)
    assert up.shape[1] == 2
    assert error == pytest.approx(np.linalg.norm(s[2:]) / np.linalg.norm(s))
    within = merged_cores({"a": factors}, "task_arithmetic", {}, error=0.2)["a"]
    assert within[2] <= 0.2


@pytest.mark.parametrize(
    ("method", "problem"), [("regmean", "statistics"), ("emr", "packs"), ("fisher", "statistics")]
)
def test_methods_that_need_more_are_refused(method, problem):
    with pytest.raises(MethodError, match=problem):
        merged_cores({"a": adapters()}, method, {})
