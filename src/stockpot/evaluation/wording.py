"""Numbers in words: one form for accuracies and differences wherever they are shown."""

from __future__ import annotations


def points(value: float, *, metric: str = "accuracy", sign: bool = False) -> str:
    """A score or difference as text: accuracy in points of 100 (``84.3``), R2 (``0.843``)."""
    scaled, digits = (value, 3) if metric == "r2" else (100.0 * value, 1)
    text = f"{abs(scaled):.{digits}f}"
    is_zero = float(text) == 0
    if scaled < 0 and not is_zero:
        return f"-{text}"
    return f"+{text}" if sign and not is_zero else text


def unit(metric: str) -> str:
    """The unit after a difference: ``points`` of accuracy or ``of R2``."""
    return "of R2" if metric == "r2" else "points"


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
    spread = f"{points(low, metric=metric, sign=True)} to {points(high, metric=metric, sign=True)}"
    return f"no difference that this test could see ({spread})"


def in_sentence(label: str) -> str:
    """A method's label inside a sentence: ``ERM, best run`` becomes ``ERM (best run)``."""
    name, comma, rest = label.partition(", ")
    if not comma:
        return label
    return f"{name[:-1]}, {rest})" if name.endswith(")") else f"{name} ({rest})"
