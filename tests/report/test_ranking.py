"""The page of a ranking: what it says, in places and in the metric's units, without evidence."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from stockpot.errors import OutputError
from stockpot.ranking.schema import RankResults
from stockpot.report.ranking import chance, headline, render, terminal_ranking, write_ranking


def estimate(mean: float, width: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - width, "high": mean + width}


def model(name: str, place: float, value: float | None, best: float) -> dict[str, Any]:
    belief = {
        "rank": {"mean": place, "low": max(1.0, place - 1), "high": place + 1},
        "value": None if value is None else estimate(value, 0.04),
        "p_best": best,
        "reasons": [f"place {place:.0f} by history", "+0.31 from logme"],
    }
    return {
        "name": name,
        **belief,
        "before": belief,
        "metadata": {"family": "x"},
        "scores": {"logme": 1.5 - place, "hscore": 10 * place},
        "warnings": {"hscore": "saturated"},
        "tuned": None,
        "known": None,
        "cost": {
            "parameters": 3_400_000,
            "dimensions": 1280,
            "feature_seconds": 1.2,
            "tuning_seconds": 33.0,
            "megabytes": 51.9,
        },
    }


def results(valued: bool = True) -> dict[str, Any]:
    levels = [0.84, 0.80, 0.71] if valued else [None] * 3
    names = ["<lite>", "b", "a-name-that-is-far-too-long-for-a-column-of-the-terminal"]
    models = [
        model(name, place, value, best)
        for name, place, value, best in zip(
            names, (1.2, 2.0, 2.8), levels, (0.7, 0.296, 0.004), strict=True
        )
    ]
    return {
        "schema": 1,
        "title": "Emoji & co",
        "task": {
            "name": "emoji",
            "history_name": "emoji#1",
            "kind": "classification",
            "modality": "image",
            "metric": "accuracy",
            "domains": ["seen", "unseen"],
            "held_out": ["unseen"],
            "classes": ["a", "b"],
            "examples": {"seen": 100, "unseen": 50},
            "judged_by": 50,
        },
        "models": models,
        "failed": [{"model": "gone", "reason": "there is no weights file"}],
        "sample": {"rows": 256, "rounds": [], "failed": [], "layers": {}},
        "history": {"models": 3, "tasks": 5},
        "evidence": [
            {"name": "history", "used": True, "reason": "15 results"},
            {"name": "logme", "used": False, "reason": "does not help"},
        ],
        "budget": {"seconds": None, "select": "gain", "used": 0.0},
        "rungs": [],
        "next": {"model": "b", "seconds": 33.0},
        "verified": None,
        "versions": {"stockpot": "0.1.0"},
        "seconds": 12.0,
    }


def test_the_page_says_what_was_found() -> None:
    page = render(RankResults.read(results()))
    for words in ("Start from &lt;lite&gt;", "Emoji &amp; co", "P(best)", "does not help", "gone"):
        assert words in page
    assert "<lite>" not in page
    assert "Expected accuracy, in percent" in page
    assert 'class="off"' in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.count("<svg") == 2
    assert render(RankResults.read(results())) == page


def test_without_a_level_places_are_drawn_first_to_the_right() -> None:
    page = render(RankResults.read(results(valued=False)))
    assert "Expected place (first to the right)" in page
    circles = re.findall(r'<circle cx="([\d.]+)" cy', page)
    across = [float(x) for x in circles[:3]]
    assert across[0] > across[1] > across[2]


def test_measured_models_are_marked() -> None:
    found = results()
    found["models"][1]["tuned"] = {
        "model": "b", "value": 0.81, "probe": 0.7, "examples": 50, "steps": 9, "of": 9,
        "seconds": 3.0, "reused": False,
    }  # fmt: skip
    found["models"][2]["known"] = 0.72
    page = render(RankResults.read(found))
    assert page.count('class="measured"') == 4  # two models, on the wide and the narrow picture
    assert "2 of them were really fine-tuned" in headline(RankResults.read(found))["sure"]
    early = copy.deepcopy(found)
    early["models"][1]["tuned"]["steps"] = 3
    assert render(RankResults.read(early)).count('class="measured"') == 2


def test_verified_orders_have_a_picture_and_a_table() -> None:
    found = results()
    found["verified"] = {
        "models": ["<lite>", "b"],
        "real": [0.83, 0.79],
        "predicted": [1.2, 2.0],
        "predictors": [
            {"predictor": "posterior", "tau": 0.9, "regret": 0.0, "first": "<lite>"},
            {"predictor": "parameters", "tau": None, "regret": 0.04, "first": "b"},
        ],
        "noise": 0.93,
    }
    page = render(RankResults.read(found))
    assert "Predicted against real" in page
    assert "perfect, given 50 examples" in page
    text = terminal_ranking(found)
    assert "posterior" in text
    assert "0.930" in text
    found["verified"]["noise"] = None
    assert "perfect" not in render(RankResults.read(found))


def test_the_terminal_has_eighty_columns() -> None:
    for found in (results(), results(valued=False)):
        found["task"]["metric"] = "accuracy"
        text = terminal_ranking(found, top=2)
        assert all(len(line) <= 80 for line in text.splitlines())
        assert "and 1 more" in text
        assert "not ranked: gone" in text
        assert "What to try next: fine-tune b" in text


def test_r2_is_no_percentage() -> None:
    found = results()
    found["task"]["metric"] = "r2"
    assert "Expected R2" in render(RankResults.read(found))
    assert "0.840" in terminal_ranking(found)


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "<1 %"), (0.304, "30\u00a0%"), (0.999, "99\u00a0%"), (1.0, "100 %")]
)
def test_chances_are_never_certain_unless_they_are(value: float, words: str) -> None:
    assert chance(value) == words


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_ranking(results(), tmp_path / "file" / "page.html")
    assert write_ranking(results(), tmp_path / "page.html").exists()


@pytest.mark.parametrize("valued", [True, False])
def test_a_tie_is_read_as_a_tie(valued: bool) -> None:
    """Nothing tells two models apart that have the same mean and the same chance."""
    found = results(valued)
    assert "tied" not in headline(RankResults.read(found))["sure"]
    for model in found["models"][:2]:
        model |= {"rank": found["models"][0]["rank"], "value": found["models"][0]["value"]}
        model["p_best"] = 0.498
    words = headline(RankResults.read(found))
    assert words["answer"] == "Start from <lite> or b"
    assert words["sure"].startswith("2 are tied for the highest expected result; <lite> is the")
