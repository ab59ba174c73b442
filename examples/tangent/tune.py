"""Choose learning rates for the recipes of this folder, on a split that no trial uses.

    python examples/tangent/tune.py

Every method gets the same number of tries. The trial has seed 99, the setting is the first of each
recipe (five random parts), the number is accuracy on its test examples.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stockpot.continual import compare, load_recipe

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SETTINGS = {
    "tangent.learning_rate": ("tmc", "joint_tangent"),
    "nonlinear.learning_rate": ("soup", "ensemble"),
    "nonlinear_square.learning_rate": ("soup_square", "ensemble_square"),
}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="a recipe's name; repeatable")
    parser.add_argument("--set", action="append", default=[], dest="changes", help="as continual's")
    arguments = parser.parse_args()
    for name in arguments.only or ("fashion", "digits", "text"):
        setting = load_recipe(HERE / f"{name}.yaml").settings[0].model_dump(exclude_none=True)
        print(f"| {name} | " + " | ".join(f"{rate:g}" for rate in RATES) + " |", flush=True)
        for key, methods in SETTINGS.items():
            found: dict[str, list[float]] = {method: [] for method in methods}
            for rate in RATES:
                changes = [
                    *("seed=99", "trials=1", f"settings={json.dumps([setting])}"),
                    *(f"methods={json.dumps(methods)}", f"baseline={methods[0]}", f"{key}={rate}"),
                ]
                done = compare(
                    HERE / f"{name}.yaml",
                    ROOT / "runs" / "tangent-tune" / name,
                    changes=[*changes, *arguments.changes],
                )
                for row in done.results.settings[0].methods:
                    found[row.method].append(row.finals[0])
            for method, values in found.items():
                cells = " | ".join(f"{100 * value:.1f}" for value in values)
                print(f"| {method} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
