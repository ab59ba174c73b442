"""Results of runs as pages: what they say in one line, their figures, their whole report."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup

from stockpot.continual.schema import ContinualResults
from stockpot.errors import InputError
from stockpot.ranking.schema import RankResults
from stockpot.recycling.schema import RecycleResults
from stockpot.report import continual, page, ranking
from stockpot.report.headline import headline
from stockpot.web.runs import RunFolder, kind, read_results

_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)
_RENDER: dict[str, Callable[[dict[str, Any]], str]] = {
    "rank": lambda found: ranking.render(RankResults.read(found)),
    "recycle": lambda found: page.render(RecycleResults.read(found)),
    "continual": lambda found: continual.render(ContinualResults.read(found)),
}


def answer(run: RunFolder) -> dict[str, str]:
    """Kind, title and the answer of a run in words; of unreadable results what is wrong."""
    try:
        found = read_results(run)
        with _as_we_know_them():
            name = kind(found)
            words = {
                "rank": lambda: ranking.headline(RankResults.read(found))["answer"],
                "recycle": lambda: headline(RecycleResults.read(found)).words,
                "continual": lambda: continual.headline(ContinualResults.read(found)),
            }
            said = str(words[name]()) if name in words else "results of an unknown kind"
            return {"kind": name, "title": str(found.get("title", "")), "answer": said}
    except InputError as error:
        return {"kind": "", "title": "", "answer": error.message}


def safe_ranking(found: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Results, at most ``most`` models of them, metric, headline and pictures.

    Raises ``InputError`` for results we do not know.
    """
    with _as_we_know_them():
        results = RankResults.read(found)
        models = results.models[:most]
        return {
            "results": results,
            "models": models,
            "metric": results.task.metric,
            "words": ranking.headline(results),
            "figures": {
                "wide": Markup(ranking.posterior(results, models, 1108, "posterior-wide")),
                "narrow": Markup(ranking.posterior(results, models, 360, "posterior-narrow")),
            },
        }


def report_page(found: dict[str, Any]) -> tuple[str, str]:
    """A report, and the policy under which its own style and script run, and nothing else.

    Raises ``InputError`` for results we do not know.
    """
    render = _RENDER.get(kind(found))
    if render is None:
        raise InputError("these results were written by something that this server does not know")
    with _as_we_know_them():
        text = render(found)
    allowed: dict[str, list[str]] = {"style": [], "script": []}
    for tag, inside in _INLINE.findall(text):
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        allowed[tag].append(f"'sha256-{digest}'")
    policy = "; ".join(
        (
            "default-src 'none'",
            *(f"{tag}-src {' '.join(hashes)}" for tag, hashes in allowed.items() if hashes),
            "img-src data:",
            "form-action 'none'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )
    return text, policy


@contextmanager
def _as_we_know_them() -> Iterator[None]:
    """Results are files that anybody may have written: what is missing in them is their fault."""
    from jinja2 import UndefinedError

    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise InputError(
            f"these results lack something ({type(error).__name__}: {error})",
            hint="were they written by another version of stockpot?",
        ) from error
