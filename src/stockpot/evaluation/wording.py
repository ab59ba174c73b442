"""Numbers in words: one form for scores and differences wherever they are shown.

Scores come in higher-is-better (see ``metrics``) and go out in the metric's own sign and unit: a
log-loss of 0.412 that fell by 0.030 reads ``0.412`` and ``-0.030``, ``better by 0.030 nats``.
"""

from __future__ import annotations

import math

from stockpot.evaluation.metrics import GIVEN, METRICS, Metric


def declared(metric: str) -> Metric:
    """The metric's declaration; a name from elsewhere is shown as an accuracy."""
    return METRICS.get(metric) or GIVEN.get(metric) or METRICS["accuracy"]


def points(value: float, *, metric: str = "accuracy", sign: bool = False) -> str:
    """A score or the size of a difference as text: accuracy in points of 100 (``84.3``), R2
    (``0.843``). With ``sign`` a difference of scores, as the metric itself moved.
    """
    form = declared(metric)
    if not sign and not form.higher_is_better:
        value = abs(value)  # such a score is never positive, and a size never negative
    return _text(value * form.sign if sign else value, form, sign)


def ends(low: float, high: float, *, metric: str, sign: bool = False) -> tuple[str, str]:
    """Both ends of an interval of scores or of their differences, the lower number first."""
    form = declared(metric)
    if not form.higher_is_better:
        low, high = -high, -low
    return _text(low, form, sign), _text(high, form, sign)


def unit(metric: str) -> str:
    """The unit after a difference: ``points`` of accuracy or ``of R2``."""
    return declared(metric).unit


def label(metric: str) -> str:
    """The metric's name inside a sentence: ``accuracy``, ``log-loss``."""
    return declared(metric).label


def difference_words(mean: float, low: float, high: float, *, metric: str = "accuracy") -> str:
    """What a difference with its interval says; one that includes 0 reads as a null result."""
    if low == high == mean == 0:
        return "the same on every example"
    if low > 0:
        spread = f"{points(low, metric=metric)} to {points(high, metric=metric)}"
        return f"better by {points(mean, metric=metric)} {unit(metric)} ({spread})"
    if high < 0:
        spread = f"{points(-high, metric=metric)} to {points(-low, metric=metric)}"
        return f"worse by {points(-mean, metric=metric)} {unit(metric)} ({spread})"
    first, last = ends(low, high, metric=metric, sign=True)
    return f"no difference that this test could see ({first} to {last})"


def in_sentence(label: str) -> str:
    """A method's label inside a sentence: ``ERM, best run`` becomes ``ERM (best run)``."""
    name, comma, rest = label.partition(", ")
    if not comma:
        return label
    return f"{name[:-1]}, {rest})" if name.endswith(")") else f"{name} ({rest})"


def _text(value: float, form: Metric, sign: bool) -> str:
    scaled = 100.0 * value if form.percent else value
    text = _digits(abs(scaled), form.decimals)
    is_zero = float(text) == 0
    if scaled < 0 and not is_zero:
        return f"-{text}"
    return f"+{text}" if sign and not is_zero else text


def _digits(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if value == 0 or not 1e-4 <= value < 1e6:
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"
