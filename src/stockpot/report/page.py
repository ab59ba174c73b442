"""``report.html``: one self-contained page that shows and explains a finished comparison."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from stockpot.evaluation import wording
from stockpot.evaluation.kept import kept_sentences
from stockpot.files import write_text
from stockpot.report import curves, metrics, numbers, scatter, svg, tree, whiskers
from stockpot.report.compared import CSS, row_claim
from stockpot.report.environment import make_environment
from stockpot.report.headline import headline
from stockpot.report.judged import judged
from stockpot.report.reasons import reasons

_LIMIT, _LEAST_DATA = 280_000, 22_000
_DATA_HERE = "data-of-the-page-go-here"
_ROWS = 120
_BULKY = (
    *("history", "evidence", "findings", "domain_differences", "connectivity", "runs", "cells"),
    # What a claim says again of its row and of all claims.
    *("averages", "words", "subject", "subject_label", "against_label", "rows", "trials"),
)


def write_report(results: dict[str, Any], path: Path | str) -> Path:
    """Write the page for ``results`` (the content of ``results.json``, schema 1) to ``path``.

    The page makes no request, reads without scripts, in light, dark and print, and on a phone.
    Raises ``OutputError`` when it cannot be written.
    """
    path = Path(path)
    write_text(path, render(results))
    return path


def render(results: dict[str, Any]) -> str:
    """The page as text, about 280 KB at most; the same for the same results."""
    from markupsafe import Markup

    environment = make_environment(
        score=numbers.score,
        signed=numbers.signed,
        spread=numbers.spread,
        count=numbers.count,
        duration=numbers.duration,
        millions=numbers.millions,
        scientific=numbers.scientific,
        typographic=numbers.typographic,
        in_sentence=wording.in_sentence,
        signed_ends=numbers.signed_ends,
        unit=wording.unit,
        label=wording.label,
        axis_title=numbers.axis_title,
    )
    page = environment.get_template("report.html.j2").render(
        results=results,
        kept=kept_sentences(results),
        metric=results["task"]["metric"],
        unit=numbers.percent(results["task"]["metric"]),
        lower=not wording.declared(results["task"]["metric"]).higher_is_better,
        other_metrics=metrics.other_metrics(results),
        headline=headline(results),
        judged=judged(results),
        final=_final(results),
        groups=[(whiskers.GROUPS[name][0], name, rows) for name, rows in _sections(results)],
        best=_best(results),
        domains=list(results["table"][0]["domains"]) if results["table"] else [],
        figures={name: _safe(value, Markup) for name, value in _figures(results).items()},
        kinds=curves.kinds(results),
        pools=scatter.pools(results),
        inits=scatter.inits(results),
        reasons=reasons(results),
        diagnoses=sum(len(cell.get("diagnosis", [])) for cell in results["cells"]),
        runs=_runs(results),
        diverged=_diverged(results),
        hyperparameters=_hyperparameters(results),
        pool_markers=[
            Markup(_legend(scatter.solid(i))) for i in range(len(scatter.pools(results)))
        ],
        init_markers=[
            Markup(_legend(scatter.shape(i))) for i in range(len(scatter.inits(results)))
        ],
        baseline_label=(whiskers.baseline(results["table"]) or {}).get("label"),
        ensemble_cost=_ensemble_cost(results),
        covers=_covers(results["table"]),
        claims={row["protocol"]: row_claim(results, row) for row in results["table"]},
        css=CSS,
        trials=len({cell["trial"] for cell in results["cells"]}),
        data=_DATA_HERE,
    )
    room = max(_LIMIT - len(page.encode()), _LEAST_DATA)
    return page.replace(_DATA_HERE, embedded(results, room), 1)


def embedded(results: dict[str, Any], limit: int) -> str:
    """The results as JSON that may stand inside a script element, numbers to six digits.

    Where that is longer than ``limit`` characters, bulky parts are left out and ``left_out`` names
    them.
    """
    kept = {**_rounded(results), "left_out": []}
    for part in (*_BULKY, None):
        written = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
        written = written.replace("<", "\\u003c").replace("&", "\\u0026")
        if len(written.encode()) <= limit or part is None:
            break
        kept = _without(kept, part)
        kept["left_out"].append(part)
    return written


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _without(value: Any, part: str) -> Any:
    """The same without a key, wherever it is."""
    if isinstance(value, dict):
        return {key: _without(each, part) for key, each in value.items() if key != part}
    return [_without(each, part) for each in value] if isinstance(value, list) else value


def _safe(value: Any, markup: type[str]) -> Any:
    """Figures are SVG already: mark them as such, in whatever structure they come."""
    if isinstance(value, str):
        return markup(value)
    if isinstance(value, list):
        return [_safe(each, markup) for each in value]
    if isinstance(value, tuple):
        return tuple(_safe(each, markup) for each in value)
    return value


def _figures(results: dict[str, Any]) -> dict[str, Any]:
    lineage = results.get("lineage") or {}
    narrow, more = whiskers.narrow(results) if results["table"] else ("", [])
    return {
        "whiskers": whiskers.wide(results) if results["table"] else "",
        "whiskers_narrow": narrow,
        "whiskers_more": more,
        "curves": curves.panels(results),
        "diversity": scatter.diversity(results, "diversity-wide", 760, 340),
        "diversity_narrow": scatter.diversity(results, "diversity-narrow", 360, 320),
        "runs": scatter.runs(results),
        "tree": tree.family_tree(lineage, "tree-wide", 1108),
        "tree_narrow": tree.family_tree(lineage, "tree-narrow", 360),
    }


def _sections(results: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(name, rows[::-1]) for name, rows in whiskers.grouped(results["table"])]


def _final(results: dict[str, Any]) -> dict[str, Any] | None:
    wanted = results["final"]["protocol"]
    return next((row for row in results["table"] if row["protocol"] == wanted), None)


def _best(results: dict[str, Any]) -> dict[str, float]:
    """Highest value of each column among methods (not oracles), to be set in bold."""
    best: dict[str, float] = {}
    for row in results["table"]:
        if row["group"] != "oracle":
            for column, value in (("", row), *row["domains"].items()):
                best[column] = max(value["mean"], best.get(column, value["mean"]))
    return best


def _runs(results: dict[str, Any]) -> dict[str, Any]:
    """Every run, or a summary per cell, pool and init when there are too many for a page."""
    rows = [
        {**run, "held_out": cell["held_out"], "trial": cell["trial"]}
        for cell in results["cells"]
        for run in cell.get("runs", [])
    ]
    if len(rows) <= _ROWS:
        return {"total": len(rows), "rows": rows, "groups": []}
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for run in rows:
        groups.setdefault((run["held_out"], run["pool"], run["init"]), []).append(run)
    summary = []
    for (held_out, pool, init), members in groups.items():
        entry: dict[str, Any] = {"held_out": held_out, "pool": pool, "init": init}
        for key in ("id_accuracy", "accuracy"):
            values = [member[key] for member in members]
            entry[key] = {
                "mean": sum(values) / len(values),
                "low": min(values),
                "high": max(values),
            }
        entry["runs"] = len(members)
        entry["seconds"] = sum(member["seconds"] for member in members)
        summary.append(entry)
    return {"total": len(rows), "rows": [], "groups": summary}


def _diverged(results: dict[str, Any], shown: int = 6) -> str:
    """Which runs diverged, in one sentence; empty where none did."""
    lines = [
        f"{run['label']} ({cell['held_out']}, trial {cell['trial']}) at step {why['step']}, "
        f"learning rate {numbers.scientific(why['learning_rate'])}: {why['what']}"
        for cell in results["cells"]
        for run in cell.get("runs", [])
        if (why := run.get("diverged"))
    ]
    if not lines:
        return ""
    total = sum(len(cell.get("runs", [])) for cell in results["cells"])
    more = f"; and {len(lines) - shown} more" if len(lines) > shown else ""
    return (
        f"{len(lines)} of {total} runs diverged, and no selection and no average has them: "
        f"{'; '.join(lines[:shown])}{more}."
    )


def _hyperparameters(results: dict[str, Any]) -> list[str]:
    """Those that differ between runs: the others are in the recipe."""
    values: dict[str, set[str]] = {}
    for cell in results["cells"]:
        for run in cell.get("runs", []):
            for name, value in run.get("hyperparameters", {}).items():
                values.setdefault(name, set()).add(repr(value))
    return [name for name, seen in values.items() if len(seen) > 1]


def _legend(shape: str) -> str:
    return svg.marker(shape, 14, 6, 4.6)


def _covers(table: list[dict[str, Any]]) -> str | None:
    """What most rows' intervals cover; rows pooled over trials differ from the others."""
    said = Counter(row["covers"] for row in table if row.get("covers"))
    return said.most_common(1)[0][0] if said else None


def _ensemble_cost(results: dict[str, Any]) -> float | None:
    costs = [row["forward_cost"] for row in results["table"] if row["forward_cost"] > 1]
    return max(costs) if costs else None
