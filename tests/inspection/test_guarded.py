"""``stockpot.merge`` refuses what the command refuses, in words that say what was seen."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stockpot
from stockpot import merging
from stockpot.errors import LineageError
from stockpot.merging import available_methods, get_method


def weights(seed, layers=6, base=None, noise=0.02):
    rng = np.random.default_rng(seed)
    names = [f"layers.{i}.fc.weight" for i in range(layers)]
    start = base or {name: np.zeros((48, 48)) for name in names}
    scale = noise if base else 1.0
    return {name: start[name] + scale * rng.normal(size=(48, 48)) for name in names}


def test_strangers_in_memory_are_refused_unless_forced():
    one, other = weights(1), weights(2)
    with pytest.raises(LineageError, match="no ancestor in common"):
        stockpot.merge([one, other])
    forced = stockpot.merge([one, other], force=True).state
    np.testing.assert_allclose(
        forced["layers.0.fc.weight"], (one["layers.0.fc.weight"] + other["layers.0.fc.weight"]) / 2
    )


def test_relatives_give_what_the_inner_merge_gives():
    base = weights(0)
    models = [weights(seed, base=base) for seed in (1, 2)]
    ours = stockpot.merge(models, method="ties", base=base, density=0.4).state
    inner = merging.merge(models, method="ties", base=base, density=0.4).state
    for name in base:
        np.testing.assert_array_equal(ours[name], inner[name])


def test_a_parent_without_one_layer_is_told_by_its_numbers():
    base = weights(0, layers=8)
    kept = [0, 1, 2, 4, 5, 6, 7]
    shorter = {
        f"layers.{new}.fc.weight": base[f"layers.{old}.fc.weight"] for new, old in enumerate(kept)
    }
    with pytest.raises(LineageError, match="layers 3 to 6 of model 2 are layers 4 to 7 of model 1"):
        stockpot.merge([base, shorter], heads="mean")


def test_permuted_neurons_are_told():
    base = weights(0)
    order = np.random.default_rng(5).permutation(48)
    permuted = {name: value[order] for name, value in base.items()}
    with pytest.raises(LineageError, match=r"same weights in another order.*kept the order"):
        stockpot.merge([base, permuted])


def test_a_layer_that_was_trained_anew_is_noted():
    base = weights(0, layers=8)
    anew = {
        **weights(1, layers=8, base=base),
        "layers.7.fc.weight": weights(9)["layers.0.fc.weight"],
    }
    report = stockpot.merge([base, anew]).report
    (note,) = report.warnings
    assert "share an ancestor, but not in layers.7.fc.weight (1 of 8 layers" in note
    assert "with a rule" in note


def test_a_stranger_inside_an_inner_merge_is_seen():
    base = weights(0)
    inner = merging.Spec([weights(1, base=base), weights(9)])
    with pytest.raises(LineageError):
        stockpot.merge([inner, weights(2, base=base)])


def test_the_signature_is_that_of_the_inner_merge():
    own, inner = inspect.signature(stockpot.merge), inspect.signature(merging.merge)
    assert own == inner
    assert "force: merge models that share no ancestor, or whose" in (stockpot.merge.__doc__ or "")


def test_the_typed_keywords_are_those_that_there_are():
    from stockpot.merging.keywords import MergeOptions, MethodParameters

    methods = [get_method(name) for name in available_methods()]
    known = {p.name for m in methods for p in m.parameters} | {e for m in methods for e in m.extras}
    assert MethodParameters.__annotations__.keys() == known
    named = [p.name for p in inspect.signature(merging.merge).parameters.values()]
    own = MergeOptions.__annotations__.keys() - MethodParameters.__annotations__.keys()
    assert own == {*named} - {"models", "output", "parameters"}


@pytest.mark.slow
def test_mypy_catches_a_misspelt_keyword(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import stockpot\n"
        'stockpot.merge(["a"], method="ties", density=0.2, dtype="bfloat16", force=True)\n'
        'stockpot.merge(["a"], methood="ties")\n'
        'stockpot.merge(["a"], densty=0.2)\n'
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", str(program)]
    root = Path(stockpot.__file__).parents[1]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={"MYPYPATH": str(root), "PATH": ""},
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if "program.py" in line and "error" in line]
    assert sorted({line.split(":")[1] for line in lines}) == ["3", "4"], done.stdout
