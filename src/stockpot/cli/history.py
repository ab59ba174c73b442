"""``stockpot history``: what is known already of models on tasks, and how well it predicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.options import Json, Quiet

if TYPE_CHECKING:
    from stockpot.ranking.history import Table

history_app = typer.Typer(
    help="Results of models on tasks: add, import, show, and test how well they rank models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_StorePath = Annotated[Path, typer.Argument(metavar="STORE", show_default=False)]


@history_app.command("add")
def add_command(
    store: _StorePath,
    model: Annotated[str, typer.Argument(show_default=False)],
    task: Annotated[str, typer.Argument(show_default=False)],
    value: Annotated[float, typer.Argument(show_default=False)],
    metric: Annotated[str, typer.Option(help="What the value measures.")] = "accuracy",
    lower_is_better: Annotated[bool, typer.Option("--lower-is-better")] = False,
    source: Annotated[str, typer.Option(help="Who measured it.")] = "own",
    run: Annotated[str, typer.Option(help="Keeps repeats apart; their mean counts.")] = "",
    fact: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE about the model; repeatable.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add one result to a store, which is made if there is none."""
    from stockpot.cli.output import Output
    from stockpot.ranking.history import Store

    with Store.open(store) as opened:
        opened.add(
            model,
            task,
            metric,
            value,
            source=source,
            run=run,
            lower_is_better=lower_is_better,
            facts=_facts(fact or []),
        )
    row = {"model": model, "task": task, "metric": metric, "value": value, "source": source}
    Output(json=as_json, quiet=quiet).data(row, f"{model} on {task}: {metric} {value:g}")


@history_app.command("import")
def import_command(
    store: _StorePath,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", show_default=False)],
    format: Annotated[
        str, typer.Option(help="auto, matrix, ibm, mteb, openclip or vtab.")
    ] = "auto",
    metadata: Annotated[Path | None, typer.Option(help="CSV of facts per model.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Model whose row tells when values are in wrong columns.")
    ] = None,
    clean: Annotated[bool, typer.Option(help="Set misplaced rows aside.")] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Import result files; rows whose values stand in the wrong columns are named and set aside."""
    from stockpot.cli.output import Output
    from stockpot.ranking.history import Store

    out = Output(json=as_json, quiet=quiet)
    with Store.open(store) as opened:
        reports = [
            opened.import_csv(file, format, metadata=metadata, base=base, clean=clean)
            for file in files
        ]
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
    as_json: Json = False,
) -> None:
    """Show what a store holds: sources, what was set aside, and the best models."""
    from stockpot.cli.output import Output

    table, sources, aside = load_table(store)
    value = {
        "models": len(table.models),
        "tasks": len(table.tasks),
        "sources": sources,
        "aside": aside,
        "rows": _rows(table, task, model, limit),
    }
    Output(json=as_json).data(value, _show_text(table, value, task))


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
    metadata: Annotated[Path | None, typer.Option(help="CSV of facts per model.")] = None,
    clean: Annotated[bool, typer.Option(help="Leave out rows that were set aside.")] = True,
    page: Annotated[
        Path | None, typer.Option(help="Write a Markdown page, and the picture beside it.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Leave one task out: how well do history, facts and a few real results rank the models?"""
    from stockpot.cli.inspect import table as columns
    from stockpot.cli.output import Output
    from stockpot.files import write_text
    from stockpot.ranking.evaluate import evaluate
    from stockpot.report import history as report

    out = Output(json=as_json, quiet=quiet)
    loaded, _, aside = load_table(history, format=format, metadata=metadata, clean=clean)
    if aside and clean:
        out.say(f"{len(aside)} models set aside")
    found = evaluate(
        loaded,
        anchors=sorted(set(anchors or (0, 5, 20))),
        repeats=repeats,
        tasks=_chosen(loaded, task, every),
        scores=_scores(loaded, score or []),
        seed=seed,
        quiet=quiet or as_json,
    ).to_json()
    if page is not None:
        picture = page.with_suffix(".svg")
        report.write_reliability(found, history.name, picture)
        write_text(page, report.markdown(found, history.name, picture=picture.name, level=1))
        out.say(f"page: {page}")
    text = columns([report.heading(), *report.rows(found)])
    out.data(found, "\n".join([text, "", *report.notes(found)]))


def _chosen(table: Table, globs: list[str] | None, every: int) -> list[str]:
    from fnmatch import fnmatchcase

    from stockpot.errors import InputError

    names = [t for t in table.tasks if not globs or any(fnmatchcase(t, g) for g in globs)]
    if not names:
        raise InputError(f"no task is named {' or '.join(globs or [])}")
    return names[::every]


def _scores(table: Table, pairs: list[str]) -> dict[str, Any]:
    import numpy as np

    from stockpot.errors import InputError
    from stockpot.ranking.history import read_results

    found = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not equals or not name or not file:
            raise InputError(f"'{pair}' is not NAME=FILE.csv")
        own = read_results(Path(file), "matrix").table
        values = np.full(table.values.shape, np.nan)
        for i, model in enumerate(table.models):
            for j, task in enumerate(table.tasks):
                if model in own.row and task in own.column:
                    values[i, j] = own.values[own.row[model], own.column[task]]
        if not np.isfinite(values).any():
            raise InputError(f"{file} shares no model and task with the history")
        found[name] = values
    return found


def load_table(
    path: Path,
    *,
    format: str = "auto",
    metadata: Path | None = None,
    base: str | None = None,
    clean: bool = True,
) -> tuple[Table, list[dict[str, Any]], dict[str, str]]:
    """The table of a store, or of a result file read as `history import` would."""
    from stockpot.errors import InputError
    from stockpot.ranking.history import Store

    if not path.exists():
        raise InputError(f"no file {path}", hint="make a store: stockpot history import STORE FILE")
    if path.is_dir() or not _is_sqlite(path):
        with Store.open(":memory:") as store:
            store.import_csv(path, format, metadata=metadata, base=base, clean=clean)
            return store.table(), store.sources(), store.aside()
    with Store.open(path, create=False) as store:
        return store.table(include_aside=not clean), store.sources(), store.aside()


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(16) == b"SQLite format 3\0"


def _rows(table: Table, task: str | None, model: str | None, limit: int) -> list[dict[str, Any]]:
    import numpy as np

    from stockpot.errors import InputError
    from stockpot.ranking.history import mean_scores

    for what, name, known in (("task", task, table.column), ("model", model, table.row)):
        if name is not None and name not in known:
            raise InputError(f"no {what} '{name}' in the history")
    if model is not None:
        row = table.row[model]
        return [
            {
                "task": name,
                "value": float(table.values[row, j]),
                "score": float(table.scores[row, j]),
            }
            for j, name in enumerate(table.tasks)
            if np.isfinite(table.values[row, j]) and task in (None, name)
        ]
    if task is not None:
        column = table.column[task]
        keys = table.scores[:, column]
    else:
        keys = mean_scores(table.scores)
    order = [i for i in np.argsort(-keys, kind="stable") if np.isfinite(keys[i])][:limit]
    return [
        {
            "model": table.models[i],
            "score": float(keys[i]),
            "tasks": int(np.isfinite(table.values[i]).sum()),
            **({"value": float(table.values[i, table.column[task]])} if task else {}),
        }
        for i in order
    ]


def _show_text(table: Table, value: dict[str, Any], task: str | None) -> str:
    import numpy as np

    from stockpot.cli.inspect import table as columns

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
    from stockpot.errors import InputError

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
