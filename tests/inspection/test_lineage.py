"""Only what descends from the base is let in, and the error says why not."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.errors import LineageError, NonFiniteError
from stockpot.inspection import check_lineage
from tests.inspection.models import fresh, tuned

BASE = fresh(0)


def test_a_fine_tuning_comes_with_its_evidence() -> None:
    evidence = check_lineage(BASE, tuned(BASE, 1, far=0.05))
    assert evidence.verdict == "same ancestor"
    assert evidence.layers == 9
    assert evidence.cosine == pytest.approx(1 / np.sqrt(1 + 0.05**2), abs=1e-3)
    assert evidence.distance == pytest.approx(0.05, abs=0.01)
    assert evidence.distance <= evidence.largest


def test_the_base_descends_from_itself() -> None:
    evidence = check_lineage(BASE, BASE)
    assert (evidence.verdict, evidence.distance) == ("identical", 0.0)


def test_a_stranger_is_refused_with_the_reason() -> None:
    with pytest.raises(LineageError, match="the candidate does not descend from the base") as error:
        check_lineage(BASE, fresh(7))
    assert "no ancestor" in str(error.value)
    assert "median adjusted cosine" in str(error.value)


def test_another_architecture_is_refused_with_the_tensor() -> None:
    with pytest.raises(LineageError, match=r"stem\.weight"):
        check_lineage(BASE, {"other.weight": np.ones((64, 64), np.float32)})


def test_broken_values_are_refused_with_their_place() -> None:
    broken = tuned(BASE, 1)
    broken["head.weight"][2, 5] = np.inf
    with pytest.raises(NonFiniteError, match=r"'head.weight'.*\[2, 5\]"):
        check_lineage(BASE, broken)


def test_names_narrow_the_question() -> None:
    mixed = fresh(7) | {name: values for name, values in BASE.items() if "blocks" in name}
    assert check_lineage(BASE, mixed, names="blocks.*").verdict == "identical"
    with pytest.raises(LineageError):
        check_lineage(BASE, mixed, names=["stem.weight", "head.weight", "depthwise.weight"])


def test_a_quick_look_is_enough() -> None:
    assert check_lineage(BASE, tuned(BASE, 1), quick=True).verdict == "same ancestor"
    with pytest.raises(LineageError):
        check_lineage(BASE, fresh(7), quick=True)
