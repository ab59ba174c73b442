"""Published weights whose history is known; numbers as in docs/inspection.md."""

from __future__ import annotations

from itertools import combinations

import pytest

from stockpot.errors import LineageError
from stockpot.inspection import check_lineage, compare
from tests.weights import weights

pytestmark = pytest.mark.weights

SEGMENTERS = ("lraspp-kelp-presence", "lraspp-kelp-species", "lraspp-mussels", "lraspp-mussels-v2")


def test_a_fine_tuning_from_the_wild_descends_from_minilm() -> None:
    evidence = check_lineage(weights("minilm"), weights("sre"))
    assert evidence.verdict == "same ancestor"
    assert evidence.layers == 39
    assert evidence.adjusted == pytest.approx(0.9999, abs=1e-4)
    assert evidence.distance == pytest.approx(0.0129, abs=2e-4)
    assert evidence.largest == pytest.approx(0.0251, abs=5e-4)


@pytest.mark.parametrize(("a", "b"), list(combinations(SEGMENTERS, 2)))
@pytest.mark.parametrize("quick", [False, True])
def test_four_segmenters_are_siblings(a: str, b: str, quick: bool) -> None:
    found = compare([weights(a), weights(b)], quick=quick)
    assert found.verdict == "same ancestor"
    assert found.pairs[0].adjusted is not None
    assert found.pairs[0].adjusted > 0.98


def test_two_resnets_under_other_names_and_types_are_siblings() -> None:
    found = compare([weights("resnet18-eyes"), weights("resnet18-fire")])
    assert found.verdict == "same ancestor"
    assert found.models[1].renamed == "without 'layers.'"
    assert found.pairs[0].adjusted == pytest.approx(0.9992, abs=1e-4)


@pytest.mark.parametrize("quick", [False, True])
def test_two_mobilenets_of_other_ancestry_are_strangers(quick: bool) -> None:
    files = [weights("mobilenetv2-imagenet"), weights("mobilenetv2-documents")]
    found = compare(files, quick=quick)
    assert found.verdict == "unrelated"
    assert found.pairs[0].shared == 0
    assert found.pairs[0].adjusted == pytest.approx(0.0, abs=0.01)
    with pytest.raises(LineageError, match="no ancestor"):
        check_lineage(*files, quick=quick)


def test_a_resnet_is_no_mobilenet() -> None:
    with pytest.raises(LineageError, match="only 0 of"):
        check_lineage(weights("mobilenetv2-imagenet"), weights("resnet18-fire"))
