"""How often claims are right, in worlds where the truth is known.

``python benchmarks/coverage.py`` prints the tables of docs/recipes.md, "How sure is a difference";
``--worlds N`` (default 1,000) sets how many worlds a line of the first rests on; a line of the
second rests on a third of them.

A world: rows of a domain differ in difficulty, normal with standard deviation 1.5 around the
domain's own level, in logits; a row is right where its logit is above 0. Every training of every
protocol adds noise of 0.3 logits: to all of its rows alike (``shared``), or to each row anew
(``rows``). Trials of a domain share its rows. The truth is known in closed form: what a protocol
reaches on average over trainings and rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from stockpot.evaluation.claims import Claim, compare_all

LEVELS = (1.0, 0.4, 1.6, 0.7)
DIFFICULTY, NOISE, GAIN = 1.5, 0.3, 0.4
Kind = Literal["shared", "rows"]
Scores = dict[str, dict[tuple[str, int], np.ndarray]]


def world(
    rng: np.random.Generator,
    protocols: int,
    domains: int,
    trials: int,
    rows: int,
    kind: Kind,
    gain: float,
) -> Scores:
    """Scores of protocol 0 and of others that are ahead of it by ``gain`` logits."""
    scores: Scores = {str(number): {} for number in range(protocols)}
    for domain in range(domains):
        difficulty = rng.normal(LEVELS[domain], DIFFICULTY, rows)
        for number in range(protocols):
            for trial in range(trials):
                noise = rng.normal(0, NOISE, 1 if kind == "shared" else rows)
                logits = difficulty + noise + (gain if number else 0.0)
                scores[str(number)][(str(domain), trial)] = (logits > 0).astype(np.float64)
    return scores


def truth(domains: int, gain: float) -> float:
    """The expected difference of accuracies, mean over domains."""
    spread = (DIFFICULTY**2 + NOISE**2) ** 0.5
    right = NormalDist().cdf
    gaps = [right((m + gain) / spread) - right(m / spread) for m in LEVELS[:domains]]
    return float(np.mean(gaps))


def claims(
    worlds: int, protocols: int, domains: int, trials: int, rows: int, kind: Kind, gain: float
) -> Iterator[tuple[Claim, ...]]:
    """The claims of every world: all protocols against protocol 0."""
    rng = np.random.default_rng([protocols, domains, trials, rows, int(10 * gain)])
    pairs = [(str(number), "0") for number in range(1, protocols)]
    for _ in range(worlds):
        yield compare_all(world(rng, protocols, domains, trials, rows, kind, gain), pairs)


@dataclass(frozen=True)
class Row:
    """``covered``: intervals that hold the truth; ``said``: claims of better or worse;
    ``outside``: intervals that leave out 0; ``half``: median half width, in points."""

    covered: float
    said: float
    outside: float
    half: float


def measure(
    worlds: int, domains: int, trials: int, kind: Kind, gain: float, rows: int = 300
) -> Row:
    """One comparison a world."""
    true = truth(domains, gain)
    made = [claim for (claim,) in claims(worlds, 2, domains, trials, rows, kind, gain)]
    return Row(
        float(np.mean([claim.low <= true <= claim.high for claim in made])),
        float(np.mean([claim.verdict in ("better", "worse") for claim in made])),
        float(np.mean([claim.low > 0 or claim.high < 0 for claim in made])),
        float(np.median([50 * (claim.high - claim.low) for claim in made])),
    )


def false_in_a_family(
    worlds: int, protocols: int, domains: int, trials: int, kind: Kind, rows: int = 300
) -> float:
    """How often any of ``protocols - 1`` equal protocols is called better or worse."""
    return float(
        np.mean(
            [
                any(claim.verdict in ("better", "worse") for claim in family)
                for family in claims(worlds, protocols, domains, trials, rows, kind, 0.0)
            ]
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=1000)
    worlds = parser.parse_args().worlds
    print(
        "| noise | domains | trials | covered, null | called better or worse, null "
        "| covered, gain | called better, gain | half width |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    kinds: tuple[Kind, ...] = ("shared", "rows")
    for kind in kinds:
        for domains in (1, 2, 3, 4):
            for trials in (1, 2, 3, 5):
                null = measure(worlds, domains, trials, kind, 0.0)
                real = measure(worlds, domains, trials, kind, GAIN)
                print(
                    f"| {kind} | {domains} | {trials} | {null.covered:.1%} | "
                    + (f"{null.said:.1%}" if null.said or trials * domains > 2 else "never")
                    + f" | {real.covered:.1%} | {real.said:.1%} | {null.half:.1f} |",
                    flush=True,
                )
    print()
    print("| noise | domains | trials | any of 10 equal rows called better or worse |")
    print("| --- | ---: | ---: | ---: |")
    for kind in kinds:
        for domains, trials in ((1, 3), (1, 5), (2, 2), (2, 3), (4, 1), (4, 2)):
            false = false_in_a_family(worlds // 3, 11, domains, trials, kind)
            print(f"| {kind} | {domains} | {trials} | {false:.1%} |", flush=True)


if __name__ == "__main__":
    main()
