"""Train one component: the delta of one shard, from zero, on a linearised model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stockpot.errors import InputError, StockpotError
from stockpot.evaluation.metrics import accuracy
from stockpot.files import atomic_file, digest
from stockpot.progress import progress
from stockpot.tangent.component import Component
from stockpot.tangent.linear import Delta, TangentModel
from stockpot.tangent.losses import add_norm_gradient, loss_of
from stockpot.tangent.rows import check_labels
from stockpot.tangent.settings import TangentSettings
from stockpot.tasks import named_generator
from stockpot.training.feed import Feed, parts_by_length
from stockpot.training.predict import map_rows
from stockpot.training.sampler import BalancedSampler

_LOG = logging.getLogger("stockpot")
SINGLE_CLASS = (
    "component '{name}' holds a single class: under any loss it learns a constant, and "
    "compositions of such components fail; give each two classes or more, or use the statistics "
    "composer"
)
_SAVES = 20  # times in a run that it is put on disk


def train_component(
    model: TangentModel,
    feed: Feed,
    labels: np.ndarray,
    rows: np.ndarray,
    *,
    task: str,
    classes: Sequence[str],
    fingerprint: str,
    settings: TangentSettings | None = None,
    seed: int = 0,
    validation: np.ndarray | None = None,
    scratch: Path | None = None,
    quiet: bool = False,
) -> Component:
    """Train a component on ``rows`` of ``feed``.

    ``labels``: int64, of every row of the feed, columns of the head. ``classes``: names of all
    columns. ``task``: the component's name; with ``seed`` it determines the order of the rows, so
    that no other shard changes anything here. ``fingerprint``: hash of the whole data. ``scratch``:
    a folder in which the run is saved as it goes, so that the same call goes on after a kill.
    ``validation``: rows whose accuracy is noted in the component's metrics.

    Raises ``InputError`` for labels outside the head, no rows, or a head through which no gradient
    reaches the blocks; ``BackboneError`` where the model cannot be differentiated;
    ``StockpotError`` when training diverges.
    """
    settings = settings or TangentSettings()
    kind = _LeastSquares if settings.solver == "least_squares" else _Run
    run = kind(model, feed, labels, rows, task, settings, seed)
    run.validation = np.sort(np.asarray([] if validation is None else validation, dtype=np.int64))
    seen = run.check(classes)
    saved = scratch / "component.pt" if scratch is not None else None
    if saved is not None and saved.exists():
        run.load(saved)
    every = max(1, run.steps // _SAVES)
    with progress(f"Component {task}", run.steps, quiet=quiet) as advance:
        advance(run.step)
        while run.step < run.steps and not run.finished:
            run.advance()
            advance()
            if saved is not None and run.step % every == 0 and run.step < run.steps:
                run.save(saved)
    metrics = {"training_loss": run.loss}
    run.finish()
    if validation is not None and len(validation):
        outputs = predict_delta(model, run.delta, feed, validation)
        metrics["validation_accuracy"] = accuracy(outputs, labels[validation], "classification")
    component = Component(
        kind="delta",
        base_digest=model.base_digest,
        head_digest=model.head_digest,
        task=task,
        classes=seen,
        examples=len(rows),
        data_fingerprint=shard_fingerprint(fingerprint, rows),
        tensors={name: tensor.detach().cpu().clone() for name, tensor in run.delta.items()},
        seed=seed,
        settings={
            **run.settings.model_dump(mode="json"),
            "precision": model.precision,
            "head_classes": list(classes),
        },
        metrics=metrics,
        function=model.function,
    )
    if saved is not None:
        saved.unlink(missing_ok=True)
    return component


def predict_delta(model: TangentModel, delta: Delta, feed: Feed, rows: np.ndarray) -> np.ndarray:
    """Outputs of the linearised model for rows of a feed, float32 (N, C)."""
    return map_rows(lambda batch: model(batch, delta), feed, rows, model.device)


def shard_fingerprint(fingerprint: str, rows: np.ndarray) -> str:
    """Names the rows of a data set: SHA-256 of its fingerprint and the sorted row numbers."""
    return digest([fingerprint, np.sort(np.asarray(rows)).tolist()])


class _Run:
    """A training that goes forward step by step, by AdamW."""

    validation = np.empty(0, dtype=np.int64)
    finished = False

    def __init__(
        self,
        model: TangentModel,
        feed: Feed,
        labels: np.ndarray,
        rows: np.ndarray,
        task: str,
        settings: TangentSettings,
        seed: int,
    ) -> None:
        self.model, self.feed, self.settings, self.task = model, feed, settings, task
        self.labels, self.rows, self.seed = check_labels(labels, task), np.asarray(rows), seed
        if not len(self.rows):
            raise InputError(f"component '{task}': there are no rows to train on")
        self.sampler = BalancedSampler({task: self.rows}, settings.batch_size, seed)
        self.steps = settings.steps(len(self.rows))
        self.step = 0
        self.loss = 0.0
        self.delta = {n: t.requires_grad_() for n, t in model.zeros().items()}
        self.optimizer = torch.optim.AdamW(
            list(self.delta.values()),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def check(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Everything that can be wrong, before the first step; returns the shard's classes."""
        used = np.unique(self.labels[self.rows])
        if used[0] < 0 or used[-1] >= len(classes):
            raise InputError(
                f"component '{self.task}': label {used[-1] if used[0] >= 0 else used[0]} "
                f"is no column of a head with {len(classes)} classes"
            )
        if len(used) < 2 and len(classes) > 1:
            _LOG.warning(SINGLE_CLASS.format(name=self.task))
        self.feed.to(self.model.device)
        outputs = self._backward(self.rows[: self.settings.batch_size])
        if outputs != len(classes):
            raise InputError(
                f"component '{self.task}': the head has {outputs} outputs for {len(classes)} "
                "classes"
            )
        self._check_gradients()
        self.optimizer.zero_grad()
        return tuple(classes[int(label)] for label in used)

    def advance(self) -> None:
        """One step."""
        rows = self.sampler.rows(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.step, self.steps)
        self.optimizer.zero_grad()
        self._backward(rows)
        penalty = add_norm_gradient(list(self.delta.values()), self.settings.norm_penalty)
        if not np.isfinite(self.loss + penalty):
            raise StockpotError(
                f"component '{self.task}': the loss is not finite at step {self.step + 1} with "
                f"learning rate {self.settings.learning_rate:g}",
                hint="lower the learning rate",
            )
        self.optimizer.step()
        self.step += 1

    def finish(self) -> None:
        """Take what counts as the result."""

    def state(self) -> dict[str, object]:
        """What the run goes on from, besides its step and its delta."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The reverse of :meth:`state`."""
        self.optimizer.load_state_dict(state["optimizer"])

    def save(self, path: Path) -> None:
        """Put the run on disk, whole or not at all."""
        value = {
            "key": self._key(),
            "step": self.step,
            "delta": {name: tensor.detach() for name, tensor in self.delta.items()},
            **self.state(),
        }
        with atomic_file(path) as temporary:
            torch.save(value, temporary)

    def load(self, path: Path) -> None:
        """Go on where ``save`` was called; a run of other settings starts anew."""
        value = torch.load(path, map_location=self.model.device, weights_only=True)
        if value["key"] != self._key():
            return
        self.step = value["step"]
        with torch.no_grad():
            for name, tensor in value["delta"].items():
                self.delta[name].copy_(tensor)
        self.load_state(value)

    def _key(self) -> str:
        """What a saved run has to share with this one."""
        return digest(
            [
                self.model.base_digest,
                self.model.head_digest,
                list(self.model.names),
                self.settings.model_dump(mode="json"),
                self.task,
                self.seed,
                shard_fingerprint("", self.rows),
                self.validation.tolist(),
            ]
        )

    def _backward(self, rows: np.ndarray) -> int:
        """Gradients of the loss on ``rows``; notes the loss and returns the number of outputs."""
        generator = None
        if self.settings.augmentation:
            generator = named_generator(self.seed, "augmentation", self.task, self.step)
        self.loss, columns = 0.0, 0
        for part in self._parts(rows):
            outputs = self.model(self.feed.batch(part, augment=generator), self.delta)
            target = torch.from_numpy(self.labels[part]).to(outputs.device)
            loss = loss_of(outputs, target, self.settings) * (len(part) / len(rows))
            loss.backward()  # type: ignore[no-untyped-call]
            self.loss += float(loss.detach())
            columns = outputs.shape[1]
        return columns

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows that are computed at a time."""
        return parts_by_length(self.feed, rows, self.model.device)

    def _check_gradients(self) -> None:
        """The zero-head trap: behind a head of zeros every block's tangent has gradient zero."""
        blocks = {n: t for n, t in self.delta.items() if not n.startswith(self.model.head)}
        if blocks and not any(_moves(tensor) for tensor in blocks.values()):
            weight = self.model.weights.get(f"{self.model.head}weight")
            zero = weight is not None and not bool(weight.any())
            raise InputError(
                f"no gradient reaches any of the {len(blocks)} tensors below the head "
                f"'{self.model.head.rstrip('.')}'" + (", because the head is zero" if zero else ""),
                hint="give all components one head that is not zero (stockpot.tangent.head)",
            )


_CONVERGED = 1e-12  # part of the first squared gradient at which nothing is left to learn
_PATIENCE = 8
"""Steps without a better loss on the validation rows after which least squares stop."""


class _LeastSquares(_Run):
    """Conjugate gradients on the mean of (f + J f . delta - kappa onehot(y))^2 (Hestenes and
    Stiefel 1952); early stopping is the regularisation.

    The step of the smallest loss on the validation rows is taken. One step is one pass over the
    shard; rows are summed in their order, so that nothing here is random.
    """

    def check(self, classes: Sequence[str]) -> tuple[str, ...]:
        """As for AdamW; then the first direction is downhill from zero."""
        self.rows = np.sort(self.rows)
        seen = super().check(classes)
        self._backward(self.rows)
        self.rest = {n: -t.grad for n, t in self.delta.items() if t.grad is not None and _moves(t)}
        self.direction = {name: tensor.clone() for name, tensor in self.rest.items()}
        self.best = {name: tensor.detach().clone() for name, tensor in self.delta.items()}
        self.least, self.best_step, self.first = float("inf"), 0, _dot(self.rest, self.rest)
        return seen

    @torch.no_grad()
    def advance(self) -> None:
        """One step: as far as the loss falls, then a direction conjugate to all before."""
        product = self._product()
        length, curvature = _dot(self.rest, self.rest), _dot(self.direction, product)
        self.step += 1
        if not curvature > 0 or not length > _CONVERGED * self.first:
            self.finished = True
            return
        amount = length / curvature
        for name, tensor in self.direction.items():
            self.delta[name].add_(tensor, alpha=amount)
            self.rest[name].sub_(product[name], alpha=amount)
        self.loss -= 0.5 * amount * length
        ratio = _dot(self.rest, self.rest) / length
        for name, tensor in self.direction.items():
            tensor.mul_(ratio).add_(self.rest[name])
        self._judge()

    def _judge(self) -> None:
        """Keep the best step by the validation rows, the last one where there are none."""
        loss = 0.0
        if len(self.validation):
            outputs = predict_delta(self.model, self.delta, self.feed, self.validation)
            target = torch.from_numpy(self.labels[self.validation].astype(np.int64))
            loss = float(loss_of(torch.from_numpy(outputs), target, self.settings))
        if loss < self.least or not len(self.validation):
            self.least, self.best_step = loss, self.step
            self.best = {name: tensor.detach().clone() for name, tensor in self.delta.items()}
        self.finished = self.step - self.best_step >= _PATIENCE

    def _product(self) -> dict[str, Tensor]:
        """The loss's matrix of second derivatives times the direction."""
        moving = {n: t.detach().requires_grad_() for n, t in self.direction.items()}
        with torch.enable_grad():
            for part in self._parts(self.rows):
                change = self.model.terms(self.feed.batch(part), moving)[1]
                loss = change.square().mean() * (len(part) / len(self.rows))
                loss.backward()  # type: ignore[no-untyped-call]
        return {
            name: torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            for name, tensor in moving.items()
        }

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        size = self.settings.batch_size
        groups = [rows[start : start + size] for start in range(0, len(rows), size)]
        by_length = super()._parts
        return [part for group in groups for part in by_length(group)]

    @torch.no_grad()
    def finish(self) -> None:
        """The best step."""
        for name, tensor in self.best.items():
            self.delta[name].copy_(tensor)

    def state(self) -> dict[str, object]:
        """Residual, direction and the best step."""
        return {name: getattr(self, name) for name in self._STATE}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The reverse of :meth:`state`."""
        for name in self._STATE:
            setattr(self, name, state[name])

    _STATE = ("rest", "direction", "best", "least", "best_step", "first", "loss", "finished")


def _dot(one: Delta, two: Delta) -> float:
    return sum(float((one[name].double() * two[name].double()).sum()) for name in one)


def _moves(tensor: Tensor) -> bool:
    return tensor.grad is not None and bool(tensor.grad.any())
