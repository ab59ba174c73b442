"""Fennec on the example zoo: learn from known tasks, rank for a new one, compare with the truth.

    python examples/rank/fennec.py runs/emoji/results.json --known digits fashion --new emoji

``results.json`` comes from ``stockpot rank ... --verify`` on the new task and holds what every
model reached. The proxy, which looks at tasks, is a model of the zoo (the paper: CLIP ViT-L/14).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from stockpot.ranking import (
    ModelEntry,
    Prepared,
    fennec,
    load_request,
    load_zoo,
    prepare_task,
    weighted_tau,
)

HERE = Path(__file__).resolve().parent


def opened(name: str, cache: Path) -> Prepared:
    """A task of this folder, divided as ``rank`` divides it."""
    request, root = load_request(HERE / f"{name}.yaml")
    return prepare_task(request, root, load_zoo(HERE / "zoo.yaml"), cache=cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--known", nargs="+", required=True)
    parser.add_argument("--new", required=True)
    parser.add_argument("--proxy", default="lite2")
    parser.add_argument("--cache", type=Path, help="keep features here")
    options = parser.parse_args()
    verified = json.loads(options.results.read_text(encoding="utf-8"))["verified"]
    real = dict(zip(verified["models"], verified["real"], strict=True))
    with tempfile.TemporaryDirectory() as temporary:
        cache = options.cache or Path(temporary)
        known = [opened(name, cache) for name in options.known]
        new = opened(options.new, cache)
        entries = {n: e for n, e in new.entries.items() if isinstance(e, ModelEntry) and n in real}
        place = {"cache": cache / "fennec", "root": new.zoo.root}
        proxy = entries[options.proxy]
        found = fennec.learn([(one.task, one.order) for one in known], entries, proxy, **place)
        truth = np.array([real[name] for name in found.models])
        print("| variant | weighted tau | regret, points | puts first | online, ms |")
        print("|---|---:|---:|---|---:|")
        for label, merge, scaled in (
            ("Fennec as released (half latent, half meta)", 0.5, False),
            ("facts standardised", 0.5, True),
            ("latent part alone", 1.0, False),
            ("meta part alone", 0.0, False),
        ):
            fitted = found.fit(merge=merge, scale_facts=scaled)
            ranking = fennec.rank_by(found, fitted, new.task, new.order, proxy, **place)
            guess = np.array([ranking.scores[name] for name in found.models])
            regret = 100 * (truth.max() - truth[guess.argmax()])
            tau = weighted_tau(truth, guess)
            first = found.models[int(guess.argmax())]
            cells = [label, f"{tau:.3f}", f"{regret:.1f}", first, f"{ranking.milliseconds:.1f}"]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
