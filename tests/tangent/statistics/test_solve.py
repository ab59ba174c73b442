"""Ridge and class means from statistics, against the examples themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stockpot.errors import InputError
from stockpot.tangent.statistics.solve import PENALTIES, class_means, ridge, ridge_of_rows
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
    found = ridge(statistics(phi, labels)).criterion[(0,)]
    assert set(found) == set(PENALTIES)
    unit = float(phi.square().sum()) / phi.shape[1]
    for penalty, value in found.items():
        if value == float("inf"):  # as many features as examples, hardly a penalty: 0 / 0
            assert rows == 25
            assert penalty < 1e-2
            continue
        gram = phi.T @ phi + penalty * unit * torch.eye(phi.shape[1], dtype=torch.float64)
        hat = (phi @ torch.linalg.solve(gram, phi.T)).numpy()
        residual = np.eye(3)[labels] - hat @ np.eye(3)[labels]
        expected = rows * (residual**2).sum() / (rows - np.trace(hat)) ** 2
        assert value == pytest.approx(expected, rel=1e-6)


def criterion(phi: torch.Tensor, labels: np.ndarray, amount: float) -> float:
    """Generalised cross-validation from the examples, by their kernel: the oracle."""
    values, vectors = np.linalg.eigh((phi @ phi.T).numpy())
    shrunk = amount / (values.clip(0) + amount)
    residual = shrunk[:, None] * (vectors.T @ np.eye(3)[labels])
    return float((residual**2).sum() / len(labels) / shrunk.mean() ** 2)


def two_hills() -> tuple[torch.Tensor, np.ndarray]:
    """A strong feature that says little and a weak one that says all: two minima."""
    generator = np.random.default_rng(5)
    labels = generator.integers(3, size=90)
    noise = 1e3 * generator.standard_normal((90, 30))
    noise[:, 0] += 1e3 * labels
    weak = 1e-2 * (np.eye(3)[labels] + 0.02 * generator.standard_normal((90, 3)))
    return torch.from_numpy(np.concatenate([noise, weak], 1)), labels


@pytest.mark.parametrize("make", [two_hills, lambda: problem(60), lambda: problem(300)])
def test_the_penalty_is_the_best_of_all_candidates(make) -> None:
    phi, labels = make()
    found = ridge(statistics(phi, labels))
    unit = float(phi.square().sum()) / phi.shape[1]
    values = {penalty: criterion(phi, labels, penalty * unit) for penalty in PENALTIES[2:]}
    best = min(values.values())
    assert found.penalty is not None
    assert criterion(phi, labels, found.penalty * unit) <= best * (1 + 1e-6)


def blocks_of(rows: int) -> tuple[list[torch.Tensor], np.ndarray]:
    """Three descriptions of the same examples in units of their own: poor, good, and noise."""
    phi, labels = problem(rows, 12)
    generator = np.random.default_rng(1)
    good = 1e-3 * np.tanh(phi.numpy() @ generator.standard_normal((12, 30)))
    noise = 1e4 * generator.standard_normal((rows, 20))
    return [phi, torch.from_numpy(good), torch.from_numpy(noise)], labels


@pytest.mark.parametrize("rows", [40, 400])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_blocks_together_are_never_worse_than_one(rows: int, order: tuple[int, ...]) -> None:
    parts, labels = blocks_of(rows)
    parts = [parts[index] for index in order]
    lengths = [part.shape[1] for part in parts]
    found = ridge(statistics(torch.cat(parts, 1), labels), blocks=lengths)
    least = min(min(values.values()) for values in found.criterion.values())
    for index, part in enumerate(parts):
        alone = ridge(statistics(part, labels))
        values = alone.criterion[(0,)]
        assert found.criterion[(index,)] == pytest.approx(values, rel=1e-6)
        assert least <= min(values.values()) * (1 + 1e-9)
        if found.blocks == (index,):
            torch.testing.assert_close(found.weight.split(lengths)[index], alone.weight)


def test_the_first_blocks_together_are_one_ridge_on_scaled_features() -> None:
    parts, labels = blocks_of(80)
    lengths = [part.shape[1] for part in parts]
    found = ridge(statistics(torch.cat(parts, 1), labels), blocks=lengths)
    traces = [float(part.square().sum()) for part in parts]
    scaled = [part * (traces[0] / trace) ** 0.5 for part, trace in zip(parts, traces, strict=True)]
    for count in (2, 3):
        for penalty, value in found.criterion[tuple(range(count))].items():
            if penalty >= 1e-4:
                phi = torch.cat(scaled[:count], 1)
                amount = penalty * traces[0] / lengths[0]
                assert value == pytest.approx(criterion(phi, labels, amount), rel=1e-6)


@pytest.mark.parametrize("rows", [50, 200])
def test_the_rows_themselves_give_the_same(rows: int) -> None:
    parts, labels = blocks_of(rows)
    lengths = [part.shape[1] for part in parts]
    phi = torch.cat(parts, 1)
    one = ridge(statistics(phi, labels), blocks=lengths)
    two = ridge_of_rows(phi, torch.from_numpy(labels), 3, blocks=lengths)
    assert (one.blocks, one.penalty) == (two.blocks, two.penalty)
    torch.testing.assert_close(phi @ one.weight, phi @ two.weight, rtol=1e-6, atol=1e-6)


def test_only_some_blocks() -> None:
    parts, labels = blocks_of(80)
    lengths = [part.shape[1] for part in parts]
    sums = statistics(torch.cat(parts, 1), labels)
    found = ridge(sums, blocks=lengths, most=1)
    alone = ridge(statistics(parts[0], labels))
    torch.testing.assert_close(found.weight[: lengths[0]], alone.weight)
    assert found.blocks == (0,)
    assert not found.weight[lengths[0] :].any()
    with pytest.raises(InputError, match="blocks"):
        ridge(sums, blocks=(1, 2))


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
