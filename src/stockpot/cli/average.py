"""``stockpot average``: the checkpoints of one run into one model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.landing import Landing
from stockpot.cli.options import AllowCode, DryRun, InRegistry, Json, Overwrite, Quiet
from stockpot.cli.output import Output
from stockpot.errors import InputError

if TYPE_CHECKING:
    from stockpot.averaging.plan import AveragePlan
    from stockpot.averaging.run import Averaged

_Checkpoints = typer.Argument(
    help="A trainer's folder (checkpoint-N folders, Lightning's .ckpt files), or checkpoints one "
    "by one, the oldest first.",
    show_default=False,
)
_Output = typer.Option("--output", "-o", help="Folder, or one file NAME.safetensors.")
_Last = typer.Option(min=1, help="So many checkpoints before the end [default: all].")
_Shape = typer.Option(help="uniform, ema:DECAY, wsm:cosine, wsm:linear or wsm:sqrt.")
_Sweep = typer.Option("--sweep", help="Let an evaluator choose window and shape.")
_Evaluate = typer.Option("--evaluate", "-e", help="With --sweep: how a model is scored (YAML).")
_Judge = typer.Option(min=1, max=9, help="With --sweep: of ten rows, how many only judge.")
_Seed = typer.Option(min=0, help="With --sweep: of the split of the rows.")
_Cache = typer.Option(help="With --sweep: folder of measured scores.")
_Dtype = typer.Option(help="Type of the result [default: the checkpoints'].")
_Recalibrate = typer.Option(
    help="package.module:function that gives (model, batches) for BatchNorm."
)
_Force = typer.Option("--force", help="Take listed strangers, and configs that disagree.")


def average_command(
    checkpoints: Annotated[list[str], _Checkpoints],
    output: Annotated[Path | None, _Output] = None,
    last: Annotated[int | None, _Last] = None,
    shape: Annotated[str, _Shape] = "uniform",
    sweep: Annotated[bool, _Sweep] = False,
    evaluate: Annotated[Path | None, _Evaluate] = None,
    judge: Annotated[int, _Judge] = 5,
    seed: Annotated[int, _Seed] = 0,
    cache: Annotated[Path | None, _Cache] = None,
    dtype: Annotated[str | None, _Dtype] = None,
    recalibrate: Annotated[str | None, _Recalibrate] = None,
    force: Annotated[bool, _Force] = False,
    registry: InRegistry = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    allow_code: AllowCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Average the checkpoints of one run: uniform, EMA, or with the effect of a decay (WSM).

    stockpot average RUN --last 8 --shape wsm:cosine -o averaged

    stockpot average RUN --sweep --evaluate eval.yaml -o averaged
    """
    from stockpot.averaging.run import average, plan_average

    out = Output(json=as_json, quiet=quiet)
    if dry_run:
        plan = plan_average(
            checkpoints, last=last, shape=shape, sweep=sweep, evaluate=evaluate, force=force
        )
        out.data(plan.to_json(), _listing(plan))
        return
    if output is None:
        raise InputError("no output was given", hint="add -o FOLDER or -o FILE.safetensors")
    landing = Landing(registry)
    done = average(
        checkpoints,
        output=output,
        last=last,
        shape=shape,
        sweep=sweep,
        evaluate=evaluate,
        judge=judge,
        seed=seed,
        cache=cache,
        dtype=dtype,
        recalibrate=recalibrate,
        force=force,
        overwrite=overwrite,
        quiet=quiet or as_json,
    )
    for note in done.plan.notes:
        out.say(f"note: {note}")
    landing.add(output)
    value: dict[str, Any] = {"output": str(output), **done.to_json(), **landing.value}
    out.data(value, f"{_swept(done)}{_listing(done.plan)}\n{output}: {done.report.seconds:.2f} s")
    landing.finish(out)


def _listing(plan: AveragePlan) -> str:
    lines = [
        f"  {weight:8.4f}  {one.name}"
        for one, weight in zip(plan.checkpoints, plan.weights, strict=True)
    ]
    what = f"{plan.shape} over {len(lines)} checkpoints" if len(lines) > 1 else "one checkpoint"
    return "\n".join([what, *lines])


def _swept(done: Averaged) -> str:
    if done.sweep is None:
        return ""
    lines = [
        f"  {'failed' if score is None else format(score, '.4f'):>8}"
        f"{' ' if complete else '*'} {shape} over the last {last}"
        for last, shape, score, complete in done.sweep.tried
    ]
    if not all(complete for *_, complete in done.sweep.tried):
        lines.append("  * given up after some of the rows")
    lines += [claim.sentence() for claim in done.sweep.claims]
    return "\n".join(["tried, on the rows that choose:", *lines, ""])
