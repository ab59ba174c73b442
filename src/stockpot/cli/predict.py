"""``stockpot predict``, ``evaluate`` and ``export``: use the model that came out."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.options import AllowCode, Quiet, SkipCorrupt
from stockpot.cli.output import Output
from stockpot.errors import InputError
from stockpot.files import write_text

if TYPE_CHECKING:
    from stockpot.inference import Evaluation, Predictions

ModelFolder = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model folder.", show_default=False)
]
BatchSize = Annotated[int, typer.Option(min=1, help="Inputs at a time.")]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1 [default: the GPU if any].", show_default=False),
]
Root = Annotated[
    Path | None,
    typer.Option(help="Folder of the code of a function backbone.", show_default=False),
]


def predict_command(
    model: ModelFolder,
    inputs: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|FOLDER",
            help="A table or text file, a folder of images, an array file; -: a text a line.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write to this file [default: stdout]."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="The table's column of texts [default: text, or the only one]."),
    ] = None,
    batch_size: BatchSize = 64,
    device: Device = None,
    root: Root = None,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Predict: label and probabilities, or a value, for every input, as CSV or JSON."""
    from stockpot.inference import load
    from stockpot.inference.inputs import read_inputs, read_lines

    predictor = load(model, root=root)
    if str(inputs) == "-":
        if predictor.modality != "text":
            raise InputError(f"the model takes {predictor.modality} inputs, name a file or folder")
        rows = read_lines(sys.stdin.read().splitlines(), "stdin")
    else:
        rows = read_inputs(inputs, predictor.modality, text)
    done = predictor.predict(rows, batch_size=batch_size, device=device, quiet=out.quiet)
    value = {"schema": 1, "classes": list(done.classes), "predictions": done.rows()}
    if output is None:
        out.data(value, _table(done).rstrip("\n"))
        return

    plain = out.json or output.suffix == ".json"
    write_text(output, json.dumps(value, ensure_ascii=False) + "\n" if plain else _table(done))
    out.say(f"{len(rows)} predictions: {output}")


def evaluate_command(
    model: ModelFolder,
    task: Annotated[
        Path,
        typer.Argument(help="A YAML file with a task, or a recipe.", show_default=False),
    ],
    domain: Annotated[
        list[str] | None, typer.Option(help="Only this domain; repeatable [default: all].")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="As in a recipe [default: accuracy, or r2].", show_default=False),
    ] = None,
    batch_size: BatchSize = 64,
    device: Device = None,
    root: Root = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals.")] = 0,
    skip_corrupt: SkipCorrupt = False,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Evaluate on a task: accuracy, R2 or another metric with an interval, and by domain."""
    from stockpot.inference import evaluate

    done = evaluate(
        model,
        task,
        domains=domain or None,
        metric=metric,
        batch_size=batch_size,
        device=device,
        root=root,
        seed=seed,
        skip_corrupt=skip_corrupt,
        quiet=out.silent,
    )
    out.data(done.to_json(), _scores(done))


def export_command(
    model: ModelFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file.", show_default=False)],
    format: Annotated[str, typer.Option(help="torch (torch.export) or onnx.")] = "torch",
    root: Root = None,
    allow_code: AllowCode = False,
    quiet: Quiet = False,
) -> None:
    """Export as one file with the head, compared with the model before it is kept."""
    from stockpot.inference import export

    path = export(model, output, format=format, root=root)  # type: ignore[arg-type]
    Output(quiet=quiet).say(f"exported: {path}")


def _table(done: Predictions) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if done.classes:
        writer.writerow(["input", "label", *done.classes])
        for row in done.rows():
            writer.writerow(
                [row["input"], row["label"], *map(_number, row["probabilities"].values())]
            )
    else:
        writer.writerow(["input", "value"])
        writer.writerows([row["input"], _number(row["value"])] for row in done.rows())
    return text.getvalue()


def _number(value: Any) -> str:
    return f"{value:.8g}"


def _scores(done: Evaluation) -> str:
    rows = [("all", done.value, sum(done.examples.values()))]
    if len(done.domains) > 1:
        rows += [(name, each, done.examples[name]) for name, each in done.domains.items()]
    else:
        rows = [(name, each, done.examples[name]) for name, each in done.domains.items()]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(
        f"{name:<{width}}  {done.metric} {each.mean:.4f}  ({each.low:.4f} to {each.high:.4f})  "
        f"{count} examples"
        for name, each, count in rows
    )
