import xml.etree.ElementTree as ET

import pytest

from stockpot.evaluation.wording import in_sentence
from stockpot.report import svg
from stockpot.report.numbers import (
    count,
    duration,
    millions,
    scientific,
    score,
    spread,
    typographic,
)


def test_elements_are_well_formed_and_escaped():
    drawn = svg.figure(
        "f", 10, 20, "a < b", "c & d", svg.text(1, 2, "<&>", text_anchor="end"), css="x"
    )
    root = ET.fromstring(drawn)
    assert root.attrib["viewBox"] == "0 0 10 20"
    assert root[0].text == "a < b"
    assert root[2].attrib == {"x": "1", "y": "2", "text-anchor": "end"}
    assert root[2].text == "<&>"


@pytest.mark.parametrize("shape", ["circle", "ring", "square", "diamond", "triangle", "left"])
def test_markers_stay_near_their_point(shape):
    drawn = ET.fromstring(svg.marker(shape, 50, 50, 4))
    if drawn.tag == "polygon":
        numbers = [float(n) for pair in drawn.attrib["points"].split() for n in pair.split(",")]
        assert all(abs(n - 50) < 6 for n in numbers)
    else:
        assert (drawn.attrib["cx"], drawn.attrib["r"]) == ("50", "4")


@pytest.mark.parametrize(
    ("low", "high", "about", "ticks"),
    [
        (0.0, 1.0, 4, [0.0, 0.5, 1.0]),
        (0.712, 0.888, 4, [0.75, 0.8, 0.85]),
        (-0.03, 0.04, 4, [-0.02, 0.0, 0.02, 0.04]),
    ],
)
def test_ticks_are_round_and_inside(low, high, about, ticks):
    assert svg.Scale(low, high, 0, 100).ticks(about) == pytest.approx(ticks)


def test_scale_is_linear():
    scale = svg.Scale(10, 20, 100, 0)
    assert (scale(10), scale(15), scale(20)) == (100, 50, 0)


def test_shortened_text_fits():
    words = svg.shortened("a very long label of a method", 13, 90)
    assert words.endswith("…")
    assert svg.text_width(words, 13) <= 90
    assert svg.shortened("short", 13, 90) == "short"


def test_numbers_as_readers_want_them():
    plain = str.maketrans("\u00a0\u202f", "  ")
    assert score(None, "accuracy") == "–"
    assert score(0.843, "accuracy") == "84.3"
    assert score(0.843, "r2") == "0.843"
    assert spread(0.8, 0.9, "accuracy") == "80.0–90.0"
    assert spread(-0.01, 0.02, "accuracy") == "−1.0 to 2.0"
    assert count(12345).translate(plain) == "12 345"
    assert [duration(s).translate(plain) for s in (0.42, 38, 720, 11100)] == [
        *("0.4 s", "38 s", "12 min", "3 h 05 min")
    ]
    assert duration(None) == "–"
    assert [scientific(v) for v in (3e-5, 0.1, 32, 1e7)] == ["3e-5", "0.1", "32", "1e7"]
    assert [millions(v) for v in (22_713_216, 900, 1.2e9, 4500)] == [
        *("22.7 M", "900", "1.2 B", "4.5 k")
    ]
    assert typographic("(-0.6 to +0.9), same-init") == "(−0.6 to +0.9), same-init"
    assert in_sentence("ERM, best run") == "ERM (best run)"
