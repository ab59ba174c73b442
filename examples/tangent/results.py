"""Make ``docs/results/tangent.md``: every experiment on tangent components, with one command.

    python examples/tangent/results.py --page docs/results/tangent.md

Makes the small base if it is not there (two minutes), runs the recipes of this folder, the one on
text with two sets of topics, and a curve of sketch sizes: five hours of one core in all. Finished
jobs are not repeated, so a second call only writes the page anew. Needs Debian's package
`dataset-fashion-mnist`, scikit-learn, and the weights and texts of `stockpot demo --fetch-only`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stockpot.backbones import load_backbone
from stockpot.continual import ContinualRecipe, ContinualResults, compare, deal, load_recipe
from stockpot.files import write_json
from stockpot.report import markdown_tables, write_continual
from stockpot.tangent import FeatureMap, statistics
from stockpot.tasks import load_task

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
EXPERIMENTS = {
    "fashion": ("fashion.yaml", []),
    "digits": ("digits.yaml", []),
    "text": ("text.yaml", []),
    "things": (
        "text.yaml",
        [
            *("task.arguments.topics=physical", "tangent.learning_rate=3e-3"),
            "title=WordNet definitions, ten topics of things",
        ],
    ),
}
WIDEST = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, required=True, help="the Markdown file to write")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "tangent")
    parser.add_argument(
        "--only", choices=list(EXPERIMENTS), action="append", help="run only this; repeatable"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes [default: 1]")
    parser.add_argument("--set", action="append", default=[], dest="changes", help="as continual's")
    arguments = parser.parse_args()
    base = ROOT / "runs" / "tangent" / "base.safetensors"
    if not base.exists():
        sys.path.insert(0, str(HERE))
        from base import pretrain

        print(f"base: {pretrain(base):.1%} on turned test images", file=sys.stderr)
    found: dict[str, ContinualResults] = {}
    for name in arguments.only or EXPERIMENTS:
        folder = arguments.output / name
        file, changes = EXPERIMENTS[name]
        done = compare(
            HERE / file, folder, jobs=arguments.jobs, changes=[*changes, *arguments.changes]
        )
        write_continual(done.results, folder / "report.html")
        found[name] = done.results
        print(f"{name}: {folder / 'report.html'}", file=sys.stderr)
    curve = sketch_curve(arguments.output / "sketch.json") if arguments.only is None else None
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    more = [f"--set {change}" for change in arguments.changes]
    more += [f"--only {name}" for name in arguments.only or ()]
    command = " ".join(["python examples/tangent/results.py --page", str(arguments.page), *more])
    arguments.page.write_text(page(found, curve, arguments.page, command), encoding="utf-8")


def page(found: dict[str, ContinualResults], curve: Any, path: Path, command: str) -> str:
    """The page; a hand-written file ``NAME.notes.md`` beside it stands on top."""
    parts = ["# Tangent components on real data\n"]
    notes = path.with_suffix(".notes.md")
    if notes.exists():
        parts.append(notes.read_text(encoding="utf-8"))
    minutes = sum(results.seconds for results in found.values()) / 60
    versions = next(iter(found.values())).versions
    made = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts.append(
        f"`{command}`: {minutes:.0f} minutes of one shared CPU core in all. Made with {made}.\n"
    )
    for results in found.values():
        parts += [f"## {results.title}\n", about(results), markdown_tables(results)]
        parts.append(exactness(results))
    if curve:
        parts.append(curve_table(curve))
    return "\n".join(part.rstrip() + "\n" if part else "" for part in parts)


def about(results: ContinualResults) -> str:
    recipe: Any = results.recipe
    body = results.backbone
    tangent, plain = recipe["tangent"], recipe["nonlinear"]
    square = {**plain, **recipe["nonlinear_square"]}
    features = recipe["features"]
    return (
        f"{results.trials} trial{'s' * (results.trials > 1)}, each with its own examples, "
        "order of classes and head. "
        f"{body.trained_parameters:,} of {body.parameters:,} parameters trained, from "
        f"`{body.trained_from}` on. {tangent['epochs']:g} epochs, AdamW with a cosine; "
        f"learning rates {tangent['learning_rate']:g} (tangent), {plain['learning_rate']:g} (CE), "
        f"{square['learning_rate']:g} (square loss). Statistics: D = {features['dimension']}, "
        f"J = {features['directions']}; RanPAC with {features['random_dimension']} features.\n"
    )


def exactness(results: ContinualResults) -> str:
    """How far composing is from joint training, and removing from retraining."""
    lines = [
        "| setting | method | composed against joint | removed against retrained | penalties |"
    ]
    lines.append("|---|---|---:|---:|---|")
    for setting in results.settings:
        for row in setting.methods:
            notes = row.notes
            if row.method in ("statistics", "ranpac", "ridge"):
                penalties = ", ".join(f"{p:g}" for p in sorted(set(notes.penalty)))
                lines.append(
                    f"| {setting.name} | {row.label} | {notes.gap_to_joint:.1e} | "
                    f"{notes.gap_to_retrained:.1e} | {penalties} |"
                )
    words = "Largest difference of outputs relative to the largest output, over all trials:\n"
    return words + "\n" + "\n".join(lines) + "\n"


def sketch_curve(path: Path) -> list[dict[str, Any]]:
    """Accuracy of the statistics composer on digits, by size of the sketch and directions."""
    if path.exists():
        return json.loads(path.read_text())
    torch.set_num_threads(1)
    recipe: ContinualRecipe = load_recipe(HERE / "digits.yaml")
    task = load_task(recipe.task, root=HERE)
    body = load_backbone(recipe.backbone, root=HERE, example=task.inputs[:2])
    stream = deal(task, recipe.data, recipe.settings[0], 0)
    assert body.trunk is not None
    with torch.no_grad():
        batch = body.prepare(task.inputs)
        crossing = [body.trunk(part) for part in batch.split(256)]
    found = []
    for directions, seed in ((1, 0), (4, 0), (4, 1), (16, 0)):
        phi_of = FeatureMap("tangent", WIDEST, directions, seed).bind(body)
        phi = torch.cat([phi_of(part) for part in crossing])
        for dimension in (256, 512, 1024, 2048, 4096):
            folded = phi.view(len(phi), -1, dimension).sum(1)
            rows = (folded[stream.rows], task.labels[stream.rows])
            sums = statistics.collect([rows], task.classes, dimension)
            solution = statistics.ridge(sums)
            said = (folded[stream.test] @ solution.weight).argmax(1).numpy()
            found.append(
                {
                    "directions": directions,
                    "seed": seed,
                    "dimension": dimension,
                    "accuracy": float((said == task.labels[stream.test]).mean()),
                    "bytes": 8 * (dimension * (dimension + 1) // 2 + dimension * 10),
                    "penalty": solution.penalty,
                }
            )
    write_json(path, found)
    return found


def curve_table(curve: list[dict[str, Any]]) -> str:
    sizes = sorted({one["dimension"] for one in curve})
    lines = [
        "## Memory against accuracy\n",
        "Digits, one trial, all 1,000 training examples, accuracy in percent by sketch size D. One "
        "component is D (D + 1) / 2 numbers of 8 bytes; sketches of a power of two fold into "
        "smaller ones, so that all columns of a row come from the same gradients.\n",
        "| J | seed of the sketch | " + " | ".join(f"D = {size}" for size in sizes) + " |",
        "|---:|---:|" + "---:|" * len(sizes),
    ]
    size_of = {one["dimension"]: one["bytes"] for one in curve}
    lines.append(
        "| | component | " + " | ".join(f"{size_of[s] / 1e6:.1f} MB" for s in sizes) + " |"
    )
    for key in sorted({(one["directions"], one["seed"]) for one in curve}):
        row = {o["dimension"]: o["accuracy"] for o in curve if (o["directions"], o["seed"]) == key}
        values = " | ".join(f"{100 * row[size]:.1f}" for size in sizes)
        lines.append(f"| {key[0]} | {key[1]} | {values} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
