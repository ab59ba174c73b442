"""The inspection page stands alone and shows every layer."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from stockpot.errors import OutputError
from stockpot.inspection import compare
from stockpot.report.inspection import page, shown_layers, write_inspection
from tests.inspection.models import fresh, tuned

BASE = fresh(0)
MODELS = {"first <one>": tuned(BASE, 1), "second": tuned(BASE, 2)}


def drawings(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def test_the_page_asks_nothing_of_anybody() -> None:
    text = page(compare(MODELS, base=BASE))
    assert not re.search(r'src\s*=|href="(?!#|data:)|url\(|@import|<script|https?://', text)
    assert "prefers-color-scheme: dark" in text


def test_names_cannot_break_out_of_the_page() -> None:
    text = page(compare(MODELS))
    assert "first &lt;one&gt;" in text
    assert "first <one>" not in text


def test_every_layer_and_quantity_is_drawn() -> None:
    found = compare(MODELS, base=BASE)
    chart, heat = drawings(page(found))
    titles = [title.text or "" for title in heat.iter("title")]
    for layer in found.layers:
        assert any(title.startswith(f"{layer.name} · Kinship 2~3: ") for title in titles)
        assert any(title.startswith(f"{layer.name} · Change 3: ") for title in titles)
    counted = [layer for layer in found.layers if layer.counted]
    assert len(list(chart.iter("circle"))) == len(counted)
    angle = counted[0].delta_angle
    assert angle is not None
    assert f"{angle[0]:.0f}° between first <one> and second" in [
        (title.text or "").split(": ")[1] for title in chart.iter("title")
    ]


def test_without_a_base_there_is_kinship_only() -> None:
    text = page(compare(MODELS))
    assert len(drawings(text)) == 1
    assert "Angles between" not in text
    assert 'class="good"' in text
    assert 'class="bad"' in page(compare([BASE, fresh(5)]))


def test_an_untouched_layer_leaves_a_gap_in_the_line() -> None:
    middle = "blocks.3.fc.weight"
    one = MODELS["second"] | {middle: BASE[middle]}
    chart = drawings(page(compare([tuned(BASE, 1), one], base=BASE)))[0]
    assert len(list(chart.iter("polyline"))) == 2


def test_large_models_show_matrices_then_a_sample() -> None:
    draw = np.random.default_rng(0)
    state = {}
    for index in range(130):
        state[f"layer.{index}.weight"] = draw.normal(size=(8, 8))
        state[f"layer.{index}.bias"] = draw.normal(size=8)
    found = compare([state, tuned(state, 1)])
    rows = shown_layers(found.layers)
    assert len(rows) == 65
    assert all(layer.counted for layer in rows)
    assert "195 tensors are left out" in page(found)
    assert len(shown_layers(found.layers[:100])) == 100


def test_models_with_nothing_in_common_still_have_a_page() -> None:
    text = page(compare({"a": BASE, "b": {"other.weight": np.ones((9, 9))}}))
    assert "different architecture" in text
    assert not drawings(text)
    assert page(compare([BASE]))


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = write_inspection(compare(MODELS), tmp_path / "deep" / "page.html")
    assert path.read_text().startswith("<!doctype html>")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_inspection(compare(MODELS), tmp_path / "file" / "page.html")


@pytest.mark.parametrize("count", [2, 4, 12])
def test_labels_of_columns_do_not_run_into_each_other(count: int) -> None:
    models = {f"m{seed}": tuned(BASE, seed) for seed in range(count)}
    heat = drawings(page(compare(models, base=BASE)))[-1]
    boxes = []
    for text in heat.iter("text"):
        if text.get("class") != "tick":
            continue
        long = 6.0 * len(text.text or "")
        moved = re.fullmatch(r"translate\((\S+) (\S+)\) rotate\(-90\)", text.get("transform", ""))
        if moved:
            boxes.append((float(moved[1]) - 9, float(moved[1]), float(moved[2]) - long))
        else:
            middle = float(text.get("x", "0"))
            boxes.append((middle - long / 2, middle + long / 2, float(text.get("y", "0")) - 9))
    assert len(boxes) == count * (count + 1) // 2 + count + count * (count - 1) // 2 + 2
    boxes.sort()
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(boxes))
    assert all(top > 14 for *_, top in boxes)
