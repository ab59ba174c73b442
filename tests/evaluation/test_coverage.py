"""How often claims are right where the truth is known; the worlds are benchmarks/coverage.py's."""

import importlib.util
import sys
from pathlib import Path

import pytest

WORLDS = 1000
FILE = Path(__file__).parents[2] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("coverage_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("gain", [0.0, 0.4], ids=["null", "gain"])
@pytest.mark.parametrize(
    ("domains", "trials"), [(1, 3), (1, 5), (2, 3), (2, 5), (3, 1), (3, 2), (4, 1), (4, 2), (4, 3)]
)
def test_intervals_behind_a_verdict_cover_as_they_say(coverage, domains, trials, gain):
    """Training noise of 0.3 logits: 93 to 97 %, give or take the half point of 1,000 worlds."""
    row = coverage.measure(WORLDS, domains, trials, "shared", gain)
    assert 0.93 <= row.covered <= 0.975
    if gain == 0.0:
        assert row.said <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize(("domains", "trials"), [(1, 3), (2, 2), (4, 1), (4, 2), (4, 3)])
def test_noise_of_single_rows_makes_them_hardly_wider(coverage, domains, trials):
    """Trainings then scatter no more than rows do; few trials cannot know that."""
    row = coverage.measure(WORLDS, domains, trials, "rows", 0.0)
    assert 0.93 <= row.covered <= 0.98
    assert row.said <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("domains", "trials"), [(1, 1), (2, 1), (1, 2)])
def test_too_few_trainings_never_get_a_verdict(coverage, domains, trials):
    """What the old reading of such intervals, better or worse where 0 is outside, came to."""
    row = coverage.measure(WORLDS // 2, domains, trials, "shared", 0.0)
    assert row.said == 0.0
    assert row.outside > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shared", "rows"])
@pytest.mark.parametrize(("domains", "trials"), [(1, 3), (2, 3), (4, 1), (4, 2)])
def test_ten_equal_rows_are_rarely_told_apart(coverage, domains, trials, kind):
    false = coverage.false_in_a_family(WORLDS // 3, 11, domains, trials, kind)
    assert false <= 0.07
