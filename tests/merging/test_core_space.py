"""Core Space: exact for methods that add up, a method's own formula on the cores for the others."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.checkpoints import write_checkpoint
from stockpot.checkpoints.adapters import Factors, read_adapter
from stockpot.errors import MethodError
from stockpot.merging.core_space import core, merged_cores, reference_bases

from .methods.references import REFERENCES
from .test_command import invoke

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


# --------------------------------------------------------------------------------- adapters on disk
def test_the_command_merges_adapters_by_a_method_in_core_space(tmp_path):
    from .test_adapters import make, update

    one, two = make(tmp_path, 1), make(tmp_path, 2, targets=["first"])
    base = tmp_path / "base.safetensors"
    arguments = (one, two, "-m", "ties", "-b", base, "-s", "density=0.5", "--rank", "4")
    done = invoke(*arguments, "-o", tmp_path / "core")
    assert done.exit_code == 0, done.output
    assert "2 updates by ties in Core Space" in done.stdout
    own = [read_adapter(folder).factors for folder in (one, two)]
    modules = {module: [f.get(module) for f in own] for module in ("first", "second")}
    for module, (up, down, _) in merged_cores(modules, "ties", {"density": 0.5}, 4).items():
        got = update(tmp_path / "core", module)
        np.testing.assert_allclose(got, up @ down, rtol=1e-4, atol=1e-5)
    assert invoke(*arguments, "-o", tmp_path / "whole", "--space", "weights").exit_code == 0
    assert not np.allclose(update(tmp_path / "whole", "first"), update(tmp_path / "core", "first"))
    # No base is needed, and what adds up is the same in both spaces.
    for folder, space in (("a", ("--space", "core")), ("b", ("--space", "weights", "-b", base))):
        done = invoke(one, two, "-m", "linear", "--rank", "4", *space, "-o", tmp_path / folder)
        assert done.exit_code == 0, done.output
    for module in ("first", "second"):
        np.testing.assert_allclose(
            update(tmp_path / "a", module), update(tmp_path / "b", module), rtol=1e-4, atol=1e-5
        )


def test_core_space_of_what_is_no_adapter_is_refused(tmp_path):
    model = tmp_path / "model.safetensors"
    write_checkpoint(model, {"a.weight": np.ones((2, 2), dtype=np.float32)})
    for given, problem in (
        (("--rank", "2", "-m", "ties"), "is no adapter"),
        (("-m", "ties"), "--rank or --error"),
        (("--rank", "2"), "takes --method"),
    ):
        done = invoke(model, *given, "--space", "core", "-o", tmp_path / "out")
        assert done.exit_code == 2
        assert problem in done.stderr
    assert not (tmp_path / "out").exists()
