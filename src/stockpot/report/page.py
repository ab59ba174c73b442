"""``report.html``: one self-contained page that shows and explains a finished comparison."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.evaluation import wording
from stockpot.evaluation.intervals import Interval
from stockpot.files import write_text
from stockpot.recycling.kept import kept_sentences
from stockpot.recycling.schema import RecycleResults, RunResult, TableRow
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
    *(
        "history",
        "trace",
        "evidence",
        "findings",
        "domain_differences",
        "connectivity",
        "runs",
        "cells",
    ),
    # What a claim says again of its row and of all claims.
    *("averages", "words", "subject", "subject_label", "against_label", "rows", "trials"),
)


def write_report(results: RecycleResults | Mapping[str, Any], path: Path | str) -> Path:
    """Write the page for ``results`` (or the content of a ``results.json``) to ``path``.

    The page makes no request, reads without scripts, in light, dark and print, and on a phone.
    Raises ``OutputError`` when it cannot be written.
    """
    path = Path(path)
    write_text(path, render(RecycleResults.read(results)))
    return path


def render(results: RecycleResults) -> str:
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
    baseline = whiskers.baseline(results.table)
    page = environment.get_template("report.html.j2").render(
        results=results,
        kept=kept_sentences(results),
        metric=results.task.metric,
        unit=numbers.percent(results.task.metric),
        lower=not wording.declared(results.task.metric).higher_is_better,
        other_metrics=metrics.other_metrics(results),
        headline=headline(results),
        judged=judged(results),
        final=results.row(results.final.protocol),
        groups=[(whiskers.GROUPS[name][0], name, rows) for name, rows in _sections(results)],
        best=_best(results),
        domains=list(results.table[0].domains) if results.table else [],
        figures={name: _safe(value, Markup) for name, value in _figures(results).items()},
        kinds=curves.kinds(results),
        pools=scatter.pools(results),
        inits=scatter.inits(results),
        reasons=reasons(results),
        diagnoses=sum(len(cell.diagnosis) for cell in results.cells),
        runs=_runs(results),
        diverged=_diverged(results),
        hyperparameters=_hyperparameters(results),
        pool_markers=[
            Markup(_legend(scatter.solid(i))) for i in range(len(scatter.pools(results)))
        ],
        init_markers=[
            Markup(_legend(scatter.shape(i))) for i in range(len(scatter.inits(results)))
        ],
        baseline_label=None if baseline is None else baseline.label,
        ensemble_cost=_ensemble_cost(results),
        covers=_covers(results.table),
        claims={row.protocol: row_claim(results, row) for row in results.table},
        css=CSS,
        trials=results.trials,
        data=_DATA_HERE,
    )
    room = max(_LIMIT - len(page.encode()), _LEAST_DATA)
    return page.replace(_DATA_HERE, embedded(results.to_json(), room), 1)


def embedded(results: dict[str, Any], limit: int) -> str:
    """The results as JSON that may stand inside a script element, numbers to six digits.

    Where that is longer than ``limit`` characters, bulky parts are left out and ``left_out`` names
    them.
    """
    left_out: list[str] = []
    kept = {**_rounded(results), "left_out": left_out}
    for part in (*_BULKY, None):
        written = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
        written = written.replace("<", "\\u003c").replace("&", "\\u0026")
        if len(written.encode()) <= limit or part is None:
            break
        kept = _without(kept, part)
        left_out.append(part)
        kept["left_out"] = left_out
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


def _figures(results: RecycleResults) -> dict[str, Any]:
    lineage = results.lineage.to_json()
    narrow, more = whiskers.narrow(results) if results.table else ("", [])
    return {
        "whiskers": whiskers.wide(results) if results.table else "",
        "whiskers_narrow": narrow,
        "whiskers_more": more,
        "curves": curves.panels(results),
        "diversity": scatter.diversity(results, "diversity-wide", 760, 340),
        "diversity_narrow": scatter.diversity(results, "diversity-narrow", 360, 320),
        "runs": scatter.runs(results),
        "tree": tree.family_tree(lineage, "tree-wide", 1108),
        "tree_narrow": tree.family_tree(lineage, "tree-narrow", 360),
    }


def _sections(results: RecycleResults) -> list[tuple[str, list[TableRow]]]:
    return [(name, rows[::-1]) for name, rows in whiskers.grouped(results.table)]


def _best(results: RecycleResults) -> dict[str, float]:
    """Highest value of each column among methods (not oracles), to be set in bold."""
    best: dict[str, float] = {}
    for row in results.table:
        if row.group != "oracle":
            best[""] = max(row.mean, best.get("", row.mean))
            for domain, value in row.domains.items():
                best[domain] = max(value.mean, best.get(domain, value.mean))
    return best


@dataclass(frozen=True)
class _Run:
    """A run and the cell it belongs to."""

    run: RunResult
    held_out: str | None
    trial: int


@dataclass(frozen=True)
class _RunGroup:
    """Runs of one cell's name, pool and init: how many, their scores as mean, low and high."""

    held_out: str | None
    pool: str
    init: str
    runs: int
    id_accuracy: Interval
    accuracy: Interval
    seconds: float


@dataclass(frozen=True)
class _Runs:
    """Every run, or a summary where there are too many for a page."""

    total: int
    rows: tuple[_Run, ...] = ()
    groups: tuple[_RunGroup, ...] = ()


def _runs(results: RecycleResults) -> _Runs:
    rows = [_Run(run, cell.held_out, cell.trial) for cell in results.cells for run in cell.runs]
    if len(rows) <= _ROWS:
        return _Runs(len(rows), tuple(rows))
    groups: dict[tuple[str | None, str, str], list[RunResult]] = {}
    for row in rows:
        groups.setdefault((row.held_out, row.run.pool, row.run.init), []).append(row.run)
    summary = [
        _RunGroup(
            *key,
            runs=len(runs),
            id_accuracy=_span([run.id_accuracy for run in runs]),
            accuracy=_span([run.accuracy for run in runs]),
            seconds=sum(run.seconds for run in runs),
        )
        for key, runs in groups.items()
    ]
    return _Runs(len(rows), groups=tuple(summary))


def _span(values: list[float]) -> Interval:
    """Mean, lowest and highest."""
    return Interval(sum(values) / len(values), min(values), max(values))


def _diverged(results: RecycleResults, shown: int = 6) -> str:
    """Which runs diverged, in one sentence; empty where none did."""
    lines = [
        f"{run.label} ({cell.held_out}, trial {cell.trial}) at step {why.step}, "
        f"learning rate {numbers.scientific(why.learning_rate)}: {why.what}"
        for cell in results.cells
        for run in cell.runs
        if (why := run.diverged)
    ]
    if not lines:
        return ""
    total = sum(len(cell.runs) for cell in results.cells)
    more = f"; and {len(lines) - shown} more" if len(lines) > shown else ""
    return (
        f"{len(lines)} of {total} runs diverged, and no selection and no average has them: "
        f"{'; '.join(lines[:shown])}{more}."
    )


def _hyperparameters(results: RecycleResults) -> list[str]:
    """Those that differ between runs: the others are in the recipe."""
    values: dict[str, set[str]] = {}
    for cell in results.cells:
        for run in cell.runs:
            for name, value in run.hyperparameters.items():
                values.setdefault(name, set()).add(repr(value))
    return [name for name, seen in values.items() if len(seen) > 1]


def _legend(shape: str) -> str:
    return svg.marker(shape, 14, 6, 4.6)


def _covers(table: Sequence[TableRow]) -> str | None:
    """What most rows' intervals cover; rows pooled over trials differ from the others."""
    said = Counter(row.covers for row in table if row.covers)
    return said.most_common(1)[0][0] if said else None


def _ensemble_cost(results: RecycleResults) -> float | None:
    costs = [row.forward_cost for row in results.table if row.forward_cost > 1]
    return max(costs) if costs else None
