"""One self-contained page of an inspection: verdict, layers x models heat map, angles by depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.files import write_text
from stockpot.inspection import Inspection
from stockpot.inspection.result import Layer
from stockpot.report.environment import make_environment

# Rows of the heat map. A larger model shows its matrices only, then every n-th of them.
_MAX_ROWS = 120
_LABEL_WIDTH = 320
_HEIGHT = 15
_HEAD = 44
# Width of a cell with few and with many columns, so that most pages need no scrolling sideways.
_WIDE, _NARROW, _MANY = 36, 22, 18
_DIGIT = 6.6  # pixels of a character above a column; wider than its column a label is turned


@dataclass(frozen=True)
class Panel:
    """Columns of the heat map that show one quantity.

    ``values`` per layer and column; ``shade`` turns a value into a place on the colour scale from
    -1 (one hue) over 0 (paper) to 1 (the other hue); ``show`` writes it into the tooltip.
    """

    title: str
    explain: str
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    show: Callable[[float], str]
    shade: Callable[[float], float] = float
    ends: tuple[str, str] = ("-1", "1")


@dataclass(frozen=True)
class Polyline:
    """A line over depth: points (x, y) in pixels, already broken where values are missing."""

    label: str
    index: int
    pieces: tuple[str, ...]
    dots: tuple[tuple[float, float, str], ...]


def write_inspection(found: Inspection, path: str | Path) -> Path:
    """Write the page; returns its path. Raises ``OutputError`` where it cannot be written."""
    path = Path(path)
    write_text(path, page(found))
    return path


def page(found: Inspection) -> str:
    """The page as HTML: no script, no request to anywhere, light and dark."""

    environment = make_environment()
    return environment.get_template("inspection.html.j2").render(**parts(found))


def parts(found: Inspection) -> dict[str, Any]:
    """What the templates of an inspection draw."""
    rows = shown_layers(found.layers)
    panels = make_panels(found, rows)
    return {
        "found": found,
        "tone": _TONES[found.verdict],
        "heat": heat_map(panels, rows),
        "panels": panels,
        "left_out": len(found.layers) - len(rows),
        "chart": angle_chart(found, rows),
        "percent": _percent,
        "number": _number,
    }


_TONES = {
    "identical": "good",
    "same ancestor": "good",
    "probably related": "caution",
    "unrelated": "bad",
    "different architecture": "bad",
}


def shown_layers(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that fit on a page, in order: all, or matrices only, or a sample of those."""
    if len(layers) <= _MAX_ROWS:
        return list(layers)
    matrices = [layer for layer in layers if layer.counted]
    step = -(-len(matrices) // _MAX_ROWS)
    return matrices[::step]


def make_panels(found: Inspection, rows: Sequence[Layer]) -> list[Panel]:
    """What the heat map shows: kinship of each pair; with a base also the changes."""
    numbers = {model.name: str(number) for number, model in enumerate(found.models, 1)}
    kinship = Panel(
        "Kinship",
        "cosine of the weights adjusted for chance: 0 strangers, 1 equal",
        [f"{numbers[pair.first]}~{numbers[pair.second]}" for pair in found.pairs],
        [layer.adjusted for layer in rows],
        show=lambda value: f"{value:.3f}",
    )
    panels = [kinship] if found.pairs else []
    if found.base is None:
        return panels
    changes = [layer.change[1:] if layer.change else () for layer in rows]
    largest = max((v for row in changes for v in row if v is not None), default=0.0) or 1.0
    change = Panel(
        "Change",
        "norm of the change over the norm of the base; the scale is a square root",
        [numbers[model.name] for model in found.models[1:]],
        changes,
        show=lambda value: f"{value:.2%}",
        shade=lambda value: (value / largest) ** 0.5,
        ends=("0", f"{largest:.1%}"),
    )
    agreement = Panel(
        "Agreement",
        "cosine of the deltas: 1 same direction, 0 right angle, -1 opposite",
        [f"{numbers[first]}~{numbers[second]}" for first, second in found.delta_pairs],
        [layer.delta_cosine or () for layer in rows],
        show=lambda value: f"{value:.3f}",
    )
    ratio = Panel(
        "Stock t",
        "share of the average that Model Stock would keep, the rest is the base",
        ["all"],
        [(layer.ratio,) for layer in rows],
        show=lambda value: f"{value:.2f}",
        ends=("0", "1"),
    )
    signs = Panel(
        "Signs",
        "share of changes to one entry with opposite signs: half is chance",
        ["all"],
        [(layer.sign_conflict,) for layer in rows],
        show=lambda value: f"{value:.0%}",
        shade=lambda value: 1.0 - 2.0 * value,
        ends=("100%", "0%"),
    )
    return [*panels, change, *([agreement, ratio, signs] if found.delta_pairs else [])]


def heat_map(panels: Sequence[Panel], rows: Sequence[Layer]) -> dict[str, Any]:
    """Places and colours of everything in the heat map, in pixels, for the template."""
    cells: list[dict[str, Any]] = []
    heads: list[dict[str, Any]] = []
    wide = _WIDE if sum(len(panel.columns) for panel in panels) <= _MANY else _NARROW
    longest = _DIGIT * max((len(name) for panel in panels for name in panel.columns), default=0)
    turned = longest > wide
    top = _HEAD + (longest - _DIGIT if turned else 0)
    left = float(_LABEL_WIDTH)
    for panel in panels:
        xs = [left + place * (wide + 1) for place in range(len(panel.columns))]
        columns = [
            {"x": x + wide / 2, "label": label} for x, label in zip(xs, panel.columns, strict=True)
        ]
        heads.append({"x": left, "title": panel.title, "columns": columns})
        for row, layer in enumerate(rows):
            for x, label, value in zip(xs, panel.columns, panel.values[row], strict=False):
                if value is None:
                    continue
                shade = max(-1.0, min(1.0, panel.shade(value)))
                cells.append(
                    {
                        "x": x,
                        "y": top + row * _HEIGHT,
                        "hue": "plus" if shade >= 0 else "minus",
                        "strength": f"{abs(shade):.3f}",
                        "words": f"{layer.name} · {panel.title} {label}: {panel.show(value)}",
                    }
                )
        left += max(len(panel.columns) * (wide + 1), 7.2 * len(panel.title)) + 22
    labels = [
        {
            "y": top + row * _HEIGHT + _HEIGHT - 4,
            "text": _shorten(layer.name, 48),
            "counted": layer.counted,
            "words": f"{layer.name} {list(layer.shape)}",
        }
        for row, layer in enumerate(rows)
    ]
    return {
        "width": left,
        "height": top + len(rows) * _HEIGHT + 4,
        "label_x": _LABEL_WIDTH - 10,
        "cell": wide,
        "row": _HEIGHT,
        "head": top,
        "turned": turned,
        "cells": cells,
        "labels": labels,
        "heads": heads,
    }


def angle_chart(found: Inspection, rows: Sequence[Layer]) -> dict[str, Any] | None:
    """Angles between the deltas by depth, one line a pair; None without a base and two models."""
    if not found.delta_pairs or not rows:
        return None
    width, height, left, top = 1040.0, 240.0, 46.0, 12.0
    counted = [layer for layer in rows if layer.counted] or list(rows)
    step = width / max(1, len(counted) - 1)
    lines = []
    for index, (first, second) in enumerate(found.delta_pairs):
        angles = [layer.delta_angle[index] if layer.delta_angle else None for layer in counted]
        dots = tuple(
            (
                left + place * step,
                top + height * angle / 180.0,
                f"{counted[place].name}: {angle:.0f}° between {first} and {second}",
            )
            for place, angle in enumerate(angles)
            if angle is not None
        )
        lines.append(Polyline(f"{first} ~ {second}", index % 6 + 1, _pieces(angles, dots), dots))
    ticks = [
        {"y": top + height * angle / 180.0, "label": f"{angle}°"} for angle in range(0, 181, 45)
    ]
    return {
        "width": left + width + 16,
        "height": top + height + 30,
        "left": left,
        "right": left + width,
        "bottom": top + height,
        "lines": lines,
        "ticks": ticks,
        "first": counted[0].name,
        "last": counted[-1].name,
    }


def _pieces(
    angles: Sequence[float | None], dots: Sequence[tuple[float, float, str]]
) -> tuple[str, ...]:
    """Point lists of the unbroken stretches of a line."""
    pieces: list[list[str]] = [[]]
    points = iter(dots)
    for angle in angles:
        if angle is None:
            pieces.append([])
            continue
        x, y, _ = next(points)
        pieces[-1].append(f"{x:.1f},{y:.1f}")
    return tuple(" ".join(piece) for piece in pieces if len(piece) > 1)


def _shorten(text: str, length: int) -> str:
    """The text, with its middle left out when it is too long."""
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[:half]}…{text[-(length - 1 - half) :]}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4) + 0.0:.4f}"
