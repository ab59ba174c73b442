"""Fennec against slow references: discriminant by its formulas, factors that exist."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.errors import InputError
from stockpot.ranking.fennec import Fennec, ModelFacts, TaskFacts, factorise, fisher_score


def blobs(gap: float, seed: int = 0, n: int = 120, classes: int = 3, width: int = 40):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return rng.normal(size=(n, width)) + gap * rng.normal(size=(classes, width))[labels], labels


def slow_fisher(features: np.ndarray, labels: np.ndarray) -> float:
    """The steps one by one, with the exact principal components."""
    from scipy.linalg import eigh

    x = features - features.mean(axis=0)
    _, _, right = np.linalg.svd(x, full_matrices=False)
    z = x @ right[:32].T
    classes = np.unique(labels)
    share = np.array([(labels == c).mean() for c in classes])
    means = np.stack([z[labels == c].mean(axis=0) for c in classes])
    within = sum(
        p * np.cov(z[labels == c].T, bias=True) for p, c in zip(share, classes, strict=True)
    )
    between = np.cov(z.T, bias=True) - within
    values, vectors = eigh(between, within)
    vectors = vectors[:, np.argsort(values)[::-1]]
    coefficients = means @ vectors @ vectors.T
    intercept = -0.5 * np.diag(means @ coefficients.T) + np.log(share)
    logits = (z - z.mean(axis=0)) @ coefficients.T + intercept
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return float(p[np.arange(len(labels)), np.searchsorted(classes, labels)].mean())


@pytest.mark.parametrize("gap", [0.0, 0.3, 1.0])
def test_fisher_score_is_what_its_formulas_say(gap: float) -> None:
    # 30 columns: the randomised components are then all there are.
    features, labels = blobs(gap, width=30)
    assert fisher_score(features, labels) == pytest.approx(slow_fisher(features, labels), abs=1e-9)


def test_fisher_score_grows_with_separation_and_ignores_scale_and_names() -> None:
    values = [fisher_score(*blobs(gap)) for gap in (0.0, 0.5, 1.5)]
    assert values == sorted(values)
    features, labels = blobs(0.5)
    assert fisher_score(features * 1e4, labels * 7 - 3) == pytest.approx(values[1], rel=1e-6)


def test_fisher_score_refuses_what_it_cannot_judge() -> None:
    features, labels = blobs(1.0)
    with pytest.raises(InputError, match="one class"):
        fisher_score(features, np.zeros(len(labels)))
    with pytest.raises(InputError, match="not finite"):
        fisher_score(np.full_like(features, np.nan), labels)
    with pytest.raises(InputError, match="too few"):
        fisher_score(features[:3], labels[:3])
    with pytest.raises(InputError, match="do not fit"):
        fisher_score(features, labels[:5])
    assert fisher_score(np.ones_like(features), labels) == pytest.approx(1 / 3)
    duplicated = np.concatenate([features, features[:, :1]], axis=1)
    assert 0 < fisher_score(duplicated, labels) <= 1


def test_factors_recover_a_matrix_of_their_rank_also_with_holes() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((12, 2)) @ rng.random((2, 9))
    found = factorise(truth, 2, iterations=4000)
    np.testing.assert_allclose(found.models @ found.tasks.T, truth, atol=2e-3)
    holes = truth.copy()
    holes[rng.random(truth.shape) < 0.2] = np.nan
    found = factorise(holes, 2, iterations=4000)
    np.testing.assert_allclose(found.models @ found.tasks.T, truth, atol=0.05)
    assert (found.models >= 0).all()
    assert (found.tasks >= 0).all()


def test_factors_agree_with_scikit_learn_where_nothing_is_missing() -> None:
    from sklearn.decomposition import NMF

    matrix = np.random.default_rng(1).random((10, 7))
    mine = factorise(matrix, 3)
    other = NMF(3, init="nndsvda", solver="mu", max_iter=5000, tol=1e-9, random_state=0)
    left = other.fit_transform(matrix)
    theirs = np.sqrt(np.mean((matrix - left @ other.components_) ** 2))
    assert mine.error == pytest.approx(theirs, rel=0.1)


def test_factors_refuse_bad_matrices() -> None:
    with pytest.raises(InputError, match="negative"):
        factorise(np.array([[-1.0, 1.0]]))
    with pytest.raises(InputError, match="task number 1"):
        factorise(np.array([[1.0, np.nan], [2.0, np.nan]]))
    with pytest.raises(InputError, match="no known cell"):
        factorise(np.full((2, 2), np.nan))


def world(seed: int = 0):
    """Two kinds of task, each liked by half of the models; the proxy sees the kind."""
    rng = np.random.default_rng(seed)
    kinds = np.array([0, 0, 0, 1, 1, 1])
    liking = np.array([[0.9, 0.4]] * 4 + [[0.4, 0.9]] * 4)
    transfer = liking[:, kinds] + 0.01 * rng.random((8, 6))
    centre = rng.normal(size=(2, 16))
    proxies = [centre[k] + 0.1 * rng.normal(size=(20, 16)) for k in kinds]
    names = [f"m{i}" for i in range(8)]
    return names, transfer, proxies, centre, rng


def test_a_new_task_is_placed_by_what_the_proxy_sees() -> None:
    names, transfer, proxies, centre, rng = world()
    fitted = Fennec.fit(transfer, names, proxies)
    for kind, good in ((0, names[:4]), (1, names[4:])):
        found = fitted.rank(centre[kind] + 0.1 * rng.normal(size=(20, 16)))
        assert set(found.order[:4]) == set(good)
        assert found.milliseconds < 1000
    without = Fennec.fit(transfer, names, None).rank()
    assert set(without.scores) == set(names)


def test_the_meta_part_is_a_linear_regression_on_facts_and_is_merged_half_and_half() -> None:
    names, transfer, proxies, centre, _ = world()
    facts = {n: ModelFacts(1e6 * (i + 1), 10.0 + i, i // 4) for i, n in enumerate(names)}
    tasks = [TaskFacts(1000.0 * (t + 1), 10) for t in range(6)]
    fitted = Fennec.fit(transfer, names, proxies, model_facts=facts, task_facts=tasks)
    found = fitted.rank(centre[:1], TaskFacts(3000, 10))
    for name in names:
        assert found.scores[name] == pytest.approx(
            0.5 * found.latent[name] + 0.5 * found.meta[name]
        )
    rows = np.array(
        [
            [facts[n].parameters, facts[n].layers, float(i < 4), float(i >= 4), t.examples, 10, 1]
            for i, n in enumerate(names)
            for t in tasks
        ]
    )
    scaled = rows / np.abs(rows).max(axis=0)
    solution = np.linalg.lstsq(scaled, transfer.reshape(-1), rcond=None)[0]
    new = np.array([1e6, 10.0, 1, 0, 3000, 10, 1]) / np.abs(rows).max(axis=0)
    # Unscaled, as in the paper, the small columns drown: the numbers are near, not equal.
    assert found.meta["m0"] == pytest.approx(float(new @ solution), abs=0.01)
    scaled_fit = Fennec.fit(
        transfer, names, proxies, model_facts=facts, task_facts=tasks, scale_facts=True
    )
    assert scaled_fit.rank(centre[:1], TaskFacts(3000, 10)).meta["m0"] == pytest.approx(
        float(new @ solution), abs=1e-6
    )


def test_missing_cells_and_wrong_shapes() -> None:
    names, transfer, proxies, centre, _ = world()
    transfer[0, 0] = np.nan
    fitted = Fennec.fit(transfer, names, proxies)
    assert np.isfinite(list(fitted.rank(centre[:1]).scores.values())).all()
    with pytest.raises(InputError, match="features of the new task"):
        fitted.rank()
    with pytest.raises(InputError, match="rows"):
        Fennec.fit(transfer, names[:3], proxies)
    with pytest.raises(InputError, match="proxies"):
        Fennec.fit(transfer, names, proxies[:2])
    facts = {name: ModelFacts(1, 1, 0) for name in names}
    with pytest.raises(InputError, match="no facts"):
        Fennec.fit(transfer, names, proxies, model_facts={}, task_facts=[TaskFacts(1, 1)] * 6)
    with pytest.raises(InputError, match="facts about"):
        Fennec.fit(transfer, names, proxies, model_facts=facts, task_facts=[TaskFacts(1, 1)])
    with_meta = Fennec.fit(
        transfer, names, proxies, model_facts=facts, task_facts=[TaskFacts(1, 1)] * 6
    )
    with pytest.raises(InputError, match="task facts"):
        with_meta.rank(centre[:1])
