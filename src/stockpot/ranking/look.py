"""The first look: what a few hundred examples say, while the rest is still being looked at."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite

from stockpot.evaluation import Interval
from stockpot.ranking.scores import Value
from stockpot.ranking.scoring import Scored
from stockpot.ranking.state import RankingRun

_NORMAL = 1.6449  # standard deviations from the mean to the end of a 90 % interval
_SHOWN = 8


def held_out_value(values: Mapping[str, Value]) -> Interval | None:
    """What a head reaches on examples that it has not seen, with its 90 % interval: the better of
    ridge regression and nearest neighbours, each example predicted from the others."""
    known = [values[name] for name in ("loo_ridge", "knn") if name in values]
    known = [value for value in known if isfinite(value.details["error"])]
    if not known:
        return None
    best = max(known, key=lambda value: value.value)
    half = _NORMAL * float(best.details["error"])
    return Interval(best.value, best.value - half, best.value + half)


def look_lines(run: RankingRun, first: Scored) -> list[str]:
    """The first answer: models, best first, what a head reaches, and P(best)."""
    beliefs = replace(run, scored=first, failed=(*run.failed, *first.failed)).believe()
    seconds = sum(first.seconds.values())
    measure = "R2" if run.prepared.metric == "r2" else "accuracy"
    lines = [
        f"first look: {first.rows} examples, {seconds:.0f} s; {measure} of a head on examples that "
        "it has not seen (90 %)"
    ]
    for name in beliefs.order[:_SHOWN]:
        value = held_out_value(first.values.get(name, {}))
        told = "" if value is None else f"{value.mean:.3f} ({value.low:.3f} to {value.high:.3f})"
        lines.append(f"  {name:.40}  {told}  P(best) {beliefs.best[name]:.0%}")
    return lines


def show_look(run: RankingRun, first: Scored) -> None:
    """Print the first answer on stderr."""
    if not run.options.quiet:
        print("\n".join(look_lines(run, first)), file=sys.stderr, flush=True)  # noqa: T201
