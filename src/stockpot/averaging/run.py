"""``average``: the checkpoints of one run into one model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.averaging.plan import AveragePlan
from stockpot.averaging.steps import Run, run_folder, window
from stockpot.errors import InputError
from stockpot.inspection.lineage import refuse_strangers
from stockpot.merging.job import MergeJob
from stockpot.merging.merge import Merged, run_merge
from stockpot.merging.output import check_output
from stockpot.merging.recalibrate import recalibrate_output
from stockpot.merging.report import MergeReport

if TYPE_CHECKING:
    from stockpot.averaging.sweep import Sweep
    from stockpot.soups.run import Evaluate


@dataclass(frozen=True)
class Averaged:
    """A finished average. ``state``: the weights where no output was given. ``sweep``: how window
    and shape were chosen."""

    plan: AveragePlan
    report: MergeReport
    state: dict[str, Any] | None = None
    sweep: Sweep | None = None

    def to_json(self) -> dict[str, Any]:
        """All but the weights as plain values."""
        swept = {} if self.sweep is None else {"sweep": self.sweep.to_json()}
        return {**self.report.to_json(), "kind": "average", **self.plan.to_json(), **swept}


def average(
    checkpoints: Run,
    *,
    output: str | Path | None = None,
    last: int | None = None,
    shape: str = "uniform",
    sweep: bool = False,
    evaluate: Evaluate | None = None,
    judge: int = 5,
    seed: int = 0,
    cache: str | Path | None = None,
    dtype: str | None = None,
    recalibrate: str | None = None,
    force: bool = False,
    overwrite: bool = False,
    quiet: bool = True,
) -> Averaged:
    """Average the checkpoints of one run; optimizer states are left out.

    Args:
        checkpoints: a trainer's folder (``checkpoint-N`` folders, Lightning's ``.ckpt`` files), or
            folders, files and states in memory, the oldest first.
        output: folder or ``.safetensors`` file; None keeps the weights in memory.
        last: so many checkpoints before the end; all by default.
        shape: "uniform", "ema:0.9", "wsm:cosine", "wsm:linear" or "wsm:sqrt": see
            ``stockpot.averaging.coefficients``.
        sweep: let ``evaluate`` choose window and shape; ``last`` and ``shape`` are then what others
            have to beat.
        evaluate: with ``sweep``: an evaluator, as for ``stockpot.soup``.
        judge: with ``sweep``: of ten rows, how many judge and choose nothing.
        seed: with ``sweep``: of the split of the rows.
        cache: with ``sweep``: folder of measured scores.
        dtype: type of the result; None keeps the checkpoints'.
        recalibrate: ``package.module:function`` that gives (model, batches): BatchNorm statistics
            are estimated again.
        force: average listed checkpoints that have no ancestor in common, and configs that
            disagree.
        overwrite: replace an output that exists.
        quiet: show no progress.

    Raises:
        InputError: checkpoints that are missing or of one step, a shape that is none, a sweep
            without an evaluator; a subclass for what cannot be read or written.
    """
    plan = plan_average(
        checkpoints, last=last, shape=shape, sweep=sweep, evaluate=evaluate, force=force
    )
    if output is not None:
        check_output(Path(output), plan.spec(dtype, force=force), overwrite=overwrite)
    elif recalibrate is not None:
        raise InputError("recalibrate works on an output", hint="give one")
    swept = None
    if evaluate is not None:
        from stockpot.averaging.sweep import sweep_shapes

        swept = sweep_shapes(plan, checkpoints, evaluate, judge, seed, cache, quiet=quiet)
        plan = swept.plan
    merged = run_merge(plan.spec(dtype, force=force), output, overwrite=overwrite, quiet=quiet)
    if output is not None and recalibrate is not None:
        recalibrate_output(Path(output), recalibrate)
    if isinstance(merged, Merged):
        return Averaged(plan, merged.report, merged.state, swept)
    return Averaged(plan, merged, None, swept)


def plan_average(
    checkpoints: Run,
    *,
    last: int | None = None,
    shape: str = "uniform",
    sweep: bool = False,
    evaluate: Evaluate | None = None,
    force: bool = False,
) -> AveragePlan:
    """Check everything as :func:`average` does, and say what it would average; of a sweep, what
    others have to beat.

    Raises what :func:`average` raises.
    """
    if sweep != (evaluate is not None):
        raise InputError("a sweep and an evaluator go together", hint="--sweep --evaluate FILE")
    if evaluate is not None:
        from stockpot.averaging.sweep import sweep_evaluator

        sweep_evaluator(evaluate).close()
        window(checkpoints, None)  # a sweep looks at all
    chosen, notes = window(checkpoints, last)
    plan = AveragePlan(shape, tuple(chosen), tuple(notes))
    if not force and run_folder(checkpoints) is None:
        refuse_strangers([one.source for one in chosen])  # a trainer's folder is of one run
    with MergeJob(plan.spec(force=force)) as job:
        return AveragePlan(shape, plan.checkpoints, (*notes, *job.plan.warnings))
