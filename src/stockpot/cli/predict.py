"""``stockpot predict``, ``evaluate`` and ``export``: use the model that came out."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.options import AllowCode, Overwrite, Quiet, SkipCorrupt
from stockpot.cli.output import Output
from stockpot.errors import InputError, OutputError
from stockpot.files import write_text

if TYPE_CHECKING:
    from stockpot.inference import Evaluation, Predictions, Predictor

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
    overwrite: Overwrite = False,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Predict: label and probabilities, or a value, for every input, as CSV or JSON."""
    from stockpot.inference.inputs import read_inputs, read_lines

    _check_new(output, overwrite)
    predictor = _load(model, root)
    if str(inputs) == "-":
        if predictor.modality != "text":
            raise InputError(f"the model takes {predictor.modality} inputs, name a file or folder")
        rows = read_lines(sys.stdin.buffer.read(), "stdin")
    else:
        rows = read_inputs(inputs, predictor.modality, text)
        own = [inputs, *(inputs / name for name in rows.names if inputs.is_dir())]
        if output is not None and output.resolve() in {path.resolve() for path in own}:
            raise OutputError(f"{output} is an input", hint="give another file for the output")
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
        list[str] | None,
        typer.Option(help="Only this domain; repeatable [default: those not trained on]."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="As in a recipe [default: the recipe's, else accuracy or r2].", show_default=False
        ),
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
        _load(model, root),
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
    out.say(done.about)


def export_command(
    model: ModelFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file.", show_default=False)],
    format: Annotated[str, typer.Option(help="torch (torch.export) or onnx.")] = "torch",
    root: Root = None,
    overwrite: Overwrite = False,
    allow_code: AllowCode = False,
    quiet: Quiet = False,
) -> None:
    """Export as one file with the head, compared with the model before it is kept."""
    from stockpot.inference import export

    _check_new(output, overwrite)
    path = export(_load(model, root), output, format=format)  # type: ignore[arg-type]
    Output(quiet=quiet).say(f"exported: {path}")


def _load(model: Path, root: Path | None) -> Predictor:
    from stockpot.inference import load

    predictor = load(model, root=root)
    kind = predictor.model.backbone.spec.kind
    if root is not None and kind != "function":
        raise InputError(
            f"--root is for function backbones, and {model} has a {kind} backbone",
            hint="leave out --root",
        )
    return predictor


def _check_new(output: Path | None, overwrite: bool) -> None:
    if output is not None and output.exists() and not overwrite:
        raise OutputError(f"{output} exists already", hint="give another file, or --overwrite")


def _table(done: Predictions) -> str:
    if not done.classes:
        rows = [[row["input"], _number(row["value"])] for row in done.rows()]
        return "".join(map(_line, [["input", "value"], *rows]))
    taken = {"input", "label"}.intersection(done.classes)
    columns = [f"probability of {name}" if taken else name for name in done.classes]
    rows = [
        [row["input"], row["label"], *map(_number, row["probabilities"].values())]
        for row in done.rows()
    ]
    return "".join(map(_line, [["input", "label", *columns], *rows]))


def _line(cells: list[str]) -> str:
    """A line of CSV. A cell with any end of line in it is quoted."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def _number(value: Any) -> str:
    return f"{value:.8g}"


def _scores(done: Evaluation) -> str:
    rows = [
        (name, interval, done.examples[name], done.trained_on[name])
        for name, interval in done.domains.items()
    ]
    if len(rows) > 1:
        about = sum(done.examples.values()), done.any_trained_on
        rows = [("all", done.value, *about), ("mean", done.over_domains, *about), *rows]
    width = max(len(name) for name, *_ in rows)
    return "\n".join(
        f"{name:<{width}}  {done.metric} {own.mean:.4f}  ({own.low:.4f} to {own.high:.4f})  "
        f"{count} examples{', trained on' if trained_on else ''}"
        for name, own, count, trained_on in rows
    )
