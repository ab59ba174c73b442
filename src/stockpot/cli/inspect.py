"""``stockpot inspect``: do these weights belong together, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.output import Output

if TYPE_CHECKING:
    from stockpot.inspection import Inspection


def inspect_command(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL", help="Folders, files or hub ids.", show_default=False),
    ],
    base: Annotated[
        str | None, typer.Option(help="The model they are said to come from: shows the deltas.")
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option(help="Only tensors of this name or glob; repeatable.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read a sample of the weights: the verdict, no more.")
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="One line per tensor.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with heat map and angles to this file.")
    ] = None,
    out: Output = Output(),
) -> None:
    """Compare models: same names and shapes, same ancestor, angles, signs, what was never trained.

    Matrices and convolutions decide, by their cosine adjusted for chance: about 0 for models that
    share no ancestor, up to 1 for equal ones.
    """
    from stockpot.inspection import compare

    found = compare(models, base, names=names, quick=quick, quiet=out.silent)
    if html is not None:
        from stockpot.report.inspection import write_inspection

        write_inspection(found, html)
        out.say(f"page: {html}")
    out.data(found.to_json(), as_text(found, layers=layers))


def as_text(found: Inspection, *, layers: bool = False) -> str:
    """The inspection for a terminal: verdict, models, pairs, notes, and every tensor if asked."""
    parts = [f"{found.verdict}: {found.reason}"]
    parts.append(_models(found))
    if found.pairs:
        parts.append(_pairs(found))
    if found.notes:
        parts.append("\n".join(f"- {note}" for note in found.notes))
    if layers and found.layers:
        parts.append(_layers(found))
    return "\n\n".join(parts)


def _models(found: Inspection) -> str:
    head = ["model", "tensors", "parameters", "dtype"]
    if found.base is not None:
        head += ["change", "untrained"]
    rows = [head]
    for model in found.models:
        row = [model.name, f"{model.tensors:,}", f"{model.parameters:,}", "+".join(model.dtypes)]
        if found.base is not None:
            is_base = model.name == found.base
            row.append("base" if is_base else _percent(model.distance))
            row.append("" if is_base or model.untrained is None else str(len(model.untrained)))
        rows.append(row)
    return table(rows)


def _pairs(found: Inspection) -> str:
    rows = [["pair", "verdict", "cosine", "adjusted", "distance", "layers shared"]]
    rows += [
        [
            f"{pair.first} ~ {pair.second}",
            pair.verdict,
            _number(pair.cosine),
            _number(pair.adjusted),
            _percent(pair.distance),
            f"{pair.shared}/{pair.layers}",
        ]
        for pair in found.pairs
    ]
    return table(rows)


def _layers(found: Inspection) -> str:
    """Per tensor: the lowest adjusted cosine of any pair and, with a base, what the deltas do."""
    head = ["tensor", "shape", "cosine", "adjusted"]
    if found.base is not None:
        head += ["largest change", "delta angle", "signs", "t"]
    rows = [head]
    for layer in found.layers:
        row = [
            layer.name,
            "x".join(map(str, layer.shape)),
            _number(min((c for c in layer.cosine if c is not None), default=None)),
            _number(min((a for a in layer.adjusted if a is not None), default=None)),
        ]
        if found.base is not None:
            angles = [angle for angle in layer.delta_angle or () if angle is not None]
            changes = [change for change in layer.change or () if change is not None]
            row += [
                _percent(max(changes, default=None)),
                f"{sum(angles) / len(angles):.0f}°" if angles else "",
                "" if layer.sign_conflict is None else f"{layer.sign_conflict:.0%}",
                "" if layer.ratio is None else f"{layer.ratio:.2f}",
            ]
        rows.append(row)
    return table(rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4) + 0.0:.4f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first row as heading; numbers stand to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [
        all(not cell or cell[0].isdigit() or cell[0] == "-" for cell in column[1:])
        for column in zip(*rows, strict=True)
    ]
    lines = []
    for row in rows:
        cells = zip(row, widths, right, strict=True)
        lines.append("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
