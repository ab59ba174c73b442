"""How accurate compositions are, on several data sets and backbones, with default settings.

    python benchmarks/tangent_accuracy.py -o runs/accuracy [--only digits] [--trials 3] [--markdown]

Each cell is one run of ``stockpot tangent continual``: five shards dealt at random, every method on
the same rows, head and base. Activations below the cut and feature vectors are computed once and
kept; an interrupted run goes on. No setting is chosen by data set. Weights and texts come by
``stockpot demo --fetch-only``, Fashion-MNIST with Debian's `dataset-fashion-mnist`, MobileNetV2's
weights by ``python examples/rank/fetch.py``. A cell whose files are missing is named and left out.

``--check`` exits with 1 where statistics are more than 0.2 points below ridge or below RanPAC.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from stockpot.continual import ContinualResults, compare
from stockpot.demo.packages import cache_folder

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
DATA = EXAMPLES / "tangent" / "accuracy" / "data.py"
ASSETS = cache_folder() / "assets"
LITE0 = {
    "kind": "function",
    "name": f"{EXAMPLES}/pacs/lite0.py:efficientnet_lite0",
    "weights": f"{ASSETS}/lite0/model.safetensors",
    "image_size": 64,
    "freeze_below": "_blocks.15",
}
MOBILENET = {
    "kind": "function",
    "name": f"{EXAMPLES}/rank/networks.py:mobilenet_v2",
    "weights": f"{EXAMPLES}/rank/models/mobilenetv2-imagenet.safetensors",
    "image_size": 64,
    "freeze_below": "features.17",
}
MINILM = {
    "kind": "transformers",
    "name": f"{ASSETS}/minilm",
    "max_length": 24,
    "freeze_below": "encoder.layer.5",
}
CELLS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "digits, Lite0": ("digits", {}, LITE0),
    "Fashion, Lite0": ("fashion", {"per_class": 200}, LITE0),
    "digits, MobileNetV2": ("digits", {}, MOBILENET),
    "Fashion, MobileNetV2": ("fashion", {"per_class": 200}, MOBILENET),
    "glosses, MiniLM": ("glosses", {"topics": 10}, MINILM),
    "tweets, MiniLM": ("sentiment", {"domain": "tweets", "per_class": 700}, MINILM),
    "editorials, MiniLM": ("sentiment", {"domain": "editorials", "per_class": 700}, MINILM),
}
METHODS = ["tmc", "soup", "ensemble", "statistics", "ranpac", "ranpac_first", "ridge", "simplecil"]
METHODS += ["probe", "joint_tangent", "joint"]


def main() -> None:
    """Run the cells that were asked for, print a table, check the promises."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "runs" / "accuracy")
    parser.add_argument("--only", nargs="*", default=[""], help="parts of cells' names")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--random-dimension", type=int, default=10_000)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    results: dict[str, ContinualResults] = {}
    for name in CELLS:
        if not any(part in name for part in options.only):
            continue
        weights = Path(CELLS[name][2].get("weights", CELLS[name][2]["name"]))
        if not weights.exists():
            print(f"{name}: left out, there is no {weights}", file=sys.stderr)
            continue
        folder = options.output / name.replace(", ", "-").lower()
        results[name] = compare(recipe(name, options), folder, backend="serial").results
    print(table(results, options.methods))
    if options.check:
        problems = broken(results)
        print("\n".join(problems) or "all promises hold", file=sys.stderr)
        sys.exit(bool(problems))


def recipe(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Five shards at random; nothing is chosen by data set but the number of rows."""
    function, arguments, backbone = CELLS[name]
    return {
        "title": name,
        "task": {"kind": "function", "function": f"{DATA}:{function}", "arguments": arguments},
        "data": {"test_fraction": 0.35},
        "backbone": backbone,
        "settings": [{"mode": "data", "parts": 5}],
        "trials": options.trials,
        "methods": options.methods,
        "baseline": options.methods[0],
        "nonlinear": {"loss": "cross_entropy", "epochs": 20, "learning_rate": 1e-3},
        "features": {
            "dimension": 1024,
            "directions": 1,
            "random_dimension": options.random_dimension,
        },
    }


def table(results: dict[str, ContinualResults], methods: list[str]) -> str:
    """Final accuracies in percent, one column a cell."""
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---:|" * len(results)]
    for method in methods:
        label, row = method, []
        for result in results.values():
            found = next(one for one in result.settings[0].methods if one.method == method)
            label = found.label
            row.append(f"{100 * found.final.mean:.1f}")
        lines.append(f"| {label} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def broken(results: dict[str, ContinualResults]) -> list[str]:
    """Cells in which statistics fall short of what they contain."""
    problems = []
    for name, result in results.items():
        final = {one.method: 100 * one.final.mean for one in result.settings[0].methods}
        for other, allowed in (("ridge", 0.2), ("ranpac", 0.0)):
            if final["statistics"] < final[other] - allowed:
                problems.append(
                    f"{name}: statistics {final['statistics']:.1f}, {other} {final[other]:.1f}"
                )
    return problems


if __name__ == "__main__":
    main()
