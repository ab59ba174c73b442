"""The first look: an answer after a few examples, and what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from stockpot.ranking.scores import Evidence, compute
from stockpot.ranking.scoring import held_out_value
from stockpot.ranking.verb import rank
from tests.ranking.rank.tiny import write_task, zoo


def test_the_first_answer_comes_before_the_rest_and_can_be_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    value = yaml.safe_load(write_task(tmp_path).read_text())
    request = {**value, "sample": {"first": 12, "most": 24}}

    def ask(out: str, quick: bool) -> int:
        done = rank(
            request, zoo(), tmp_path / out, backend="serial", quick=quick, root=tmp_path
        )  # fmt: skip
        return done.results.sample.rows

    assert ask("whole", quick=False) == 24
    told = capfd.readouterr().err
    assert "first look: 12 examples" in told
    lines = [line for line in told.splitlines() if "P(best)" in line]
    assert {line.split()[0] for line in lines} == {"good", "fair", "poor", "noise"}
    assert "always the most frequent class: 0." in told
    assert ask("quick", quick=True) == 12


def test_who_is_no_better_than_the_most_frequent_class_is_said_to_be(tmp_path: Path) -> None:
    """Features without any relation to the labels: no recommendation without that sentence."""
    value = yaml.safe_load(write_task(tmp_path).read_text())
    arrays = dict(np.load(tmp_path / "data.npz"))
    notes = {}
    for name, labels in (
        ("related", arrays["labels"]),
        ("unrelated", np.random.default_rng(0).permutation(arrays["labels"])),
    ):
        np.savez(tmp_path / "data.npz", **{**arrays, "labels": labels})
        done = rank(value, zoo(), tmp_path / name, backend="serial", quiet=True, root=tmp_path)
        notes[name] = " ".join(done.results.notes)
    assert "tells more than the most frequent class (0.3" in notes["unrelated"]
    assert "most frequent class" not in notes["related"]


def test_a_head_is_measured_with_its_sampling_error() -> None:
    """90 % intervals of samples of one task hold what such samples reach in the mean."""
    rows, truth, inside = 400, [], []
    for seed in range(24):
        random = np.random.default_rng(seed)
        labels = np.arange(rows) % 3
        features = random.normal(size=(rows, 5))
        features[:, :3] += 1.2 * np.eye(3)[labels]
        values = compute(["loo_ridge"], Evidence(features, labels))
        found = held_out_value(values)
        assert found is not None
        share = values["loo_ridge"].value
        error = float(values["loo_ridge"].details["error"])
        assert error == pytest.approx(np.sqrt(share * (1 - share) / rows), rel=0.05)
        truth.append(found.mean)
        inside.append((found.low, found.high))
    middle = np.mean(truth)
    held = np.mean([low <= middle <= high for low, high in inside])
    assert held >= 0.75


def test_regression_has_an_error_and_several_labels_none() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(80, 4))
    target = features[:, 0] + 0.5 * random.normal(size=80)
    told = held_out_value(compute(["loo_ridge", "knn"], Evidence(features, target, "regression")))
    assert told is not None
    assert told.low < told.mean < told.high < 1.0
    labels = (features[:, :2] > 0).astype(int)
    assert held_out_value(compute(["knn"], Evidence(features, labels, "multilabel"))) is None
    assert held_out_value({}) is None
