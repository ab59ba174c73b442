"""Bad scales, rank, and rounding: the right answer, or a warning that says why not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from stockpot.errors import ScoreError
from stockpot.ranking.gram import Moments
from stockpot.ranking.scores import Evidence, compute, pool_values
from stockpot.ranking.scores import workspace as workspace_module
from stockpot.ranking.scores.etran import nearest_mean
from stockpot.ranking.scores.logme import Dual, Normal, fixed_point
from stockpot.ranking.scores.spectrum import Spectrum
from stockpot.ranking.scores.workspace import Workspace

from .references import REFERENCES, between
from .worlds import world


@pytest.fixture
def single(monkeypatch):
    """Small problems, too, start with products in float32."""
    monkeypatch.setattr(workspace_module, "_SMALL", 0.0)


@pytest.mark.parametrize(
    "name", ["logme", "hscore", "reg_hscore", "transrate", "sfda", "etran", "gbc", "ncti"]
)
def test_float32_products_give_the_same_value(name, single):
    evidence = world(rows=3000, width=40, classes=7, apart=0.3)
    assert compute([name], evidence)[name].value == pytest.approx(
        REFERENCES[name](evidence), rel=1e-6, abs=1e-6
    )


@pytest.mark.parametrize("name", ["hscore", "loo_ridge", "logme", "transrate"])
def test_nearly_dependent_features_take_float64(name, single):
    evidence = world(rows=400, width=20)
    noise = np.random.default_rng(1).normal(size=(400, 20))
    features = np.concatenate([evidence.features, evidence.features + 1e-4 * noise], axis=1)
    evidence = replace(evidence, features=features.astype(np.float64))
    expected = REFERENCES[name](evidence)
    assert compute([name], evidence)[name].value == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("spread", [1e3, 1e6])
@pytest.mark.parametrize("name", ["hscore", "logme", "transrate", "reg_hscore"])
def test_features_of_very_different_scale(name, spread, single):
    evidence = world(rows=300, dtype=np.float64)
    scales = np.geomspace(1.0 / spread, spread, 12)
    evidence = replace(evidence, features=(evidence.features + 2.0) * scales)
    if name == "hscore":
        # The reference's pseudo-inverse cannot; the score does not depend on scales.
        expected = compute([name], replace(evidence, features=evidence.features / scales))[
            name
        ].value
    elif name == "logme":
        expected = exact_logme(evidence.features, np.eye(4)[evidence.targets])
    elif name == "transrate":
        expected = exact_transrate(evidence.features, evidence.targets)
    else:
        expected = REFERENCES[name](evidence)
    assert compute([name], evidence)[name].value == pytest.approx(expected, rel=1e-6, abs=1e-6)


def exact_logme(x, targets):
    """The same fixed point in longdouble Cholesky-free form: eigenvalues by mpmath's SVD."""
    import mpmath

    mpmath.mp.dps = 50
    n, d = x.shape
    gram = mpmath.matrix(x.tolist()).T * mpmath.matrix(x.tolist())
    values, vectors = mpmath.eigsy(gram)
    total = 0
    for y in targets.T:
        w = vectors.T * (mpmath.matrix(x.tolist()).T * mpmath.matrix(y.tolist()))
        rest = mpmath.mpf(float(y @ y)) - sum(w[i] ** 2 / values[i] for i in range(d))
        a = b = mpmath.mpf(1)
        for _ in range(11):
            t = a / b
            freedom = sum(s / (s + t) for s in values)
            m2 = sum((w[i] / (values[i] + t)) ** 2 for i in range(d))
            r2 = rest + sum((w[i] * t / (values[i] + t)) ** 2 / values[i] for i in range(d))
            a, b = freedom / (m2 + 1e-5), (n - freedom) / (r2 + 1e-5)
            if abs(a / b - t) / t <= 1e-3:
                break
        logs = sum(mpmath.log(a + b * s) for s in values)
        e = d * mpmath.log(a) / 2 + n * mpmath.log(b) / 2 - logs / 2 - b * r2 / 2 - a * m2 / 2
        total += (e - n * mpmath.log(2 * mpmath.pi) / 2) / n
    return float(total / targets.shape[1])


def exact_transrate(x, y):
    import mpmath

    mpmath.mp.dps = 60

    def rate(rows):
        matrix = mpmath.matrix(rows.tolist())
        inner = mpmath.eye(rows.shape[1]) + matrix.T * matrix / (len(rows) * 1e-4)
        return float(mpmath.log(mpmath.det(inner)) / 2)

    x = x - x.mean(axis=0)
    return rate(x) - np.mean([rate(x[y == c]) for c in np.unique(y)])


def test_logme_is_the_evidence_of_the_model_at_its_fixed_point():
    rng = np.random.default_rng(0)
    for n, d in ((80, 10), (20, 60)):
        x = rng.normal(size=(n, d))
        y = (x[:, :3].sum(axis=1) + rng.normal(size=n))[:, None]
        if n > d:
            problem = Normal(
                Spectrum(np.asfortranarray(x.T @ x)), x.T @ y, (y**2).sum(axis=0), np.zeros(d)
            )
        else:
            problem = Dual(Spectrum(np.asfortranarray(x @ x.T)), y)
        fit = fixed_point(problem, 1, n, tolerance=0.0, epsilon=0.0)
        covariance = np.eye(n) / fit.b[0] + x @ x.T / fit.a[0]
        exact = multivariate_normal(np.zeros(n), covariance).logpdf(y[:, 0]) / n
        assert fit.evidence[0] == pytest.approx(exact, rel=1e-3)


def test_logme_does_not_care_for_features_that_are_never_active():
    """The authors' code gives another value for every width beyond the number of rows."""
    evidence = world(rows=30, width=40, dtype=np.float64)
    wider = np.concatenate([evidence.features, np.zeros((30, 100))], axis=1)
    first, second = (
        compute(["logme"], Evidence(features, evidence.targets))["logme"]
        for features in (evidence.features, wider)
    )
    assert second.value == pytest.approx(first.value, rel=1e-9)
    assert abs(second.details["authors"] - first.details["authors"]) > 0.1


def test_h_score_with_more_features_than_rows_says_that_it_is_saturated():
    value = compute(["hscore"], world(rows=30, width=60))["hscore"]
    assert value.value == pytest.approx(3.0)
    assert "saturated" in value.warning


def test_h_score_of_dependent_features_is_that_of_their_basis():
    evidence = world(dtype=np.float64)
    mixed = evidence.features @ np.random.default_rng(0).normal(size=(12, 30))
    found = compute(["hscore"], Evidence(mixed, evidence.targets))["hscore"]
    assert not found.details["full_rank"]
    assert found.value == pytest.approx(REFERENCES["hscore"](evidence), rel=1e-7)


def test_sfda_says_that_it_is_saturated():
    assert "saturated" in compute(["sfda"], world(rows=40, width=200))["sfda"].warning


def test_large_dependent_features_are_decomposed_or_refused(single):
    evidence = world(rows=200, width=8, dtype=np.float64)
    mix = 1e4 * np.random.default_rng(0).normal(size=(8, 16))
    features = evidence.features @ mix
    found = compute(["logme"], Evidence(features, evidence.targets))["logme"].value
    # The evidence depends on X X^T alone.
    basis = evidence.features @ np.linalg.cholesky(mix @ mix.T)
    plain = compute(["logme"], Evidence(basis, evidence.targets))["logme"].value
    assert found == pytest.approx(plain, abs=1e-6)
    moments = Moments(classes=4).add(features, evidence.targets)
    with pytest.raises(ScoreError, match="too closely for sums of float32"):
        compute(["logme"], Evidence(None, evidence.targets, moments=moments))


def test_streamed_float32_sums_of_dependent_features_say_how_far_they_may_be_off():
    evidence = world(rows=400, dtype=np.float64)
    near = evidence.features + 1e-5 * np.random.default_rng(0).normal(size=(400, 12))
    features = np.concatenate([evidence.features, near], axis=1)
    moments = Moments(classes=4).add(features, evidence.targets)
    bare = Evidence(None, evidence.targets, moments=moments)
    assert "rounding" in compute(["hscore"], bare)["hscore"].warning


def test_between_is_the_between_class_covariance():
    x, y = np.array([[0.0], [2.0], [4.0], [6.0]]), np.array([0, 0, 1, 1])
    assert between(x, y) == pytest.approx(np.cov([1.0, 1.0, 5.0, 5.0]))


def test_rows_of_one_group_are_left_out_together():
    evidence = world(rows=48)
    groups = np.arange(48) // 4
    grouped = replace(evidence, groups=groups)
    for name in ("loo_ridge", "knn"):
        assert compute([name], grouped)[name].value == pytest.approx(REFERENCES[name](grouped))
    assert compute(["linear_probe"], grouped)["linear_probe"].details["judged_on"] % 4 == 0


def test_pool_scores_depend_on_the_pool_and_others_do_not():
    worlds = {str(seed): world(seed=seed, apart=0.3 + 0.3 * seed) for seed in range(3)}
    for name in ("ncti", "etran"):
        alone = {model: compute([name], each)[name] for model, each in worlds.items()}
        together = pool_values(name, alone)
        numbers = [value.value for value in together.values()]
        assert list(together) == list(worlds)
        d = [value.details for value in alone.values()]

        def unit(key, d=d):
            x = np.array([each[key] for each in d])
            return (x - x.min()) / np.ptp(x)

        if name == "ncti":
            expected = unit("span") + unit("confidence") - unit("spread")
        else:
            expected = 0.15 * unit("energy") + 0.85 * unit("fit")
        np.testing.assert_allclose(numbers, expected)
        one = pool_values(name, {"only": alone["0"]})
        assert one["only"].value == 0.0
    plain = {model: compute(["logme"], each)["logme"] for model, each in worlds.items()}
    assert pool_values("logme", plain) == plain


def test_regression_of_few_rows_leaves_no_residual():
    value = compute(["etran"], world("regression", rows=12, width=30))["etran"]
    assert value.value == pytest.approx(0.0, abs=1e-9)


def test_the_nearest_mean_is_what_its_name_says():
    evidence = world(dtype=np.float64)
    x, y = evidence.features, evidence.targets
    means = np.array([x[y == c].mean(axis=0) for c in range(4)])
    likelihood = np.exp(-0.5 * ((x[:, None] - means) ** 2).sum(axis=-1)) * np.bincount(y)
    expected = (likelihood / likelihood.sum(axis=1, keepdims=True))[np.arange(len(y)), y].mean()
    assert nearest_mean(Workspace(evidence)) == pytest.approx(expected, rel=1e-9)


def test_large_tasks_are_subsampled_with_every_class(monkeypatch):
    from stockpot.ranking.scores import occam, parc

    monkeypatch.setattr(occam, "MOST_ROWS", 200)
    monkeypatch.setattr(parc, "MOST_ROWS", 200)
    evidence = world(rows=900, classes=9)
    whole = compute(["int"], replace(evidence, seed=1))["int"]
    assert whole.details == {"rows": 200, "classes": 9}
    assert compute(["parc"], evidence)["parc"].details["rows"] == 200
