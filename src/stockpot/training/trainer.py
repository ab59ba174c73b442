"""One fine-tuning as a state that goes forward step by step and can be put on disk at any step."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stockpot.backbones.backbone import State
from stockpot.backbones.model import Model
from stockpot.errors import DivergedError, InputError
from stockpot.evaluation.metrics import Kind, fitting_metric
from stockpot.files import atomic_file
from stockpot.tasks import named_generator
from stockpot.training.averaging import LossValley, RunningMean
from stockpot.training.device import make_accelerator
from stockpot.training.feed import Feed, parts_by_length
from stockpot.training.hyperparameters import HyperParameters
from stockpot.training.objective import Objective
from stockpot.training.optimizer import learning_rate, make_optimizer
from stockpot.training.predict import predict
from stockpot.training.sampler import BalancedSampler
from stockpot.training.shares import Shares


@dataclass
class TrainingProgress:
    """What a run has gathered so far."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: State = field(default_factory=dict)
    best_step: int = 0
    best_score: float = float("-inf")
    average: State = field(default_factory=dict)
    average_score: float = float("-inf")
    snapshots: dict[int, State] = field(default_factory=dict)


def is_stopped(history: Sequence[Mapping[str, Any]], best_step: int, hp: HyperParameters) -> bool:
    """Whether as many evaluations as ``early_stopping`` says came after the best one.

    Those of the head-only steps do not count.
    """
    if hp.early_stopping is None:
        return False
    since = max(best_step, hp.head_only_steps)
    return len([entry for entry in history if entry["step"] > since]) >= hp.early_stopping


class Trainer:
    """Fine-tune ``model`` on rows of a feed.

    Every step takes ``batch_size`` rows of every training domain. Everything random in a step
    depends on ``seed`` and the step's number alone, so that a run that was saved and loaded goes on
    with the bytes it would have had. Regression targets are standardised on the training rows; the
    weights that go in and come out speak the original units.

    ``labels`` has the label of every row of the feed; ``train`` and ``validation`` are rows by
    domain. ``metric``: what the best step is chosen by (None: the default of ``kind``).
    ``shares``: into how many a step is cut, see ``shares.py``; every process of a run that
    was started as several must make the same trainer.
    """

    def __init__(
        self,
        model: Model,
        feed: Feed,
        labels: np.ndarray,
        train: Mapping[str, np.ndarray],
        validation: Mapping[str, np.ndarray],
        hp: HyperParameters,
        *,
        seed: int,
        kind: Kind,
        metric: str | None = None,
        classes: Sequence[str] = (),
        swad: bool = False,
        snapshots: Sequence[int] = (),
        device: str | None = None,
        shares: int | None = None,
    ) -> None:
        self.model, self.feed, self.hp, self.seed, self.kind = model, feed, hp, seed, kind
        self.metric = fitting_metric(metric, kind)
        self.labels = np.asarray(labels)
        self.validation = validation
        self.sampler = BalancedSampler(train, hp.batch_size * hp.accumulate, seed)
        self.accelerator = make_accelerator(hp.precision, device)
        self.device = self.accelerator.device
        # A batch that adds to another is a share of the step, as is what another process works on.
        self.shares = Shares(self.accelerator, shares, hp.accumulate)
        self.shares.check(hp.batch_size * hp.accumulate * len(train))
        self.snapshot_steps = frozenset(snapshots)
        self.progress = TrainingProgress()
        self.diverged: DivergedError | None = None
        rows = np.concatenate(list(train.values()))
        self.center, self.spread = self._scale(self.labels[rows])
        model.to(self.device)
        model.dropout.p = hp.dropout
        feed.to(self.device)
        self._standardise_head()
        self._targets = self._make_targets()
        self.objective = Objective(
            kind,
            self.labels[rows],
            n_outputs=model.head.out_features,
            classes=classes,
            class_weights=hp.class_weights,
            label_smoothing=hp.label_smoothing,
            device=self.device,
        )
        self.moving = RunningMean()
        # Iterates since the last evaluation: those that only the valley averages, and the others.
        self._early, self._segment = RunningMean(), RunningMean()
        self.valley = (
            LossValley(hp.swad_converge, hp.swad_tolerance, hp.swad_ratio) if swad else None
        )
        self._head_only = hp.head_only_steps > 0
        self.optimizer = self._make_optimizer()
        self._losses: list[float] = []
        # Constants such as masks may be infinite from the start.
        self._watched = [n for n, t in self._live().items() if bool(torch.isfinite(t).all())]

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.progress.step

    @property
    def finished(self) -> bool:
        """Whether the last step was taken, or the run diverged or was stopped early."""
        done = self.progress
        return (
            self.step >= self.hp.steps
            or self.diverged is not None
            or is_stopped(done.history, done.best_step, self.hp)
        )

    def advance(self, steps: int) -> None:
        """Take up to ``steps`` steps, stopping at the last one of the run.

        Evaluates before the first step, after every ``evaluate_every`` steps and after the last.
        Where loss, weights or validation outputs become non-finite the run is over: ``diverged``
        says what was seen, and weights, averages and history hold what came before.
        """
        begun = time.perf_counter()
        with self._own_randomness():
            try:
                if self.step == 0 and self.validation and not self.progress.history:
                    self._note_evaluation()
                for _ in range(steps):
                    if self.finished:
                        break
                    self._take_step()
                    if self.step % self.hp.evaluate_every == 0 or self.step == self.hp.steps:
                        self._note_evaluation()
            except DivergedError as error:
                self.diverged = error
                self._early, self._segment = RunningMean(), RunningMean()
        self.progress.seconds += time.perf_counter() - begun

    def evaluate(self) -> dict[str, Any]:
        """Score by validation domain, its mean over domains, and the mean loss.

        Raises ``DivergedError`` where an output is not finite.
        """
        scores, losses = {}, []
        for name, rows in self.validation.items():
            with self.accelerator.autocast():
                outputs = predict(self.model, self.feed, rows, device=self.device.type)
            target = self._targets[torch.from_numpy(rows).to(self.device)]
            losses.append(float(self._loss(torch.from_numpy(outputs).to(self.device), target)))
            original = outputs * self.spread + self.center if self.spread != 1.0 else outputs
            if not (np.isfinite(original).all() and np.isfinite(losses[-1])):
                raise self._diverged("validation output")
            scores[name] = self.metric.score(original, self.labels[rows])
        mean = float(np.mean(list(scores.values()))) if scores else float("nan")
        return {
            "by_domain": scores,
            "validation": mean,
            "loss": float(np.mean(losses)) if losses else 0.0,
        }

    def state(self) -> State:
        """The trained part of the model now, in original units (copies on the CPU)."""
        state = self.model.state()
        if self.kind == "regression":
            state["head.weight"] = state["head.weight"] * self.spread
            state["head.bias"] = state["head.bias"] * self.spread + self.center
        return state

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Replace the weights, given in original units; everything else goes on as it was."""
        self.model.load_state(state)
        self._standardise_head()

    def reset_optimizer(self) -> None:
        """Forget the optimizer's moments."""
        self.optimizer = self._make_optimizer()

    def average(self) -> State:
        """Uniform mean of the iterates since ``average_from``; the last where there are none.

        With ``average_at`` best, that of the evaluation at which it validated best, once there was
        one.
        """
        if self.progress.average:
            return self.progress.average
        total = RunningMean()
        total.merge(self.moving)
        total.merge(self._segment)
        return self._completed(total.mean()) if total.count else self.state()

    def swad(self) -> State | None:
        """The average over the loss valley; None when it was not asked for."""
        if self.valley is None:
            return None
        state = self.valley.mean()
        return self._completed(state) if state else self.state()

    def save(self, path: Path) -> None:
        """Put the whole run on disk, whole or not at all; of several processes the first does."""
        if not self.accelerator.is_main_process:
            return
        value = {
            "model": self.model.state(),
            "optimizer": self.optimizer.state_dict(),
            "head_only": self._head_only,
            "moving": self.moving.dump(),
            "early": self._early.dump(),
            "segment": self._segment.dump(),
            "valley": self.valley.dump() if self.valley else None,
            "losses": self._losses,
            "progress": vars(self.progress),
        }
        if self.accelerator.scaler is not None:
            value["scaler"] = self.accelerator.scaler.state_dict()
        with atomic_file(path) as temporary:
            torch.save(value, temporary)

    def load(self, path: Path) -> None:
        """Go on where ``save`` was called, with the same model, rows and hyper-parameters."""
        value = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state(value["model"])
        self._head_only = value["head_only"]
        self.optimizer = self._make_optimizer()
        self.optimizer.load_state_dict(value["optimizer"])
        self.moving = RunningMean.load(value["moving"], self.device)
        self._early = RunningMean.load(value["early"], self.device)
        self._segment = RunningMean.load(value["segment"], self.device)
        if self.valley is not None:
            self.valley.restore(value["valley"], self.device)
        self._losses = value["losses"]
        self.progress = TrainingProgress(**value["progress"])
        done = self.progress
        for state in (done.best, done.average, *done.snapshots.values()):
            state.update({name: tensor.cpu() for name, tensor in state.items()})
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(value["scaler"])

    def _take_step(self) -> None:
        step = self.step
        if self._head_only and step >= self.hp.head_only_steps:
            self._head_only = False
            self.optimizer = self._make_optimizer()
        self.model.train()
        rows = self.sampler.rows(step)
        mass = self.objective.mass(self._target(rows))
        self.optimizer.zero_grad()
        for share in self.shares.own:
            own = self.shares.rows(rows, share)
            with self.shares.buffers(self.model, share):
                value = self._backward(own, mass, (step, *self.shares.seed_words(share)))
            self.shares.add(self.model.trained_parameters(), value)
        value = self.shares.finish(self.model)
        if not np.isfinite(value):
            raise self._diverged("loss", step + 1)
        if self.hp.clip_norm is not None:
            trained = self.model.trained_parameters(head_only=self._head_only)
            self.accelerator.unscale_gradients(self.optimizer)
            nn.utils.clip_grad_norm_(trained, self.hp.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.hp, step)
        self.optimizer.step()
        self._losses.append(value)
        self.progress.step = step + 1
        self._check_weights()
        if not self._head_only:
            if step + 1 > self.hp.average_from * self.hp.steps:
                self._segment.add(self._live())
            elif self.valley is not None:
                self._early.add(self._live())
        if step + 1 in self.snapshot_steps:
            self.progress.snapshots[step + 1] = self.state()

    def _backward(self, rows: np.ndarray, total: float, words: tuple[int, ...]) -> float:
        """Gradients and loss of some rows of a step of mass ``total``; ``words`` seed them."""
        torch.manual_seed(int(named_generator(self.seed, "step", *words).integers(2**62)))
        generator = named_generator(self.seed, "augmentation", *words)
        value = 0.0
        for part in parts_by_length(self.feed, rows, self.device):
            batch = self.feed.batch(part, augment=generator)
            target = self._target(part)
            loss = self.objective.mean(self._forward(batch), target)
            loss = loss * (self.objective.mass(target) / total)
            value += float(loss.detach())
            self.accelerator.backward(loss)
        return value

    def _forward(self, batch: Any) -> Tensor:
        with self.accelerator.autocast():
            with torch.set_grad_enabled(not self._head_only):
                features = self.model.features(batch)
            outputs: Tensor = self.model.head(self.model.dropout(features))
        return outputs.float()

    def _target(self, rows: np.ndarray) -> Tensor:
        return self._targets[torch.from_numpy(rows).to(self.device)]

    def _note_evaluation(self) -> None:
        found = self.evaluate()
        done = self.progress
        done.history.append(
            {
                "step": done.step,
                "validation": found["validation"],
                "by_domain": found["by_domain"],
                "validation_loss": found["loss"],
                "loss": float(np.mean(self._losses)) if self._losses else None,
            }
        )
        self._losses = []
        # Equal scores may differ in their last bit, as sums over domains do; the first one stays.
        if found["validation"] > done.best_score + 1e-9 or not done.best:
            done.best, done.best_step = self.state(), done.step
            done.best_score = found["validation"]
        self.moving.merge(self._segment)
        if self.valley is not None and self._early.count + self._segment.count:
            self._early.merge(self._segment)
            self.valley.add(self._early, found["loss"])
        self._early, self._segment = RunningMean(), RunningMean()
        if self.hp.average_at == "best" and self.validation and self.moving.count:
            self._note_average()

    def _note_average(self) -> None:
        """Validate the moving average as it is now, and keep the best (2110.10832)."""
        done, average, iterate = self.progress, self.moving.mean(), self.model.state()
        self.model.load_state({**iterate, **average})
        try:
            score = self.evaluate()["validation"]
        finally:
            self.model.load_state(iterate)
        done.history[-1]["average_validation"] = score
        if score > done.average_score or not done.average:
            done.average, done.average_score = self._completed(average), score

    def _live(self) -> dict[str, Tensor]:
        """The tensors that can be averaged themselves, named as in ``state``."""
        return {n: t for n, t in self.model.live().items() if t.is_floating_point()}

    def _check_weights(self) -> None:
        """Raises ``DivergedError`` for a tensor that is no longer finite."""
        live = self._live()
        watched = [live[name].detach() for name in self._watched if live[name].numel()]
        sizes = torch.stack([each.float() for each in torch._foreach_norm(watched, float("inf"))])
        finite = torch.isfinite(sizes)
        if not bool(finite.all()):
            names = [name for name in self._watched if live[name].numel()]
            raise self._diverged(f"tensor '{names[int(finite.int().argmin())]}'")

    def _loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Of validation: neither weighted nor smoothed, so that runs can be compared."""
        if self.kind == "regression":
            return nn.functional.mse_loss(outputs.squeeze(1), target)
        return nn.functional.cross_entropy(outputs, target)

    def _make_optimizer(self) -> Any:
        trained = self.model.trained_parameters(head_only=self._head_only)
        return self.accelerator.prepare_optimizer(make_optimizer(self.hp, trained))

    def _make_targets(self) -> Tensor:
        if self.kind == "classification":
            return torch.from_numpy(self.labels.astype(np.int64)).to(self.device)
        values = (self.labels.astype(np.float64) - self.center) / self.spread
        return torch.from_numpy(values.astype(np.float32)).to(self.device)

    def _scale(self, used: np.ndarray) -> tuple[float, float]:
        """Mean and spread of targets; 0 and 1 for labels, which are checked against the head."""
        if self.kind == "regression":
            mean, spread = used.mean(dtype=np.float64), used.std(dtype=np.float64)
            return float(mean), max(float(spread), 1e-12)
        outputs = self.model.head.out_features
        if used.min() < 0 or used.max() >= outputs:
            worst = int(used.min()) if used.min() < 0 else int(used.max())
            raise InputError(f"label {worst} is out of range for a head with {outputs} outputs")
        return 0.0, 1.0

    @torch.no_grad()
    def _standardise_head(self) -> None:
        if self.kind == "regression":
            self.model.head.weight.div_(self.spread)
            self.model.head.bias.sub_(self.center).div_(self.spread)

    def _in_original_units(self, state: State) -> State:
        if self.kind == "regression":
            state["head.weight"] = state["head.weight"] * self.spread
            state["head.bias"] = state["head.bias"] * self.spread + self.center
        return state

    def _completed(self, mean: State) -> State:
        """A mean of iterates, with what has no mean (counters) as it is now."""
        return {**self.model.state(), **self._in_original_units(mean)}

    def _diverged(self, what: str, step: int | None = None) -> DivergedError:
        at = self.step if step is None else step
        return DivergedError(what, step=at, learning_rate=self.hp.learning_rate)

    @contextmanager
    def _own_randomness(self) -> Any:
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            yield
