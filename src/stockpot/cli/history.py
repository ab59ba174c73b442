"""``stockpot history``: what is known already of models on tasks, and how well it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.groups import CommandGroup
from stockpot.cli.inspect import table as columns
from stockpot.cli.output import Output
from stockpot.errors import InputError
from stockpot.files import write_text

if TYPE_CHECKING:
    from stockpot.history import HistoryRow, Reading, Table

history_app = CommandGroup(
    "history", "Results of models on tasks: add, import, show, and test how well they rank models."
)

_Better = Annotated[
    bool | None,
    typer.Option(
        "--lower-is-better/--higher-is-better",
        help="Which way the metric points [default: as its name says].",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class ReadingOptions:
    """What a file of results does not say itself."""

    metric: Annotated[
        str | None,
        typer.Option(help="What the values measure, such as accuracy, error or perplexity."),
    ] = None
    lower_is_better: _Better = None
    unit: Annotated[str, typer.Option(help="Of accuracies: auto, percent or fraction.")] = "auto"
    fact: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="A column that describes models; repeatable."),
    ] = None
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Leave out a column; repeatable.")
    ] = None
    zeros_missing: Annotated[
        bool, typer.Option("--zeros-missing", help="A result of exactly 0 is a missing one.")
    ] = False

    def reading(self) -> Reading:
        """As the functions of Python take it."""
        from stockpot.history import Reading

        return Reading(
            metric=self.metric,
            lower_is_better=self.lower_is_better,
            unit=self.unit,
            facts=tuple(self.fact or ()),
            ignore=tuple(self.ignore or ()),
            zeros_missing=self.zeros_missing,
        )


_StorePath = Annotated[Path, typer.Argument(metavar="STORE", show_default=False)]


@history_app.command("add")
def add_command(
    store: _StorePath,
    model: Annotated[str, typer.Argument(show_default=False)],
    task: Annotated[str, typer.Argument(show_default=False)],
    value: Annotated[float, typer.Argument(show_default=False)],
    metric: Annotated[str, typer.Option(help="What the value measures.")] = "accuracy",
    lower_is_better: _Better = None,
    source: Annotated[str, typer.Option(help="Who measured it.")] = "own",
    run: Annotated[str, typer.Option(help="Keeps repeats apart; their mean counts.")] = "",
    fact: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE about the model; repeatable.")
    ] = None,
    out: Output = Output(),
) -> None:
    """Add one result to a store, which is made if there is none."""
    from stockpot import history

    history.add(
        store,
        model,
        task,
        value,
        metric=metric,
        lower_is_better=lower_is_better,
        source=source,
        run=run,
        facts=_facts(fact or []),
    )
    row = {"model": model, "task": task, "metric": metric, "value": value, "source": source}
    out.data(row, f"{model} on {task}: {metric} {value:g}")


@history_app.command("import")
def import_command(
    store: _StorePath,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", show_default=False)],
    format: Annotated[
        str, typer.Option(help="auto, matrix, long, ibm, mteb, openclip or vtab.")
    ] = "auto",
    said: ReadingOptions = ReadingOptions(),
    metadata: Annotated[Path | None, typer.Option(help="CSV of facts per model.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Model whose row tells when values are in wrong columns.")
    ] = None,
    clean: Annotated[bool, typer.Option(help="Set misplaced rows aside.")] = True,
    out: Output = Output(),
) -> None:
    """Import result files; rows whose values stand in the wrong columns are named and set aside."""
    from stockpot import history

    reports = history.import_results(
        store,
        files,
        format=format,
        metadata=metadata,
        base=base,
        clean=clean,
        reading=said.reading(),
    )
    lines = []
    for report in reports:
        lines.append(
            f"{report.path} ({report.format}): {report.models} models, {report.tasks} tasks, "
            f"{report.results:,} results"
        )
        if report.aside:
            lines.append(f"set aside {len(report.aside)} models:")
            lines += [f"  {each.model}: {each.reason}" for each in report.aside]
        lines += [f"note: {note}" for note in report.notes]
    out.data({"imports": [report.to_json() for report in reports]}, "\n".join(lines))


@history_app.command("show")
def show_command(
    store: _StorePath,
    task: Annotated[str | None, typer.Option(help="Only this task, best model first.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 20,
    out: Output = Output(),
) -> None:
    """Show what a store holds: sources, what was set aside, and the best models."""
    from stockpot import history

    contents = history.open_history(store)
    rows = history.show(contents, task=task, model=model, limit=limit)
    value = {
        "models": len(contents.table.models),
        "tasks": len(contents.table.tasks),
        "sources": contents.sources,
        "aside": contents.aside,
        "rows": [_row(row, model) for row in rows],
    }
    out.data(value, _show_text(contents.table, value, task))


@history_app.command("evaluate")
def evaluate_command(
    history: Annotated[Path, typer.Argument(metavar="STORE|CSV|FOLDER", show_default=False)],
    anchors: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Results revealed per task; repeatable. Default 0, 5, 20."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Draws of anchors per task.")] = 3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    task: Annotated[
        list[str] | None, typer.Option(help="Hold out only tasks of this name or glob; repeatable.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Hold out only every N-th task.")] = 1,
    score: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE.csv: a transferability score, models x tasks; repeatable."),
    ] = None,
    format: Annotated[str, typer.Option(help="Of a file that is no store.")] = "auto",
    said: ReadingOptions = ReadingOptions(),
    metadata: Annotated[Path | None, typer.Option(help="CSV of facts per model.")] = None,
    clean: Annotated[bool, typer.Option(help="Leave out rows that were set aside.")] = True,
    page: Annotated[
        Path | None, typer.Option(help="Write a Markdown page, and the picture beside it.")
    ] = None,
    out: Output = Output(),
) -> None:
    """Leave one task out: how well do history, facts and a few real results rank the models?"""
    from stockpot.history import evaluate, open_history
    from stockpot.report import history as report

    contents = open_history(
        history, format=format, metadata=metadata, clean=clean, reading=said.reading()
    )
    if contents.aside and clean:
        out.say(f"{len(contents.aside)} models set aside")
    found = evaluate(
        contents,
        anchors=anchors or (0, 5, 20),
        repeats=repeats,
        seed=seed,
        tasks=task or (),
        every=every,
        scores=_scores(score or []),
        quiet=out.silent,
    )
    if page is not None:
        picture = page.with_suffix(".svg")
        report.write_reliability(found.calibration, history.name, picture)
        write_text(page, report.markdown(found, history.name, picture=picture.name, level=1))
        out.say(f"page: {page}")
    text = columns([report.heading(), *report.rows(found)])
    out.data(found.to_json(), "\n".join([text, "", *report.notes(found)]))


def _scores(pairs: list[str]) -> dict[str, Path]:

    files = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not equals or not name or not file:
            raise InputError(f"'{pair}' is not NAME=FILE.csv")
        files[name] = Path(file)
    return files


def _row(row: HistoryRow, model: str | None) -> dict[str, Any]:
    if model is not None:
        return {"task": row.name, "value": row.value, "score": row.score}
    value = {} if row.value is None else {"value": row.value}
    return {"model": row.name, "score": row.score, "tasks": row.tasks, **value}


def _show_text(table: Table, value: dict[str, Any], task: str | None) -> str:
    import numpy as np

    filled = float(np.isfinite(table.values).mean())
    parts = [f"{len(table.models):,} models, {len(table.tasks):,} tasks, {filled:.1%} filled"]
    sources = [[str(v) for v in each.values()] for each in value["sources"]]
    parts.append(columns([["source", "results", "models", "tasks", "set aside"], *sources]))
    if value["aside"]:
        parts.append(f"set aside: {len(value['aside'])} models (--json names them)")
    rows = value["rows"]
    if rows:
        names = list(rows[0])
        cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
        heading = "best on " + task if task else "results" if "task" in names else "best on average"
        parts.append(f"{heading} (score: mean normal score within tasks)")
        parts.append(columns([names, *cells]))
    return "\n\n".join(parts)


def _facts(pairs: list[str]) -> dict[str, float | str]:

    facts: dict[str, float | str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"'{pair}' is not NAME=VALUE")
        try:
            facts[name] = float(text)
        except ValueError:
            facts[name] = text
    return facts
