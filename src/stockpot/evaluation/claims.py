"""Claims: who was compared with whom, on which rows, with what result, and the sentence for it.

A sentence that compares two models is written by :meth:`Claim.sentence` or :meth:`Claim.phrase`,
so that nothing is said without a comparison behind it. What a verdict means:

- ``better``, ``worse``: the interval leaves out 0, and it covers other examples and other
  trainings. Where claims are made together it is wide enough that *all* of them hold with the
  stated confidence (``comparisons`` says how many); a reader who looks through a table for what
  stands out is then still right 95 times of 100. Simultaneous intervals were chosen over Holm's
  steps or a false discovery rate because verdict and drawn interval then always agree.
- ``no difference``: it does not leave out 0.
- ``not testable``: too few trainings (one trial of one or two domains, two trials of one). The
  interval covers the examples only, another seed may differ, and no sentence says better or worse.

``crossed`` has the statistics, ``benchmarks/coverage.py`` shows how often they are right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stockpot.errors import InputError
from stockpot.evaluation.crossed import (
    Cell,
    CrossedMean,
    Strata,
    crossed_difference,
    numbered,
    single_error,
)
from stockpot.evaluation.intervals import Interval, difference_interval
from stockpot.evaluation.wording import declared, ends, in_sentence, points, unit

Verdict = Literal["better", "worse", "no difference", "not testable"]
Covers = Literal[
    "examples only",
    "examples and trainings",
    "examples, trainings and other domains",
    "examples, of these very weights",
]
THESE_WEIGHTS: Covers = "examples, of these very weights"
"""Of claims about models as they are, not about how they were trained."""
HELD_OUT, VALIDATION, TEST = "held-out domains", "validation rows", "test rows"
CellScores = npt.ArrayLike | Mapping[str, npt.ArrayLike]
"""Per-example scores (N,) of a cell; by source where its mean is the mean over sources."""


@dataclass(frozen=True)
class Claim(Interval):
    """``subject`` minus ``against``, in units of ``metric``: ``mean`` between ``low`` and ``high``.

    Attributes:
        subject, against: names (of protocols), ``subject_label`` and ``against_label`` in words.
        rows: where both were scored: "held-out domains", "validation rows" or "test rows".
        metric: "accuracy", "r2", ...
        level: confidence of the interval, jointly for all ``comparisons`` of its family.
        covers: what may be drawn anew for the interval to hold.
        trials: trainings a domain.
        domains: names of the domains averaged over.
        comparisons: claims made together with this one, itself included.
        verdict: see the module's docstring.
    """

    subject: str
    against: str
    subject_label: str
    against_label: str
    rows: str
    metric: str
    level: float
    covers: Covers
    trials: int
    domains: tuple[str, ...]
    comparisons: int
    verdict: Verdict

    def __post_init__(self) -> None:
        if self.verdict != verdict_of(self, self.covers):
            raise InputError(
                f"a claim of '{self.verdict}' does not follow from {self.low:g} to {self.high:g}, "
                f"covering {self.covers}"
            )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "domains": list(self.domains)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Claim:
        """The claim that :meth:`to_json` wrote; ``InputError`` names what is missing or unknown."""
        names = {field.name for field in fields(cls)}
        if wrong := names ^ value.keys():
            state = "lacks" if wrong & names else "does not know"
            raise InputError(f"a claim {state} '{min(wrong & names or wrong)}'")
        return cls(**{**value, "domains": tuple(value["domains"])})

    @property
    def where(self) -> str:
        """The rows in words: ``4 held-out domains``, ``the held-out domain sketches``."""
        if self.rows != HELD_OUT:
            return self.rows
        count = len(self.domains)
        return f"the held-out domain {self.domains[0]}" if count == 1 else f"{count} {self.rows}"

    def phrase(self) -> str:
        """The difference without names: ``better by 1.2 points (0.3 to 2.1)``."""
        if self.is_equal:
            return "the same on every example"
        if self.verdict == "not testable":
            # Nothing here may read as a verdict: the rows are these, the trainings are these.
            return f"{self._signed()} on these rows ({self._spread()}; {self._caveat()})"
        if self.verdict == "no difference":
            return f"no difference that this test could see ({self._spread()})"
        return f"{self.verdict} by {self.size()} ({self.ends()})"

    def sentence(self) -> str:
        """The whole claim, ending in a full stop."""
        own, other = in_sentence(self.subject_label), in_sentence(self.against_label)
        where = f"on {self.where}"
        if self.is_equal:
            return f"{own} and {other} score the same on every example of {self.where}."
        if self.verdict == "no difference":
            return (
                f"No difference that this test could see between {own} and {other} {where} "
                f"({self._spread()} {unit(self.metric)})."
            )
        if self.verdict == "not testable":
            spread = f"({self._spread()} for other rows; {self._caveat()})"
            return f"{own} against {other}: {self._signed()} {where} {spread}."
        return f"{own} is {self.size()} {self.verdict} than {other} {where} ({self.ends()})."

    def reversed(self) -> Claim:
        """The same comparison told from the other side."""
        turned: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}
        return replace(
            self,
            mean=0.0 - self.mean,
            low=0.0 - self.high,
            high=0.0 - self.low,
            subject=self.against,
            against=self.subject,
            subject_label=self.against_label,
            against_label=self.subject_label,
            verdict=turned.get(self.verdict, self.verdict),
        )

    @property
    def is_equal(self) -> bool:
        """Whether the two score the same on every example."""
        return self.low == self.high == self.mean == 0

    def size(self) -> str:
        """The difference without its sign: ``1.2 points``."""
        return f"{self._points(abs(self.mean))} {unit(self.metric)}"

    def ends(self) -> str:
        """The interval without signs, of a difference that leaves out 0: ``0.3 to 2.1``."""
        low, high = sorted((abs(self.low), abs(self.high)))
        return f"{self._points(low)} to {self._points(high)}"

    def certainty(self) -> str:
        """What the interval is: level, what it covers, how many claims it holds for together."""
        words = f"{100 * self.level:g} % interval over {self.covers}"
        if self.comparisons > 1:
            words += f", for {self.comparisons} comparisons together"
        return words

    def _caveat(self) -> str:
        count = "one training" if self.trials == 1 else f"{self.trials} trainings"
        return f"{count} each, another seed may differ"

    def _signed(self) -> str:
        lower = "" if declared(self.metric).higher_is_better else " (lower is better)"
        return f"{self._points(self.mean, sign=True)} {unit(self.metric)}{lower}"

    def _points(self, value: float, sign: bool = False) -> str:
        return points(value, metric=self.metric, sign=sign)

    def _spread(self) -> str:
        return " to ".join(ends(self.low, self.high, metric=self.metric, sign=True))


def verdict_of(interval: Interval, covers: Covers) -> Verdict:
    """The only verdict that an interval and what it covers allow."""
    if covers == "examples only":
        return "not testable"
    if interval.low > 0:
        return "better"
    return "worse" if interval.high < 0 else "no difference"


def joined(claims: Sequence[Claim]) -> str:
    """One sentence for claims with one subject and one verdict; several where they cannot join."""
    first = claims[0]
    if len(claims) == 1 or first.verdict not in ("better", "worse"):
        return " ".join(claim.sentence() for claim in claims)
    parts = [
        f"{claim.size()} {claim.verdict} than {in_sentence(claim.against_label)} ({claim.ends()})"
        for claim in claims
    ]
    return f"On {first.where} {in_sentence(first.subject_label)} is {' and '.join(parts)}."


def compare(
    scores: Mapping[str, Mapping[Cell, CellScores]],
    subject: str,
    against: str,
    *,
    rows: str = HELD_OUT,
    metric: str = "accuracy",
    examples: Mapping[Cell, CellScores] | None = None,
    labels: Mapping[str, str] | None = None,
    level: float = 0.95,
) -> Claim:
    """One claim on its own; :func:`compare_all` makes several that hold together."""
    return compare_all(
        scores,
        [(subject, against)],
        rows=rows,
        metric=metric,
        examples=examples,
        labels=labels,
        level=level,
    )[0]


def compare_all(
    scores: Mapping[str, Mapping[Cell, CellScores]],
    pairs: Iterable[tuple[str, str]],
    *,
    rows: str = HELD_OUT,
    metric: str = "accuracy",
    examples: Mapping[Cell, CellScores] | None = None,
    labels: Mapping[str, str] | None = None,
    level: float = 0.95,
    trainings: bool = True,
) -> tuple[Claim, ...]:
    """Claims of several pairs (subject, against), corrected for being made together.

    ``scores``: protocol -> (domain, trial) -> per-example scores (N,), higher is better, their
    mean the metric; domain is what was held out for the training. A cell may hold several sources,
    ``{"validation/art": (N,), ...}``, whose means are averaged. ``examples``: identity of each
    example, shaped alike; equal numbers in two cells are one example (cells share validation
    rows). Without it the trials of a domain share their examples in order, and domains share none.
    ``trainings``: whether other trainings are spoken of where they are seen, or these very weights
    alone. ``rows`` is written into the claims. On rows that chose the subject a claim is not fair
    to it: compare on rows that chose nothing.

    Raises ``InputError`` on unknown names, cells that do not match, or scores that are not finite.
    """
    pairs = list(pairs)
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    values = _checked(scores, names)
    cells = {cell: own for name in names for cell, own in values[name].items()}
    known = None
    if examples is not None:
        known = {cell: _strata(own) for cell, own in examples.items()}
        _check_lengths("examples", {cell: known.get(cell, {}) for cell in cells}, cells)
    for name in names:
        _check_lengths(f"protocol '{name}'", values[name], cells)
    identities, size = numbered(dict(sorted(cells.items())), known)
    differences = [
        crossed_difference(values[own], values[other], identities, size) for own, other in pairs
    ]
    if not trainings:
        differences = [difference.of_these_trainings() for difference in differences]
    error = single_error(differences, 1.0 - level)
    labels = labels or {}
    domains = tuple(dict.fromkeys(domain for domain, _ in cells))
    return tuple(
        _claim(
            difference,
            error,
            subject=subject,
            against=against,
            subject_label=labels.get(subject, subject),
            against_label=labels.get(against, against),
            rows=rows,
            metric=metric,
            level=level,
            domains=domains,
            comparisons=len(pairs),
        )
        for (subject, against), difference in zip(pairs, differences, strict=True)
    )


def _claim(difference: CrossedMean, error: float, **known: Any) -> Claim:
    found = difference_interval(difference, error, known["metric"])
    covers: Covers = "examples only"
    if difference.covers_trainings:
        covers = (
            "examples and trainings"
            if difference.trials > 1
            else "examples, trainings and other domains"
        )
    return Claim(
        **vars(found),
        covers=covers,
        trials=difference.trials,
        verdict=verdict_of(found, covers),
        **known,
    )


def _strata(scores: CellScores) -> dict[str, npt.NDArray[Any]]:
    if isinstance(scores, Mapping):
        return {name: np.asarray(own) for name, own in scores.items()}
    return {"": np.asarray(scores)}


def _checked(
    scores: Mapping[str, Mapping[Cell, CellScores]], names: Sequence[str]
) -> dict[str, dict[Cell, Strata]]:
    """The named protocols' scores as float64, all finite, all with the same domains."""
    values: dict[str, dict[Cell, Strata]] = {}
    for name in names:
        if name not in scores:
            raise InputError(
                f"'{name}' is not among the protocols that were scored",
                hint=f"choose among: {', '.join(scores)}",
            )
        values[name] = {
            cell: {part: own.astype(np.float64) for part, own in _strata(each).items()}
            for cell, each in scores[name].items()
        }
    everywhere = {domain for each in values.values() for domain, _ in each}
    for name, own in values.items():
        if missing := everywhere - {domain for domain, _ in own}:
            raise InputError(f"protocol '{name}' has no scores for domain '{min(missing)}'")
        for (domain, trial), strata in own.items():
            if not all(np.isfinite(line).all() for line in strata.values()):
                raise InputError(
                    f"protocol '{name}' has a score that is not finite for domain '{domain}', "
                    f"trial {trial}"
                )
    return values


def _check_lengths(
    what: str, own: Mapping[Cell, Mapping[str, npt.NDArray[Any]]], cells: Mapping[Cell, Strata]
) -> None:
    """Every part of every cell is one line, as long as the other protocols' there."""
    for cell, strata in own.items():
        for part, expected in cells[cell].items():
            line = strata.get(part)
            if line is None or line.shape != expected.shape or line.ndim != 1 or not len(line):
                found = "none" if line is None else f"shape {line.shape}"
                raise InputError(
                    f"{what} for domain '{cell[0]}', trial {cell[1]}: {found}, "
                    f"expected ({expected.size},)",
                    hint="every protocol is scored on the same examples, one number each",
                )
