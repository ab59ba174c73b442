"""The first look: what a few hundred examples say, while the rest is still being looked at."""

from __future__ import annotations

import sys
from dataclasses import replace

from stockpot.ranking.scoring import Scored, held_out_value
from stockpot.ranking.state import RankingRun

_SHOWN = 8


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
    if (share := run.chance) is not None:
        lines.append(f"  (always the most frequent class: {share:.3f})")
    return lines


def show_look(run: RankingRun, first: Scored) -> None:
    """Print the first answer on stderr."""
    if not run.options.quiet:
        print("\n".join(look_lines(run, first)), file=sys.stderr, flush=True)  # noqa: T201
