"""Composing is joint training, removing is never having had it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stockpot.backbones import Model
from stockpot.errors import BaseMismatchError, InputError
from stockpot.tangent import TangentModel
from stockpot.tangent.component import Component
from stockpot.tangent.statistics import FeatureMap, StatisticsComposer
from stockpot.tangent.testing import CHECKS, ComposerCase
from tests.tangent.statistics.tiny import CLASSES, backbone, composer, data


def part(made: StatisticsComposer, rows: np.ndarray, task: str, **more: bool) -> Component:
    found = data()
    return made.component(found.feed, found.labels, rows, task=task, fingerprint="f", **more)


def shards(by: str = "rows") -> list[np.ndarray]:
    labels = data().labels
    if by == "rows":
        return np.array_split(np.random.default_rng(4).permutation(len(labels)), 3)
    return [np.flatnonzero(np.isin(labels, group)) for group in ([0, 1], [2, 3], [4])]


def joint(made: StatisticsComposer, rows: np.ndarray, inputs: torch.Tensor) -> torch.Tensor:
    """Ridge on all rows at once, from the examples: the oracle."""
    found = data()
    solution = made.compose([part(made, rows, "all")]).solution
    lengths = list(made.features.blocks(made.backbone))

    def used(batch: np.ndarray) -> list[torch.Tensor]:
        blocks = made.phi(torch.from_numpy(batch)).split(lengths, 1)
        return [blocks[index] for index in solution.blocks]

    parts = used(found.inputs[rows])
    traces = [float(block.square().sum()) for block in parts]
    scales = [(traces[0] / trace) ** 0.5 for trace in traces]
    phi = torch.cat([scale * block for scale, block in zip(scales, parts, strict=True)], 1)
    targets = torch.from_numpy(np.eye(5)[found.labels[rows]])
    amount = solution.penalty * traces[0] / parts[0].shape[1]
    gram = phi.T @ phi + amount * torch.eye(phi.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, phi.T @ targets)
    tests = zip(scales, used(inputs.numpy()), strict=True)
    return torch.cat([scale * block for scale, block in tests], 1) @ weight


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check) -> None:
    made = composer(penalty=1e-2)
    components = [part(made, rows, f"site-{i}") for i, rows in enumerate(shards())]
    inputs = torch.from_numpy(data().inputs[:9])

    def truth(parts, weights) -> torch.Tensor:
        gram = torch.zeros(64, 64, dtype=torch.float64)
        cross = torch.zeros(64, 5, dtype=torch.float64)
        rows_of = {f"site-{i}": rows for i, rows in enumerate(shards())}
        for one, weight in zip(parts, weights, strict=True):
            rows = rows_of[one.task]
            phi = made.phi(torch.from_numpy(data().inputs[rows]))
            gram += weight * phi.T @ phi
            cross += weight * phi.T @ torch.from_numpy(np.eye(5)[data().labels[rows]])
        amount = 1e-2 * float(gram.trace()) / 64
        return made.phi(inputs) @ torch.linalg.solve(
            gram + amount * torch.eye(64, dtype=torch.float64), cross
        )

    check(ComposerCase(made, components, inputs, truth, 1e-9, (torch.float64, torch.float32)))


@pytest.mark.parametrize("by", ["rows", "classes"])
@pytest.mark.parametrize("kind", ["joined", "tangent", "random", "plain"])
def test_composition_is_joint_training(kind: str, by: str) -> None:
    """To 1e-9 of the largest output, however the examples are dealt, the penalty included."""
    made = composer(kind)
    inputs = torch.from_numpy(data(seed=1).inputs)
    parts = [part(made, rows, f"site-{i}") for i, rows in enumerate(shards(by))]
    outputs = made.compose(parts).predict(inputs)
    truth = joint(made, np.arange(len(data().labels)), inputs)
    assert float((outputs - truth).abs().max() / truth.abs().max()) <= 1e-9


@pytest.mark.parametrize("by", ["rows", "classes"])
@pytest.mark.parametrize("kind", ["joined", "tangent"])
def test_removal_is_never_having_had_it(kind: str, by: str) -> None:
    made = composer(kind)
    inputs = torch.from_numpy(data(seed=1).inputs)
    rows = shards(by)
    parts = [part(made, each, f"site-{i}") for i, each in enumerate(rows)]
    whole = made.compose(parts)
    left = whole.without("site-1")
    assert left.digest == made.compose([parts[0], parts[2]]).digest
    truth = joint(made, np.concatenate([rows[0], rows[2]]), inputs)
    gap = (left.predict(inputs) - truth).abs().max() / truth.abs().max()
    assert float(gap) <= 1e-9
    assert float((whole.predict(inputs) - truth).abs().max()) > 1e-3


def test_joined_features_are_never_worse_than_one_of_them() -> None:
    """By the criterion, whatever the data: the plain features are there as they are."""
    criteria, penalties = {}, {}
    for kind in ("joined", "plain", "random", "tangent"):
        solution = composer(kind).compose([part(composer(kind), np.arange(180), "all")]).solution
        criteria[kind] = min(min(values.values()) for values in solution.criterion.values())
        penalties[kind] = solution.criterion
    alone = [criteria[kind] for kind in ("plain", "random", "tangent")]
    assert criteria["joined"] <= min(alone) * (1 + 1e-9)
    for index, kind in enumerate(("plain", "random", "tangent")):
        assert penalties["joined"][(index,)] == pytest.approx(penalties[kind][(0,)], rel=1e-6)


def test_what_has_no_weight_is_not_computed(monkeypatch) -> None:
    whole, some = composer("joined"), composer("joined", parts=2)
    component = part(whole, np.arange(100), "one")
    composed = some.compose([component])
    inputs = torch.from_numpy(data().inputs[:20])
    expected = whole.phi(inputs) @ composed.solution.weight

    def fail(*_: object) -> None:
        raise AssertionError("a gradient was taken")

    monkeypatch.setattr("stockpot.tangent.statistics.sketch.TangentSketch.__call__", fail)
    torch.testing.assert_close(composed.predict(inputs), expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(InputError, match="parts"):
        composer("joined", parts=4)


def test_it_learns() -> None:
    made = composer()
    test = data(seed=1)
    parts = [part(made, rows, f"site-{i}") for i, rows in enumerate(shards("classes"))]
    found = made.compose(parts).predict(torch.from_numpy(test.inputs)).argmax(1).numpy()
    assert (found == test.labels).mean() > 0.8


def test_class_means_need_no_gram() -> None:
    made = composer("plain", solver="means")
    parts = [part(made, rows, f"site-{i}", gram=False) for i, rows in enumerate(shards())]
    inputs = torch.from_numpy(data().inputs)
    phi = made.phi(inputs)
    means = torch.stack([phi[data().labels == c].mean(0) for c in range(5)], 1)
    expected = phi @ (means / means.norm(dim=0))
    torch.testing.assert_close(made.compose(parts).predict(inputs), expected)
    with pytest.raises(InputError, match="class means only"):
        composer("plain").compose(parts)


def test_a_class_nobody_has_seen_scores_nothing() -> None:
    made = composer()
    rows = np.flatnonzero(data().labels < 3)
    composed = made.compose([part(made, rows, "few")])
    outputs = composed.predict(torch.from_numpy(data().inputs))
    assert composed.classes == CLASSES[:3]
    assert not outputs[:, 3:].any()


def test_one_base_has_one_name_for_both_kinds_of_components() -> None:
    model = TangentModel(Model(backbone(), 5))
    assert composer().base_digest == model.base_digest


def test_what_does_not_belong_is_refused() -> None:
    made = composer()
    one = part(made, np.arange(50), "one")
    with pytest.raises(BaseMismatchError):
        composer("random").compose([one])
    few = StatisticsComposer(backbone(), made.features, CLASSES[:2], device="cpu")
    with pytest.raises(InputError, match="does not know"):
        few.compose([one])
    with pytest.raises(InputError, match="no rows"):
        part(made, np.arange(0), "none")
    with pytest.raises(InputError, match="unknown solver"):
        composer(solver="magic")
    with pytest.raises(InputError, match="each named once"):
        StatisticsComposer(backbone(), made.features, ("a", "a"))
    for wrong in ({"kind": "magic"}, {"dimension": 0}, {"directions": 1.5}):
        with pytest.raises(InputError, match="feature map"):
            FeatureMap(**wrong)
