"""From runs to one model: select, then combine weights or predictions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.backbones import reestimate_batchnorm
from stockpot.checkpoints.torch_io import load_state
from stockpot.evaluation import ensemble
from stockpot.evaluation.connectivity import interpolate
from stockpot.evaluation.selection import best, greedy_soup, validation_score
from stockpot.merging import merge
from stockpot.recycling.protocols import FITTED
from stockpot.tasks import named_generator
from stockpot.training.rows import Outputs, Rows, read_outputs

State = dict[str, Any]

# Steps of WiSE-FT's interpolation coefficient, and of the factor that may go beyond the average.
_COEFFICIENTS = [round(0.1 * i, 1) for i in range(11)]
_FACTORS = [round(0.25 * i, 2) for i in range(1, 9)]


@dataclass
class Made:
    """A protocol's outcome. ``state`` is None where only predictions are combined.

    ``unseen``: predictions for every validation row by a model that was chosen on other validation
    rows; None where nothing was chosen, and where there are too few rows to be parted.
    """

    state: State | None
    outputs: Outputs
    members: list[str]
    how: dict[str, Any] = field(default_factory=dict)
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
) -> Made:
    """Apply one protocol's ``select`` and ``combine`` to the folders of its ``runs``."""
    if not runs:
        return Made(
            load_state(probe / "model.safetensors"), read_outputs(probe / "outputs.npz"), []
        )

    def choose(some: Rows) -> Made:
        return _choose(_Pool(some, runs, probe, take), select, combine, greedy_on)

    made = choose(rows)
    if select in ("best", "greedy") or combine in FITTED:
        made.unseen = _cross_fitted(rows, choose, lambda some: _Pool(some, runs, probe, take))
    return made


def _choose(pool: _Pool, select: str, combine: str, greedy_on: str) -> Made:
    """Select and combine, by the validation rows of the pool."""
    runs = pool.runs
    how: dict[str, Any] = {}
    if select == "best":
        members = [best({name: pool.accuracy(name, "id_accuracy") for name in runs})]
    elif select == "oracle":
        members = [best({name: pool.accuracy(name, "accuracy") for name in runs})]
    elif select == "first two":
        members = list(runs)[:2]
    elif select == "greedy":
        chosen = greedy_soup(
            {name: pool.accuracy(name, "id_accuracy") for name in runs},
            lambda names: pool.validate(pool.whole(pool.mean(names)), greedy_on),
        )
        members = list(chosen.members)
        how = {"greedy_on": greedy_on, **chosen.to_json()}
    else:
        members = list(runs)
    made = _COMBINE[combine](pool, members)
    made.how = {**how, **made.how}
    return made


def _cross_fitted(
    rows: Rows, choose: Callable[[Rows], Made], open_pool: Callable[[Rows], _Pool]
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
        metrics = json.loads((self.runs[name] / "metrics.json").read_text(encoding="utf-8"))
        return float(metrics[self.take][key])

    def file(self, name: str) -> Path:
        return self.runs[name] / f"{self.take}.safetensors"

    def state(self, name: str) -> State:
        return load_state(self.file(name))

    def base(self) -> State:
        """The base with the shared head."""
        return load_state(self.probe / "model.safetensors")

    def mean(self, names: Sequence[str], weights: Sequence[float] | None = None) -> State:
        states = [self.state(name) for name in names]
        if weights is None:
            return dict(merge(states, method="linear").state)
        return dict(merge(states, method="linear", weights=list(weights)).state)

    def whole(self, state: State) -> State:
        """An average made ready for use: where asked for, BatchNorm statistics of its own.

        They are measured on training rows without augmentation (Izmailov et al. 2018, section 3.2).
        """
        if self.rows.backbone.spec.batchnorm == "frozen":
            return state
        self.model.load_state(state)
        rows = np.concatenate(list(self.rows.split.train.values()))
        rows = named_generator(0, "batchnorm").permutation(rows)[: 32 * 64]
        batches = np.array_split(rows, max(1, len(rows) // 64))
        reestimate_batchnorm(self.model, (self.rows.feed.batch(each) for each in batches))
        return self.model.state()

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
        return validation_score(self.rows.scores(self.outputs(state, test=False)), pooling)

    def loss(self, state: State) -> float:
        """Mean validation loss over domains: cross-entropy, or the squared error."""
        return self.loss_of(self.outputs(state, test=False))

    def loss_of(self, outputs: Outputs) -> float:
        """The same of predictions, of which some may be held out."""
        from stockpot.evaluation.metrics import softmax

        losses = []
        for domain, values in outputs.items():
            if not domain.startswith("validation/"):
                continue
            labels = self.rows.task.labels[self.rows.split.validation[domain.split("/", 1)[1]]]
            if self.rows.task.kind == "regression":
                losses.append(float(((values[:, 0] - labels) ** 2).mean()))
            else:
                chosen = softmax(values)[np.arange(len(labels)), labels]
                losses.append(float(-np.log(np.maximum(chosen, 1e-12)).mean()))
        return float(np.mean(losses))


def _one(pool: _Pool, members: list[str]) -> Made:
    state = pool.state(members[0])
    return Made(state, pool.stored(members[0]) or pool.outputs(state), members)


def _mean(pool: _Pool, members: list[str]) -> Made:
    if len(members) == 1:
        return _one(pool, members)
    state = pool.whole(pool.mean(members))
    return Made(state, pool.outputs(state), members)


def _ensemble(pool: _Pool, members: list[str]) -> Made:
    """Mean of the members' class probabilities (their logarithm), or values."""
    each = [pool.stored(name) or pool.outputs(pool.state(name)) for name in members]
    kind = pool.rows.task.kind
    joined = {name: ensemble([one[name] for one in each], kind) for name in each[0]}
    return Made(None, {name: values.astype(np.float32) for name, values in joined.items()}, members)


def _stock(pool: _Pool, members: list[str]) -> Made:
    """Model Stock towards the base with the shared head (2403.19522, eq. 2)."""
    states = [pool.state(name) for name in members]
    merged = merge(states, method="stock", base=pool.base())
    state = pool.whole(dict(merged.state))
    return Made(state, pool.outputs(state), members)


def _interpolate(pool: _Pool, members: list[str]) -> Made:
    """WiSE-FT: (1 - a) base + a run, with a chosen by validation loss (2109.01903, eq. 3).

    ``how`` has the frontier, as the paper draws it: what every a gives on validation and held out.
    """
    base, tuned = pool.base(), pool.state(members[0])
    frontier, outputs = [], {}
    for a in _COEFFICIENTS:
        outputs[a] = pool.outputs(pool.whole(interpolate(base, tuned, a)))
        metrics = pool.rows.metrics(outputs[a])
        frontier.append(
            {
                "coefficient": a,
                "loss": pool.loss_of(outputs[a]),
                "validation": metrics["id_accuracy"],
                "held_out": metrics.get("accuracy"),
            }
        )
    chosen = min(frontier, key=lambda point: point["loss"])["coefficient"]
    state = pool.whole(interpolate(base, tuned, chosen))
    how = {"coefficient": chosen, "frontier": frontier}
    return Made(state, outputs[chosen], members, how)


def _half(pool: _Pool, members: list[str]) -> Made:
    """WiSE-FT with a = 0.5, which the paper recommends where nothing can be tuned on."""
    state = pool.whole(interpolate(pool.base(), pool.state(members[0]), 0.5))
    return Made(state, pool.outputs(state), members, {"coefficient": 0.5})


def _learned(pool: _Pool, members: list[str]) -> Made:
    """Mean of base and runs with coefficients that lower the validation loss.

    A learned soup (2203.05482, appendix I) without gradients, so that few validation rows cannot be
    overfitted: from equal weights on the runs, the mixture is moved by 30 % and then by 15 %
    towards each candidate in turn, and stays there when the loss falls.
    """
    candidates = {"base": pool.base(), **{name: pool.state(name) for name in members}}
    names = list(candidates)
    weights = {name: 0.0 if name == "base" else 1 / len(members) for name in names}

    def mix(coefficients: Mapping[str, float]) -> State:
        used = [name for name in names if coefficients[name] > 0]
        states = [candidates[name] for name in used]
        return dict(
            merge(states, method="linear", weights=[coefficients[name] for name in used]).state
        )

    current = pool.loss(mix(weights))
    trace = [current]
    for step in (0.3, 0.15):
        for name in names:
            moved = {k: v * (1 - step) + (step if k == name else 0.0) for k, v in weights.items()}
            tried = pool.loss(mix(moved))
            if tried < current:
                weights, current = moved, tried
        trace.append(current)
    state = pool.whole(mix(weights))
    return Made(state, pool.outputs(state), members, {"coefficients": weights, "losses": trace})


def _families(pool: _Pool, members: list[str]) -> Made:
    """Mean within the runs of each init, then over inits, so that no init counts twice."""
    families = [name.rpartition("-")[0] for name in members]
    count = len(set(families))
    weights = [1 / (count * families.count(family)) for family in families]
    state = pool.whole(pool.mean(members, weights))
    how = {"coefficients": dict(zip(members, weights, strict=True))}
    return Made(state, pool.outputs(state), members, how)


def _rescaled(pool: _Pool, members: list[str]) -> Made:
    """base + a (mean - base), with a up to 2 chosen by validation loss: WiSE-FT that may go on."""
    base, mean = pool.base(), pool.mean(members)
    factor, losses = _best_factor(pool, base, mean)
    state = pool.whole(_scaled(base, mean, dict.fromkeys(base, factor)))
    how = {"factor": factor, "losses": losses}
    return Made(state, pool.outputs(state), members, how)


def _layers(pool: _Pool, members: list[str]) -> Made:
    """base + a_l (mean - base) with a factor per layer, chosen one after the other.

    From the best common factor, each layer tries half as much and half as much again, the last
    layer first, and keeps what lowers the validation loss (a greedy form of per-layer coefficients,
    such as LiNeS' 2410.17146, eq. 3, where they are a line in the depth).
    """
    base, mean = pool.base(), pool.mean(members)
    factor, losses = _best_factor(pool, base, mean)
    current = losses[str(factor)]
    factors = dict.fromkeys(base, factor)
    layers: dict[str, list[str]] = {}
    for name in base:
        layers.setdefault(layer_of(name), []).append(name)
    chosen = dict.fromkeys(layers, factor)
    for layer, names in reversed(layers.items()):
        for times in (0.5, 1.5):
            tried = {**factors, **dict.fromkeys(names, factor * times)}
            loss = pool.loss(_scaled(base, mean, tried))
            if loss < current:
                current, factors, chosen[layer] = loss, tried, factor * times
    state = pool.whole(_scaled(base, mean, factors))
    return Made(state, pool.outputs(state), members, {"factors": chosen, "loss": current})


def layer_of(name: str) -> str:
    """The layer of a tensor: its name up to the last number, or without its last part."""
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[-1] + 1] if numbers else parts[:-1])


def _best_factor(pool: _Pool, base: State, mean: State) -> tuple[float, dict[str, float]]:
    losses = {a: pool.loss(_scaled(base, mean, dict.fromkeys(base, a))) for a in _FACTORS}
    return min(losses, key=lambda a: losses[a]), {str(a): loss for a, loss in losses.items()}


def _scaled(base: State, mean: State, factors: Mapping[str, float]) -> State:
    """Tensor by tensor ``interpolate(base, mean, factor)``, where a factor may exceed 1."""
    return {
        name: interpolate({name: base[name]}, {name: mean[name]}, factor)[name]
        for name, factor in factors.items()
    }


_COMBINE: dict[str, Callable[[_Pool, list[str]], Made]] = {
    "one": _one,
    "mean": _mean,
    "ensemble": _ensemble,
    "stock": _stock,
    "interpolate": _interpolate,
    "half": _half,
    "learned": _learned,
    "families": _families,
    "rescaled": _rescaled,
    "layers": _layers,
}
