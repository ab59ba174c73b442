"""What benchmarks said over time: one line a run in ``benchmarks/history/*.jsonl``.

    python benchmarks/history.py          # write docs/results/history.md from the lines

Benchmarks append to it with ``--record``: date, commit, machine, and their numbers, which are
ratios against a peer or a physical limit, so that they mean something on another machine. A page of
lines and their spread says more than the best afternoon.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(__file__).with_suffix("")
PAGE = ROOT / "docs" / "results" / "history.md"
WIDTH, HEIGHT = 240, 36


def record(benchmark: str, unit: str, numbers: Mapping[str, float]) -> None:
    """Append a line. ``unit``: what a number is, such as "times as fast as mergekit"."""
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    line = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit,
        "machine": f"{platform.system()}, {os.cpu_count()} cores, {platform.machine()}",
        "load": round(os.getloadavg()[0], 1),
        "unit": unit,
        "numbers": {name: round(float(value), 3) for name, value in numbers.items()},
    }
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{benchmark}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, sort_keys=True) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of one benchmark, oldest first."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def page() -> str:
    """Markdown: a table a benchmark, a picture a number."""
    parts = [
        "# Benchmarks over time",
        "",
        "<!-- Written by benchmarks/history.py; the lines are in benchmarks/history/. -->",
        "",
        "Ratios, so that they mean something on another machine. Each picture runs from the oldest",
        "run to the newest; the grey line is the median.",
        "`python benchmarks/history.py` writes this page.",
    ]
    for path in sorted(FOLDER.glob("*.jsonl")):
        lines = read(path)
        parts += ["", f"## {path.stem}", "", f"{lines[-1]['unit'].capitalize()}.", ""]
        parts += [
            "| | runs | newest | median | lowest to highest | |",
            "|---|---:|---:|---:|---:|---|",
        ]
        for name in dict.fromkeys(name for line in lines for name in line["numbers"]):
            values = [line["numbers"][name] for line in lines if name in line["numbers"]]
            spread = f"{min(values):.2f} to {max(values):.2f}"
            parts.append(
                f"| {name} | {len(values)} | {values[-1]:.2f} | {statistics.median(values):.2f} "
                f"| {spread} | {picture(values)} |"
            )
        newest = lines[-1]
        parts += [
            "",
            f"Newest: {newest['date']}, commit `{newest['commit']}`, {newest['machine']}.",
        ]
    return "\n".join(parts) + "\n"


def picture(values: list[float]) -> str:
    """A line of points from left to right; 0 is the bottom."""
    top = 1.15 * max(*values, 1e-9)
    step = (WIDTH - 12) / max(1, len(values) - 1)
    points = [
        f"{6 + step * index:.1f},{HEIGHT - 4 - (HEIGHT - 8) * value / top:.1f}"
        for index, value in enumerate(values)
    ]
    middle = HEIGHT - 4 - (HEIGHT - 8) * statistics.median(values) / top
    x, y = points[-1].split(",")
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="over time">'
        f'<line x1="0" x2="{WIDTH}" y1="{middle:.1f}" y2="{middle:.1f}" stroke="#8888"/>'
        f'<polyline points="{" ".join(points)}" fill="none" stroke="#00897b" stroke-width="2"/>'
        f'<circle cx="{x}" cy="{y}" r="3" fill="#00897b"/></svg>'
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
