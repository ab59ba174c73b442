"""Run an example's recipe and write what came out as Markdown: the pages of ``docs/results``.

    python examples/results.py pacs --page docs/results/pacs.md
    python examples/results.py sentiment --page docs/results/sentiment.md

Finished jobs are not repeated, so a second call only writes the page anew. What each example needs
is in ``examples/README.md``.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import stockpot
from stockpot.recycling import PROTOCOLS
from stockpot.report import markdown_table

HERE = Path(__file__).parent
ROOT = HERE.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("example", choices=["pacs", "sentiment"])
    parser.add_argument("--output", type=Path, help="working folder [default: runs/EXAMPLE]")
    parser.add_argument("--page", type=Path, required=True, help="the Markdown file to write")
    parser.add_argument("--jobs", type=int, help="processes [default: cores]")
    parser.add_argument("--set", action="append", default=[], dest="changes", help="as recycle's")
    arguments = parser.parse_args()
    output = arguments.output or ROOT / "runs" / arguments.example
    recipe = HERE / arguments.example / "recipe.yaml"
    done = stockpot.recycle(recipe, output, jobs=arguments.jobs, changes=arguments.changes)
    stockpot.write_report(done.results, output / "report.html")
    changes = [f"--set {change}" for change in arguments.changes]
    command = " ".join(["python examples/results.py", arguments.example, *changes])
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(
        page(done.results.to_json(), command, arguments.page), encoding="utf-8"
    )


def page(results: dict[str, Any], command: str, path: Path) -> str:
    """The page as Markdown; a hand-written file ``NAME.notes.md`` beside it is put on top."""
    parts = [f"# {results['title']}\n"]
    notes = path.with_suffix(".notes.md")
    if notes.exists():
        parts.append(notes.read_text(encoding="utf-8"))
    parts += [
        setting(results, command),
        "## Every protocol\n",
        markdown_table(results),
        "## Chosen without the held-out domain\n",
        chosen(results),
        "## Is there something to average?\n",
        diversity(results),
        "## Why\n",
        reasons(results),
    ]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def setting(results: dict[str, Any], command: str) -> str:
    cells, backbone = results["cells"], results["backbone"]
    trials = len({cell["trial"] for cell in cells})
    held_out = list(dict.fromkeys(cell["held_out"] for cell in cells))
    runs = sum(len(cell["runs"]) for cell in cells)
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    trained, all_of_it = backbone["trained_parameters"] / 1e6, backbone["parameters"] / 1e6
    return (
        f"`{command}`: {len(held_out)} held-out domains x {trials} "
        f"{'splits' if trials > 1 else 'split'}, {runs} fine-tunings of {backbone['name']} "
        f"({trained:.2f} of {all_of_it:.2f} million parameters trained), "
        f"{results['seconds'] / 60:.0f} minutes of one CPU core. Made with {versions}.\n"
    )


def chosen(results: dict[str, Any]) -> str:
    """Averages in the order of validation accuracy, which knows nothing of the held-out domain."""
    # What pools trials has trained on rows that another trial holds back for validation.
    names = [n for n, row in PROTOCOLS.items() if row.group == "average" and not row.over_trials]
    values: dict[str, tuple[float, float]] = {}
    for name in names:
        models = [m for cell in results["cells"] for m in cell["models"] if m["protocol"] == name]
        if models:
            inside = fmean(m["id_accuracy"] for m in models)
            values[name] = (inside, fmean(m["accuracy"] for m in models))
    lines = [
        "Averages in the order of their validation accuracy on the training domains, mean over "
        "cells. Whoever chooses among them without the held-out domain takes the first row.\n",
        "| average | validation | held out |",
        "|---|---|---|",
    ]
    for name in sorted(values, key=lambda name: -values[name][0]):
        inside, outside = values[name]
        lines.append(f"| {PROTOCOLS[name].label} | {inside:.1%} | {outside:.1%} |")
    return "\n".join(lines) + "\n"


def diversity(results: dict[str, Any]) -> str:
    lines = [
        "| held out | pool | ratio-error | mean member | ensemble | average of weights |",
        "|---|---|---|---|---|---|",
    ]
    seen: dict[tuple[str, str], list[dict[str, float]]] = {}
    for cell in results["cells"]:
        for one in cell["diversity"]:
            seen.setdefault((cell["held_out"], one["pool"]), []).append(one)
    for (domain, pool), found in seen.items():
        numbers = [
            mean(one[key] for one in found)
            for key in ("ratio_error", "mean_member", "ensemble", "average")
        ]
        ratio = f"{numbers[0]:.2f}" if numbers[0] is not None else ""
        rest = " | ".join(f"{value:.1%}" for value in numbers[1:] if value is not None)
        lines.append(f"| {domain} | {pool} | {ratio} | {rest} |")
    return "\n".join(lines) + "\n"


def mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def reasons(results: dict[str, Any]) -> str:
    """How often each reason was given, and the words for the two uniform averages."""
    counts: Counter[tuple[str, str, str]] = Counter()
    words = []
    for cell in results["cells"]:
        for one in cell["diagnosis"]:
            counts[(one["protocol"], one["verdict"], one["code"])] += 1
            if one["protocol"] in ("soup_uniform", "ratatouille_uniform") and cell["trial"] == 0:
                label = PROTOCOLS[one["protocol"]].label
                words.append(f"- {cell['held_out']}, {label}: {one['words']}")
    lines = ["| average | verdict | reason | cells |", "|---|---|---|---|"]
    for (protocol, verdict, code), count in sorted(counts.items()):
        lines.append(f"| {PROTOCOLS[protocol].label} | {verdict} | {code} | {count} |")
    lines += ["", "In words, first split of each held-out domain:", "", *words]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
