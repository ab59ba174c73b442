"""Ridge and class means from statistics, against the examples themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stockpot.errors import InputError
from stockpot.tangent.statistics.solve import PENALTIES, class_means, ridge
from stockpot.tangent.statistics.sums import Sums, collect, pack, unpack

CLASSES = ("a", "b", "c")


def problem(rows: int, size: int = 40, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=rows)
    centres = np.random.default_rng(9).standard_normal((3, size)) * 0.7
    return torch.from_numpy(centres[labels] + generator.standard_normal((rows, size))), labels


def statistics(phi: torch.Tensor, labels: np.ndarray, batch: int = 64) -> Sums:
    parts = [slice(start, start + batch) for start in range(0, len(labels), batch)]
    return collect(((phi[part], labels[part]) for part in parts), CLASSES, phi.shape[1])


def test_sums_are_those_of_the_definition() -> None:
    phi, labels = problem(70)
    made = statistics(phi, labels)
    targets = np.eye(3)[labels]
    assert made.gram is not None
    np.testing.assert_allclose(unpack(made.gram), phi.T @ phi, rtol=1e-13)
    np.testing.assert_allclose(made.cross, phi.T @ torch.from_numpy(targets), rtol=1e-12)
    assert made.counts.tolist() == targets.sum(0).tolist()


def test_bytes_do_not_depend_on_how_the_rows_arrive() -> None:
    phi, labels = problem(700)
    one, two = statistics(phi, labels, 700), statistics(phi, labels, 33)
    assert torch.equal(one.gram, two.gram)
    assert torch.equal(one.cross, two.cross)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_packing_keeps_the_matrix(size: int) -> None:
    matrix = torch.randn(size, size, dtype=torch.float64)
    matrix = matrix + matrix.T
    assert torch.equal(unpack(pack(matrix)), matrix)


def test_folding_is_summing_statistics_of_folded_features() -> None:
    phi, labels = problem(50)
    folded = statistics(phi, labels).folded(10)
    direct = statistics(phi.view(50, 4, 10).sum(1), labels)
    torch.testing.assert_close(folded.gram, direct.gram)
    torch.testing.assert_close(folded.cross, direct.cross)


@pytest.mark.parametrize("rows", [25, 300])
@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_ridge_is_the_minimiser(rows: int, penalty: float) -> None:
    """Against least squares on the examples with rows sqrt(lambda) I put below them."""
    phi, labels = problem(rows)
    amount = penalty * float(phi.square().sum()) / phi.shape[1]
    stacked = np.vstack([phi, np.sqrt(amount) * np.eye(phi.shape[1])])
    targets = np.vstack([np.eye(3)[labels], np.zeros((phi.shape[1], 3))])
    expected = np.linalg.lstsq(stacked, targets, rcond=None)[0]
    np.testing.assert_allclose(ridge(statistics(phi, labels), penalty).weight, expected, atol=1e-9)


@pytest.mark.parametrize("rows", [25, 300])
def test_generalised_cross_validation_is_that_of_the_hat_matrix(rows: int) -> None:
    phi, labels = problem(rows)
    found = ridge(statistics(phi, labels)).criterion
    unit = float(phi.square().sum()) / phi.shape[1]
    for penalty, value in found.items():
        gram = phi.T @ phi + penalty * unit * torch.eye(phi.shape[1], dtype=torch.float64)
        hat = (phi @ torch.linalg.solve(gram, phi.T)).numpy()
        residual = np.eye(3)[labels] - hat @ np.eye(3)[labels]
        expected = rows * (residual**2).sum() / (rows - np.trace(hat)) ** 2
        assert value == pytest.approx(expected, rel=1e-6)


def test_the_penalty_is_the_best_of_all_candidates() -> None:
    phi, labels = problem(60)
    sums = statistics(phi, labels)
    found = ridge(sums)
    # Going downhill from the middle looked at few candidates; no other one is better.
    unit = float(phi.square().sum()) / phi.shape[1]
    values = {}
    for penalty in PENALTIES[2:]:
        gram = phi.T @ phi + penalty * unit * torch.eye(phi.shape[1], dtype=torch.float64)
        hat = (phi @ torch.linalg.solve(gram, phi.T)).numpy()
        residual = np.eye(3)[labels] - hat @ np.eye(3)[labels]
        values[penalty] = (residual**2).sum() / (60 - np.trace(hat)) ** 2
    assert found.penalty == min(values, key=values.__getitem__)
    assert len(found.criterion) < len(PENALTIES)


def test_scale_of_the_features_changes_nothing() -> None:
    phi, labels = problem(60)
    small, large = ridge(statistics(phi, labels)), ridge(statistics(1024 * phi, labels))
    assert small.penalty == large.penalty
    torch.testing.assert_close(phi @ small.weight, 1024 * phi @ large.weight, rtol=1e-9, atol=1e-9)


def test_class_means_are_cosines() -> None:
    phi, labels = problem(60)
    weight = class_means(statistics(phi, labels)).weight
    for index in range(3):
        mean = phi[labels == index].mean(0)
        torch.testing.assert_close(weight[:, index], mean / mean.norm())


def test_what_cannot_be_solved_is_refused() -> None:
    phi, labels = problem(30)
    sums = statistics(phi, labels)
    empty = statistics(phi[:0], labels[:0])
    for solver in (ridge, class_means):
        with pytest.raises(InputError, match="no examples"):
            solver(empty)
    with pytest.raises(InputError, match="positive"):
        ridge(sums, 0.0)
    with pytest.raises(InputError, match="class means only"):
        ridge(collect([(phi, labels)], CLASSES, 40, gram=False))
    assert sums.gram is not None
    with pytest.raises(InputError, match="sum of squares"):
        ridge(Sums(CLASSES, sums.cross, sums.counts, -sums.gram), 1e-3)


def test_wrong_rows_are_refused() -> None:
    phi, labels = problem(30)
    with pytest.raises(InputError, match="labels from 0 to 9"):
        collect([(phi, np.arange(30) % 10)], CLASSES, 40)
    with pytest.raises(InputError, match="shape"):
        collect([(phi, labels)], CLASSES, 41)
    with pytest.raises(InputError, match="finite"):
        collect([(phi * float("nan"), labels)], CLASSES, 40)
    with pytest.raises(InputError, match="divide"):
        statistics(phi, labels).folded(7)
    with pytest.raises(InputError, match="triangle"):
        unpack(torch.zeros(4))
