"""Write what `stockpot rank ... --verify` found as Markdown tables.

python examples/rank/page.py runs/emoji/results.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Markdown; the first ``left`` columns to the left, numbers to the right."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def models(results: dict[str, Any]) -> str:
    """Real order, what was predicted before any fine-tuning, and what it rests on."""
    found = results["verified"]
    real = dict(zip(found["models"], found["real"], strict=True))
    by_name = {model["name"]: model for model in results["models"]}
    rows = []
    for place, name in enumerate(sorted(real, key=lambda each: -real[each]), 1):
        model = by_name[name]
        before = model["before"]
        rows.append(
            [
                f"{place}",
                name,
                f"{100 * real[name]:.1f}",
                f"{100 * model['tuned']['probe']:.1f}",
                f"{before['rank']['mean']:.1f}",
                f"{before['rank']['low']:.0f} to {before['rank']['high']:.0f}",
                f"{100 * before['p_best']:.0f}",
                f"{model['scores'].get('logme', float('nan')):.3f}",
                f"{model['cost']['parameters'] / 1e6:.1f}",
            ]
        )
    head = ["real place", "model", "fine-tuned", "linear probe", "predicted place", "90 %"]
    return table([*head, "P(best), %", "LogME", "parameters, M"], rows, left=2)


def predictors(results: dict[str, Any]) -> str:
    """Every predictor against the real order, best first."""
    found = results["verified"]
    rows = sorted(found["predictors"], key=lambda row: -(row["tau"] or -1.0))
    cells = [
        [
            row["predictor"],
            row["first"],
            "" if row["tau"] is None else f"{row['tau']:.3f}",
            f"{100 * row['regret']:.1f}",
        ]
        for row in rows
    ]
    return table(["predictor", "puts first", "weighted tau", "regret, points"], cells, left=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    results = json.loads(parser.parse_args().results.read_text(encoding="utf-8"))
    print(models(results), predictors(results), sep="\n\n")
    print(f"\nA perfect predictor: {results['verified']['noise']:.3f}.")
    for each in results["evidence"]:
        print(f"- {each['name']}{'' if each['used'] else ' (not used)'}: {each['reason']}")
    rounds = [f"{r['rows']}: {r['agreement']:.2f}" for r in results["sample"]["rounds"]]
    print("\nStop rule:", ", ".join(rounds))


if __name__ == "__main__":
    main()
