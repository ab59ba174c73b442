"""From runs to one model: select, then combine weights or predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.backbones.backbone import State
from stockpot.checkpoints.torch_io import load_state
from stockpot.evaluation import ensemble
from stockpot.evaluation.connectivity import interpolate
from stockpot.evaluation.selection import best, greedy_soup, validation_score
from stockpot.merging import merge
from stockpot.recycling.metrics import read_metrics
from stockpot.recycling.schema import FrontierPoint, How
from stockpot.recycling.starts import unusable
from stockpot.training.mixing import Combine, mix
from stockpot.training.rows import Outputs, Rows, all_finite, read_outputs

# Steps of WiSE-FT's interpolation coefficient.
_COEFFICIENTS = [round(0.1 * i, 1) for i in range(11)]


@dataclass
class Combination:
    """A protocol's outcome. ``state`` is None where only predictions are combined.

    ``unseen``: predictions for every validation row by a model that was chosen on other validation
    rows; None where nothing was chosen, and where there are too few rows to be parted.
    """

    state: State | None
    outputs: Outputs
    members: list[str]
    how: How = field(default_factory=How)
    unseen: Outputs | None = None


def combine_runs(
    rows: Rows,
    runs: Mapping[str, Path],
    probe: Path,
    *,
    take: str,
    select: str,
    combine: str,
    greedy_on: str,
) -> Combination:
    """Apply one protocol's ``select`` and ``combine`` to the folders of its ``runs``.

    Runs that diverged, and weights far below the linear probe's (``Start.collapsed``), are left out
    of everything; ``how`` says which under ``left_out``. Where none is left, or what comes out is
    not finite, the outcome is the linear probe, and ``how`` says so under ``instead``.
    """
    if not runs:
        return _probe(probe, How())
    left_out = unusable(rows, runs, probe, take)
    how = How(left_out=tuple(left_out)) if left_out else How()
    runs = {name: runs[name] for name in runs if name not in {one.member for one in left_out}}
    if not runs:
        return _probe(probe, how.joined(How(instead="linear probe: no member is left")))

    def choose(some: Rows) -> Combination:
        return _choose(_Pool(some, runs, probe, take), select, combine, greedy_on)

    made = choose(rows)
    if not all_finite(made.outputs):
        return _probe(probe, how.joined(How(instead="linear probe: the outcome is not finite")))
    made.how = how.joined(made.how)
    if select in ("best", "greedy") or combine == "interpolate":
        unseen = _cross_fitted(rows, choose, lambda some: _Pool(some, runs, probe, take))
        made.unseen = unseen if unseen and all_finite(unseen) else None
    return made


def _probe(probe: Path, how: How) -> Combination:
    state, outputs = load_state(probe / "model.safetensors"), read_outputs(probe / "outputs.npz")
    return Combination(state, outputs, [], how)


def _choose(pool: _Pool, select: str, combine: str, greedy_on: str) -> Combination:
    """Select and combine, by the validation rows of the pool."""
    runs = pool.runs
    how = How()
    if select == "best":
        members = [best({name: pool.accuracy(name, "id_accuracy") for name in runs})]
    elif select == "oracle":
        members = [best({name: pool.accuracy(name, "accuracy") for name in runs})]
    elif select == "first two":
        members = list(runs)[:2]
    elif select == "greedy":
        chosen = greedy_soup(
            {name: pool.accuracy(name, "id_accuracy") for name in runs},
            lambda names: pool.validate(pool.mean(names), greedy_on),
        )
        members = list(chosen.members)
        how = How(
            greedy_on=greedy_on, members=chosen.members, score=chosen.score, trace=chosen.trace
        )
    else:
        members = list(runs)
    made = _COMBINE[combine](pool, members)
    made.how = how.joined(made.how)
    return made


def _cross_fitted(
    rows: Rows, choose: Callable[[Rows], Combination], open_pool: Callable[[Rows], _Pool]
) -> Outputs | None:
    """Predictions for each half of the validation rows by what the other half chooses."""
    halves = rows.halves()
    if halves is None:
        return None
    parts: Outputs = {}
    for own, other in (halves, halves[::-1]):
        state = choose(other).state
        assert state is not None
        for name, values in open_pool(own).outputs(state, test=False).items():
            domain = name.partition("/")[2]
            every = rows.split.validation[domain]
            whole = parts.setdefault(name, np.empty((len(every), *values.shape[1:]), values.dtype))
            whole[np.isin(every, own.split.validation[domain])] = values
    return parts


class _Pool:
    """The runs that a protocol may use, read when they are asked for."""

    def __init__(self, rows: Rows, runs: Mapping[str, Path], probe: Path, take: str) -> None:
        self.rows = rows
        self.runs = runs
        self.probe = probe
        self.take = take
        self.model = rows.model()

    def accuracy(self, name: str, key: str) -> float:
        """The run's ``id_accuracy`` on the pool's validation rows, or ``accuracy`` held out."""
        if self.rows.is_half:
            stored = self.stored(name)
            assert stored is not None
            return float(self.rows.metrics(stored)[key])
        return float(getattr(read_metrics(self.runs[name]).of(self.take), key))

    def file(self, name: str) -> Path:
        return self.runs[name] / f"{self.take}.safetensors"

    def state(self, name: str) -> State:
        return load_state(self.file(name))

    def base(self) -> State:
        """The base with the shared head."""
        return load_state(self.probe / "model.safetensors")

    def average(self, states: Sequence[State], combine: Combine, *, lead: int = 0) -> State:
        """The one door through which all averages come: mixed, and ready for use.

        Every candidate that is compared gets here what the final one gets: BatchNorm statistics of
        its own (where they are not frozen), and the rules of ``mix``. A lone state is no average
        and stays as it was trained.
        """
        if len(states) == 1:
            return dict(states[0])
        return self.rows.ready(self.model, mix(states, combine, lead=lead))

    def mean(self, names: Sequence[str]) -> State:
        states = [self.state(name) for name in names]
        return self.average(states, lambda parts: merge(parts, method="linear").state)

    def line(self, base: State, end: State, factor: float) -> State:
        """``base + factor (end - base)``, ``factor`` in 0..1."""
        if factor in (0.0, 1.0):
            return dict(end if factor else base)
        nearer = int(factor > 0.5)
        return self.average(
            [base, end], lambda ends: interpolate(ends[0], ends[1], factor), lead=nearer
        )

    def outputs(self, state: State, *, test: bool = True) -> Outputs:
        self.model.load_state(state)
        return self.rows.outputs(self.model, test=test)

    def stored(self, name: str) -> Outputs | None:
        """Predictions that the run made already, where they include the held-out rows."""
        file = self.runs[name] / f"outputs-{self.take}.npz"
        found = read_outputs(file) if file.exists() else None
        if found is not None and self.rows.is_half:
            return self.rows.half_of(found)
        if found is not None and any(
            f"test/{domain}" not in found for domain in self.rows.split.test
        ):
            return None
        return found

    def validate(self, state: State, pooling: Any) -> float:
        """Validation score; minus infinity where outputs are not finite."""
        outputs = self.outputs(state, test=False)
        if not all_finite(outputs):
            return -np.inf
        return validation_score(self.rows.scores(outputs), pooling)

    def loss(self, outputs: Outputs) -> float:
        """Mean loss of predictions over the validation domains: cross-entropy, or the squared
        error; infinite where outputs are not finite.
        """
        from stockpot.evaluation.metrics import softmax

        if not all_finite(outputs):
            return np.inf
        losses = []
        for domain, values in outputs.items():
            if not domain.startswith("validation/"):
                continue
            labels = self.rows.task.labels[self.rows.split.validation[domain.split("/", 1)[1]]]
            if self.rows.task.kind == "regression":
                losses.append(float(((values[:, 0].astype(np.float64) - labels) ** 2).mean()))
            else:
                chosen = softmax(values)[np.arange(len(labels)), labels]
                losses.append(float(-np.log(np.maximum(chosen, 1e-12)).mean()))
        return float(np.mean(losses))


def _one(pool: _Pool, members: list[str]) -> Combination:
    state = pool.state(members[0])
    return Combination(state, pool.stored(members[0]) or pool.outputs(state), members)


def _mean(pool: _Pool, members: list[str]) -> Combination:
    if len(members) == 1:
        return _one(pool, members)
    state = pool.mean(members)
    return Combination(state, pool.outputs(state), members)


def _ensemble(pool: _Pool, members: list[str]) -> Combination:
    """Mean of the members' class probabilities (their logarithm), or values."""
    each = [pool.stored(name) or pool.outputs(pool.state(name)) for name in members]
    kind = pool.rows.task.kind
    joined = {name: ensemble([one[name] for one in each], kind) for name in each[0]}
    return Combination(
        None, {name: values.astype(np.float32) for name, values in joined.items()}, members
    )


def _stock(pool: _Pool, members: list[str]) -> Combination:
    """Model Stock towards the base with the shared head (2403.19522, eq. 2)."""
    if len(members) == 1:
        return _one(pool, members)
    state = pool.average(
        [*(pool.state(name) for name in members), pool.base()],
        lambda parts: merge(parts[:-1], method="stock", base=parts[-1]).state,
    )
    return Combination(state, pool.outputs(state), members)


def _interpolate(pool: _Pool, members: list[str]) -> Combination:
    """WiSE-FT: (1 - a) base + a run, with a chosen by validation loss (2109.01903, eq. 3).

    ``how`` has the frontier, as the paper draws it: what every a gives on validation and held out.
    """
    base, tuned = pool.base(), pool.state(members[0])

    def at(a: float) -> State:
        return pool.line(base, tuned, a)

    frontier, outputs, losses = [], {}, {}
    for a in _COEFFICIENTS:
        outputs[a] = pool.outputs(at(a))
        losses[a] = pool.loss(outputs[a])
        finite = np.isfinite(losses[a]) and all_finite(outputs[a])
        metrics = pool.rows.metrics(outputs[a]) if finite else {}
        frontier.append(
            FrontierPoint(
                coefficient=a,
                loss=losses[a] if finite else None,
                validation=metrics.get("id_accuracy"),
                held_out=metrics.get("accuracy"),
            )
        )
    chosen = min(losses, key=lambda a: losses[a])
    how = How(coefficient=chosen, frontier=tuple(frontier))
    return Combination(at(chosen), outputs[chosen], members, how)


def _half(pool: _Pool, members: list[str]) -> Combination:
    """WiSE-FT with a = 0.5, which the paper recommends where nothing can be tuned on."""
    base = pool.base()
    state = pool.line(base, pool.state(members[0]), 0.5)
    return Combination(state, pool.outputs(state), members, How(coefficient=0.5))


_COMBINE: dict[str, Callable[[_Pool, list[str]], Combination]] = {
    "one": _one,
    "mean": _mean,
    "ensemble": _ensemble,
    "stock": _stock,
    "interpolate": _interpolate,
    "half": _half,
}
