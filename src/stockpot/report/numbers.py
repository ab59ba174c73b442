"""Numbers as a reader wants them: points, counts, durations, typographic minus and ranges."""

from __future__ import annotations

from stockpot.evaluation.wording import declared, ends, points

EN_DASH, MINUS, NO_BREAK = "–", "−", "\u00a0"


def typographic(words: str) -> str:
    """Hyphens before digits become minus signs."""
    return "".join(
        MINUS
        if c == "-" and words[i + 1 : i + 2].isdigit() and words[i - 1 : i] in ("", " ", "(")
        else c
        for i, c in enumerate(words)
    )


def score(value: float | None, metric: str) -> str:
    """An accuracy in percent without the sign (``84.3``), an R2 (``0.843``); a dash for none."""
    return EN_DASH if value is None else typographic(points(value, metric=metric))


def spread(low: float, high: float, metric: str) -> str:
    """An interval, ``83.1–85.5``; ``to`` where a minus sign would make the dash hard to read."""
    first, last = map(typographic, ends(low, high, metric=metric))
    lowest = low if declared(metric).higher_is_better else -high
    return f"{first}{' to ' if lowest < 0 else EN_DASH}{last}"


def signed(value: float, metric: str) -> str:
    return typographic(points(value, metric=metric, sign=True))


def signed_ends(low: float, high: float, metric: str) -> tuple[str, str]:
    """Both ends of a difference's interval with their signs, the lower number first."""
    first, last = ends(low, high, metric=metric, sign=True)
    return typographic(first), typographic(last)


def percent(metric: str) -> str:
    """What stands after a score: a percent sign for accuracies."""
    return f"{NO_BREAK}%" if declared(metric).percent else ""


def tick(value: float, metric: str, *, sign: bool = False) -> str:
    """A score or difference at an axis, in the metric's own sign and without more digits than it
    has.
    """
    form = declared(metric)
    # Adding 0 makes a zero that lost its sign of the one that had it.
    plain = value * form.sign * (100 if form.percent else 1) + 0.0
    return f"+{plain:g}" if sign and plain > 0 else f"{plain:g}"


def axis_title(metric: str) -> str:
    """What is measured, as a heading: ``Accuracy``, ``macro-F1``; capital where it is a word."""
    label = declared(metric).label
    return label[0].upper() + label[1:]


def count(value: float) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{round(value):,}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """``0.4 s``, ``38 s``, ``12 min``, ``3 h 05 min``."""
    if seconds is None:
        return EN_DASH
    if seconds < 120:
        return f"{seconds:.{1 if seconds < 10 else 0}f}{NO_BREAK}s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes}{NO_BREAK}min"
    return f"{minutes // 60}{NO_BREAK}h{NO_BREAK}{minutes % 60:02d}{NO_BREAK}min"


def scientific(value: float) -> str:
    """``0.1``, ``32``, ``3e-5``: a hyper-parameter in its shortest form."""
    short = f"{value:g}"
    return short.replace("e-0", "e-").replace("e+0", "e")


def millions(value: float) -> str:
    """A number of parameters: ``22.7 M``."""
    for size, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.0f}"
