"""Conjugate gradients on a component's square loss, against dense linear algebra in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.func import jacrev

from stockpot.tangent import Component, TangentModel, TangentSettings, TensorFeed, train_component
from stockpot.tangent import fitting as module
from tests.tangent.core.tiny import Network, images

CLASSES = ("a", "b", "c", "d")
ROWS, CHECK = np.arange(12), np.arange(12, 24)


def model() -> TangentModel:
    return TangentModel(Network(), precision="float64")


def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(4, size=24)


def train(epochs: float = 50, **more: object) -> Component:
    return train_component(
        model(),
        TensorFeed(images(24).double()),
        labels(),
        ROWS,
        task="all",
        classes=CLASSES,
        fingerprint="f",
        settings=TangentSettings(epochs=epochs, batch_size=5),
        quiet=True,
        **more,  # type: ignore[arg-type]
    )


def dense(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """J (N C, P) and 100 onehot(y) - f (N C,)."""
    own, inputs = model(), images(24).double()[rows]
    found = jacrev(lambda weights: own.functional(weights, inputs))(own.weights)
    jacobian = torch.cat([found[name].reshape(4 * len(rows), -1) for name in own.weights], 1)
    targets = 100 * torch.eye(4, dtype=torch.float64)[torch.from_numpy(labels()[rows])]
    return jacobian, (targets - own.native(inputs)).reshape(-1)


def flat(component: Component) -> torch.Tensor:
    return torch.cat([component.tensors[name].double().reshape(-1) for name in model().weights])


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_step_is_the_best_of_its_krylov_space(steps: int) -> None:
    """After k steps: the minimiser over span(b, A b, ..., A^(k-1) b), what defines the method."""
    jacobian, targets = dense(ROWS)
    space = [jacobian.T @ targets]
    for _ in range(steps - 1):
        space.append(jacobian.T @ (jacobian @ space[-1]))
    basis = torch.linalg.qr(torch.stack([v / v.norm() for v in space], 1)).Q
    best = basis @ torch.linalg.lstsq(jacobian @ basis, targets[:, None]).solution[:, 0]
    found = flat(train(steps))
    torch.testing.assert_close(found, best, rtol=1e-6, atol=1e-6 * float(best.abs().max()))


def test_in_the_end_it_is_the_smallest_delta_that_fits() -> None:
    jacobian, targets = dense(ROWS)
    found = train(400)
    best = torch.linalg.pinv(jacobian) @ targets
    torch.testing.assert_close(flat(found), best, rtol=0, atol=1e-3 * float(best.abs().max()))
    loss = float((jacobian @ flat(found) - targets).square().mean())
    assert found.metrics["training_loss"] == pytest.approx(loss, rel=1e-3, abs=1e-6)


def test_the_validation_rows_choose_the_step() -> None:
    jacobian, targets = dense(CHECK)

    def loss(component: Component) -> float:
        return float((jacobian @ flat(component) - targets).square().mean())

    chosen = loss(train(50, validation=CHECK))
    each = [loss(train(steps)) for steps in range(1, 16)]
    assert chosen == pytest.approx(min(each), rel=1e-9)
    assert chosen < each[-1]


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch) -> None:
    whole = train(12, validation=CHECK)

    class KilledError(Exception):
        pass

    class Run(module._LeastSquares):
        def save(self, path: Path) -> None:
            super().save(path)
            if self.step == 3:
                raise KilledError

    monkeypatch.setattr(module, "_LeastSquares", Run)
    with pytest.raises(KilledError):
        train(12, validation=CHECK, scratch=tmp_path)
    monkeypatch.undo()
    assert train(12, validation=CHECK, scratch=tmp_path).digest == whole.digest


def test_the_order_of_rows_changes_no_byte(monkeypatch) -> None:
    whole = train(6)
    monkeypatch.setattr("tests.tangent.core.test_least_squares.ROWS", ROWS[::-1])
    assert train(6).digest == whole.digest


def test_a_setting_of_adamw_makes_it_adamw() -> None:
    assert TangentSettings(epochs=3).solver == "least_squares"
    for name, value in (("learning_rate", 0.1), ("loss", "cross_entropy"), ("augmentation", True)):
        made = TangentSettings.model_validate({name: value})
        assert made.solver == "adamw"
        assert TangentSettings.model_validate(made.model_dump()) == made
        with pytest.raises(ValidationError, match=name):
            TangentSettings.model_validate({name: value, "solver": "least_squares"})
