"""Small helpers that write SVG: elements, scales, ticks, markers, accessible figures.

Everything returns text. Colours come from CSS classes of the page, so that one drawing serves
light, dark and print.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

_NARROW = set("iIljtf.,:;'|!()[] ")
_WIDE = set("mwMW@%")


def element(tag: str, *content: str, **attributes: object) -> str:
    """One element; ``content`` is SVG. Attribute names use ``_`` for ``-``; None is left out."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    inside = "".join(content)
    return f"<{tag}{written}>{inside}</{tag}>" if inside else f"<{tag}{written}/>"


def text(x: float, y: float, words: str, **attributes: object) -> str:
    """Text at its baseline, escaped."""
    return element("text", html.escape(words), x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> str:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def group(*content: str, **attributes: object) -> str:
    return element("g", *content, **attributes)


def tooltip(words: str) -> str:
    """Shown on hover, read by screen readers; the first child of what it describes."""
    return element("title", html.escape(words))


def polyline(points: list[tuple[float, float]], **attributes: object) -> str:
    joined = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
    return element("polyline", points=joined, fill="none", **attributes)


def bands(tops: list[float], width: float, height: float) -> str:
    """Stripes behind every other row of a chart, as one path: a page may have hundreds."""
    size = f"h{_number(width)}v{_number(height)}H0z"
    drawn = "".join(f"M0 {_number(top)}{size}" for top in tops)
    return element("path", d=drawn, class_="band")


def marker(shape: str, x: float, y: float, size: float, *content: str, **attributes: object) -> str:
    """A point as ``circle``, ``square``, ``diamond``, ``triangle``, ``ring`` or ``cross``.

    Shapes have about equal area; together with colour they tell groups apart.
    """
    if shape in ("circle", "ring"):
        look: dict[str, object] = {"fill": "currentColor"}
        if shape == "ring":
            look = {"fill": "var(--paper)", "stroke": "currentColor", "stroke_width": 2}
        return element("circle", *content, cx=x, cy=y, r=size, **look, **attributes)
    corners = {
        "square": [(-0.89, -0.89), (0.89, -0.89), (0.89, 0.89), (-0.89, 0.89)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        "triangle": [(0, -1.3), (1.2, 0.9), (-1.2, 0.9)],
        "left": [(0.9, -1.2), (-1.3, 0), (0.9, 1.2)],
    }[shape]
    joined = " ".join(f"{_number(x + size * a)},{_number(y + size * b)}" for a, b in corners)
    look = {"fill": "currentColor", **attributes}
    return element("polygon", *content, points=joined, **look)


def figure(
    ident: str,
    width: float,
    height: float,
    title: str,
    description: str,
    *content: str,
    css: str = "",
    links: bool = False,
) -> str:
    """A drawing with a name and a description for those who do not see it.

    One with ``links`` inside is a group of them, not a picture, and says its natural size.
    """
    return element(
        "svg",
        element("title", html.escape(title), id=f"{ident}-title"),
        element("desc", html.escape(description), id=f"{ident}-desc"),
        *content,
        viewBox=f"0 0 {_number(width)} {_number(height)}",
        width=width if links else None,
        height=height if links else None,
        role="group" if links else "img",
        aria_labelledby=f"{ident}-title {ident}-desc",
        class_=css or None,
    )


@dataclass(frozen=True)
class Scale:
    """A linear map from values ``low..high`` to positions ``start..end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int = 4) -> list[float]:
        """Round values inside the range, ``about`` so many."""
        step = nice_step((self.high - self.low) / max(about, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(index * step, 10) for index in range(first, last + 1)]


def nice_step(rough: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * times for times in (1, 2, 5, 10) if power * times >= rough * 0.999)


def padded(low: float, high: float, least: float, share: float = 0.06) -> tuple[float, float]:
    """A range with air around it, at least ``least`` wide."""
    middle, half = (low + high) / 2, max(high - low, least) / 2
    return middle - half * (1 + 2 * share), middle + half * (1 + 2 * share)


def text_width(words: str, size: float) -> float:
    """Width of a text in a usual sans-serif font, a little generously."""
    widths = (0.32 if c in _NARROW else 0.92 if c in _WIDE else 0.58 for c in words)
    return size * sum(widths)


def shortened(words: str, size: float, room: float) -> str:
    """The text, cut with an ellipsis where it would be wider than ``room``."""
    if text_width(words, size) <= room:
        return words
    while words and text_width(words + "…", size) > room:
        words = words[:-1]
    return words.rstrip() + "…"


def _value(value: object) -> str:
    if isinstance(value, float):
        return _number(value)
    return html.escape(str(value), quote=True)


def _number(value: float) -> str:
    rounded = f"{value:.1f}"
    return rounded.removesuffix(".0") if rounded != "-0.0" else "0"
