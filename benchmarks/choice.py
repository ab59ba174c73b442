"""Is what ``recycle`` keeps any good? Four data sets, two held-out domains, three splits.

    stockpot demo --fetch-only --assets DATA
    pip install resvg-py==0.5.0 && python examples/emoji_styles.py DATA/emoji
    python examples/pacs/auxiliaries.py DATA --only glyphs fashion
    python benchmarks/choice.py DATA --pacs PACS --page docs/results/choice.md

``DATA`` is any folder; Fashion-MNIST comes from Debian's ``dataset-fashion-mnist``, PACS is yours
to bring (``PACS/domain/class/file``). A set that is missing is left out, and said so. Nothing here
is tuned: the recipes are those of ``examples/``, shortened: one held-out domain at a time, 60
steps, rows that need no training of their own. PACS has the size and the 120 steps of its example:
in 60 steps at 96 px nothing was learnt. All of it takes about four hours of one CPU core.
The choice sees validation rows of the training domains only; *regret* is the best row's mean on
the held-out domains minus the kept row's, in points.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

import stockpot
from stockpot.evaluation.claims import Claim
from stockpot.files import atomic_folder
from stockpot.recycling.protocols import PROTOCOLS
from stockpot.tasks import load_task, parse_task_spec

HERE = Path(__file__).resolve().parent
LITE0 = f"{HERE.parent / 'examples' / 'pacs' / 'lite0.py'}:efficientnet_lite0"
COMMON = {
    "runs": 4,
    "stock_runs": "plain",  # Model Stock of the soup's runs: no training of its own
    "protocols": [
        "linear_probe",
        "single",
        "erm",
        "moving_average",
        "swad",
        "wise_ft_half",
        "wise_ft",
        "ensemble",
        "soup_uniform",
        "soup_greedy",
        "stock_all",
        "inter_training",
        "ratatouille_uniform",
        "ratatouille_greedy",
    ],
    "connectivity": {"points": 3, "examples": 100},
}
HELD_OUT = {
    "sentiment": ("movies", "products"),
    "PACS": ("art_painting", "sketch"),
    "emoji": ("fluent-emoji-high-contrast", "noto"),
    "rotated Fashion": ("75", "15"),
}
"""The second of each was run after the rule was made."""
FASHION = "/usr/share/datasets/fashion-mnist"


def recipes(data: Path, pacs: Path | None) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Name, the folder that must be there, and the recipe: every set, either domain held out."""
    for position in (0, 1):
        for name, needed, recipe in _sets(data, pacs):
            domain = HELD_OUT[name][position]
            recipe["held_out"] = [domain]
            if name == "emoji":  # its folders hold emoji that appear in no other style
                recipe["task"]["path"] = str(data / "emoji" / f"hold-out-{domain}")
            yield f"{name}, {domain}", needed, recipe


def _sets(data: Path, pacs: Path | None) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    lite0 = {"kind": "function", "name": LITE0, "weights": str(data / "lite0")}
    images = {
        "learning_rate": [3e-4, 1e-4, 5e-4],
        "head_only_steps": 20,
        "evaluate_every": 20,
        "batch_size": 12,
        "steps": 60,
    }
    augmented = {**images, "views": 2}
    turned = {"name": "rotation", "rotation": True, "training": {"limit_per_domain": 500}}
    yield (
        "sentiment",
        data / "sentiment",
        {
            "task": {
                "kind": "text",
                "path": str(data / "sentiment" / "sentiment.csv"),
                "target": "sign",
                "margin": 0.5,
            },
            "backbone": {
                "kind": "transformers",
                "name": str(data / "minilm"),
                "pooling": "mean",
                "max_length": 32,
                "freeze_below": "encoder.layer.5",
            },
            "auxiliaries": [
                {"name": "sre", "weights": str(data / "sre")},
                {
                    "name": "glosses",
                    "task": {"kind": "text", "path": str(data / "glosses" / "glosses.csv")},
                    "training": {"limit_per_domain": 1000},
                },
            ],
            "training": {
                "steps": 80,
                "batch_size": 12,
                "learning_rate": [2e-4, 1e-4, 3e-4],
                "weight_decay": [0.0, 1e-4],
                "dropout": [0.1, 0.0, 0.3],
                "head_only_steps": 20,
                "evaluate_every": 20,
                "limit_per_domain": 1000,
            },
        },
    )
    if pacs is not None:
        yield (
            "PACS",
            pacs,
            {
                "task": {"kind": "images", "path": str(pacs), "size": 128},
                "backbone": {**lite0, "image_size": 128, "freeze_below": "_blocks.11"},
                "auxiliaries": [
                    {
                        "name": "glyphs",
                        "task": {"kind": "images", "path": str(data / "glyphs"), "size": 128},
                        "training": {"limit_per_domain": 1000},
                    },
                    turned,
                ],
                "training": {**augmented, "steps": 120, "limit_per_domain": 1200},
            },
        )
    yield (
        "emoji",
        data / "emoji",
        {
            "task": {"kind": "images", "size": 96},
            "backbone": {**lite0, "image_size": 96, "freeze_below": "_blocks.9"},
            "auxiliaries": [turned],
            "training": augmented,
        },
    )
    yield (
        "rotated Fashion",
        Path(FASHION),
        {
            "task": {"kind": "images", "path": str(data / "rotated"), "size": 56},
            "backbone": {**lite0, "image_size": 56, "freeze_below": "_blocks.9"},
            "auxiliaries": [
                {
                    "name": "glyphs",
                    "task": {"kind": "images", "path": str(data / "glyphs"), "size": 56},
                    "training": {"limit_per_domain": 1000},
                }
            ],
            "training": {**images, "augmentation": False},
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with weights, texts and images")
    parser.add_argument("--pacs", type=Path, help="folder with PACS")
    parser.add_argument("--only", nargs="+", default=[], help='such as "PACS" or "PACS, sketch"')
    parser.add_argument("--output", type=Path, default=Path("runs/choice"), help="working folder")
    parser.add_argument("--page", type=Path, help="the Markdown file to write")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--jobs", type=int, help="processes [default: cores]")
    arguments = parser.parse_args()
    results = {}
    for name, needed, recipe in recipes(arguments.data.resolve(), arguments.pacs):
        if arguments.only and not {name, name.split(",")[0]} & set(arguments.only):
            continue
        if not needed.is_dir():
            print(f"left out: {name}, there is no {needed}")
            continue
        whole = {"title": name.split(",")[0], "trials": arguments.trials, **COMMON, **recipe}
        if name.startswith("rotated Fashion"):
            write_rotated(arguments.data / "rotated")
        output = arguments.output / name.replace(", ", "-").replace(" ", "-")
        results[name] = stockpot.recycle(
            whole, output, jobs=arguments.jobs, overwrite=True
        ).results.to_json()
        stockpot.write_report(results[name], output / "report.html")
        print("\n".join(summary(name, results[name])), flush=True)
    if arguments.page is not None:
        only = " ".join(f"'{name}'" if " " in name else name for name in arguments.only)
        command = f"python benchmarks/choice.py DATA --pacs PACS{f' --only {only}' if only else ''}"
        notes = arguments.page.with_suffix(".notes.md")
        text = page(results, f"{command} --page {arguments.page}")
        if notes.exists():
            title, _, rest = text.partition("\n\n")
            text = f"{title}\n\n{notes.read_text(encoding='utf-8')}\n{rest}"
        arguments.page.write_text(text, encoding="utf-8")


def write_rotated(folder: Path, each: int = 100) -> None:
    """Four angles of Fashion-MNIST as ``angle/class/number.png``: other clothes in every angle."""
    if folder.exists():
        return
    task = load_task(parse_task_spec({"kind": "rotated_mnist", "path": FASHION}), root=Path())
    with atomic_folder(folder) as half:
        for angle in ("15", "30", "45", "75"):
            rows = task.rows(angle)
            for label in range(len(task.classes)):
                place = half / angle / task.classes[label]
                place.mkdir(parents=True)
                for row in rows[task.labels[rows] == label][:each]:
                    pixels = np.asarray(task.inputs[row]).reshape(28, 28)
                    grey = np.round(pixels * 255 if pixels.max() <= 1 else pixels)
                    Image.fromarray(grey.astype(np.uint8)).convert("RGB").save(place / f"{row}.png")


def fixed(results: dict[str, Any]) -> dict[str, float]:
    """Held-out mean of every row that could have been kept."""
    names = [row["protocol"] for row in results["final"]["candidates"]]
    return {row["protocol"]: row["mean"] for row in results["table"] if row["protocol"] in names}


def summary(name: str, results: dict[str, Any]) -> list[str]:
    """A line a row, in the order of validation."""
    means, final = fixed(results), results["final"]
    lines = [f"{name}: kept {final['protocol']}, regret {regret(results):.2f}; {final['why']}"]
    for row in final["candidates"]:
        mark = ">" if row["protocol"] == final["protocol"] else "=" if row["level"] else " "
        lines.append(
            f"{mark} {row['protocol']:22} {100 * row['validation']:6.2f} "
            f"{-100 * row['behind']['mean']:6.2f} +-{100 * row['behind']['margin']:5.2f} "
            f"{row['decisions']} {row['steps']:6.0f}  held out {100 * means[row['protocol']]:6.2f}"
        )
    return lines


def regret(results: dict[str, Any]) -> float:
    """Points between the best row that could have been kept and the one that was."""
    means = fixed(results)
    return 100 * (max(means.values()) - means[results["final"]["protocol"]])


def page(results: dict[str, dict[str, Any]], command: str) -> str:
    """The table as Markdown; a hand-written file beside the page is put below its title."""
    names = [
        name
        for name in PROTOCOLS
        if results and all(name in fixed(result) for result in results.values())
    ]
    means = {name: {key: fixed(result)[name] for key, result in results.items()} for name in names}
    best = {key: max(fixed(result).values()) for key, result in results.items()}
    lines = [
        "# Is what `recycle` keeps any good?\n",
        f"{' '.join(__doc__.split('``DATA`` is any folder; ')[1].split())}\n",
        f"`{command}`\n",
        "Held-out accuracy in %, mean over held-out domains and three splits; regret in points.\n",
        "| kept always | " + " | ".join(results) + " | mean regret | worst regret |",
        "|---|" + "---:|" * (len(results) + 2),
    ]
    autos = [regret(result) for result in results.values()]
    cells = [
        f"{100 * fixed(result)[result['final']['protocol']]:.1f} ({result['final']['label']})"
        for result in results.values()
    ]
    lines.append(f"| **auto** | {' | '.join(cells)} | {fmean(autos):.2f} | {max(autos):.2f} |")
    gaps = {
        name: [100 * (best[key] - value) for key, value in row.items()]
        for name, row in means.items()
    }
    for name in sorted(names, key=lambda name: fmean(gaps[name])):
        row = " | ".join(f"{100 * value:.1f}" for value in means[name].values())
        worst = f"{fmean(gaps[name]):.2f} | {max(gaps[name]):.2f}"
        lines.append(f"| {PROTOCOLS[name].label} | {row} | {worst} |")
    lines += ["", "## What was kept, and against what", ""]
    for key, result in results.items():
        claims = " ".join(Claim.from_json(value).sentence() for value in result["final"]["claims"])
        lines.append(f"- **{key}**: {result['final']['label']}, {result['final']['why']}. {claims}")
    lines += ["", "## By validation", ""]
    for key, result in results.items():
        lines += [f"```\n{chr(10).join(summary(key, result))}\n```", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
