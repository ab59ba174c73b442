"""Templates of the dashboard, its style sheet and script, and the words in them."""

from __future__ import annotations

import hashlib
import time
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from stockpot.report import numbers, ranking
from stockpot.report.environment import make_environment
from stockpot.report.tree import family_tree, generations

# Pixels inside the frames of drawings, and the least for a generation.
_WIDE, _NARROW = 1070.0, 332.0
_COLUMN, _NARROW_COLUMN = 190.0, 140.0


@cache
def templates() -> Environment:
    """The dashboard's templates, and those of the reports."""
    return make_environment(
        "stockpot.web",
        score=numbers.score,
        count=numbers.count,
        duration=numbers.duration,
        millions=numbers.millions,
        size=size,
        short=lambda ident: ident[:12],
        when=when,
        ago=ago,
        number=lambda value: "" if value is None else f"{value:.6g}",
        change=change,
        chance=ranking.chance,
    )


@cache
def assets() -> dict[str, tuple[str, bytes]]:
    """Files that pages ask for, by name: media type and content. There are no others."""
    static = files("stockpot.web") / "static"
    return {
        "site.css": ("text/css", templates().get_template("site.css.j2").render().encode()),
        "site.js": (
            "text/javascript",
            templates().get_template("sort.js").render().encode()
            + b"\n"
            + (static / "site.js").read_bytes(),
        ),
        "favicon.svg": ("image/svg+xml", (static / "favicon.svg").read_bytes()),
    }


@cache
def version(name: str) -> str:
    """A few digits that change with an asset, so that browsers may keep it for ever."""
    return hashlib.sha256(assets()[name][1]).hexdigest()[:12]


def drawings(lineage: Any) -> dict[str, Markup]:
    """A family tree for wide and for narrow screens; both scroll where they must."""
    columns = generations(lineage)
    return {
        "wide": Markup(family_tree(lineage, "tree-wide", max(_WIDE, _COLUMN * columns), "Family")),
        "narrow": Markup(
            family_tree(lineage, "tree-narrow", max(_NARROW, _NARROW_COLUMN * columns), "Family")
        ),
    }


def size(nbytes: float) -> str:
    """``90.9 MB``"""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            break
        nbytes /= 1000
    return f"{nbytes:.3g}{numbers.NO_BREAK}{unit}"


def when(seconds: float) -> str:
    """A day and minute of the server's clock."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def ago(seconds: float) -> str:
    """``12 s ago``"""
    return f"{numbers.duration(round(seconds))} ago" if seconds >= 1 else "now"


def change(now: float, before: float) -> str:
    """By how much a metric moved, with a sign."""
    return f"{now - before:+.4g}".replace("-", numbers.MINUS)
