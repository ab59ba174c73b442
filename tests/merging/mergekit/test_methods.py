"""mergekit's methods against formulas in float64, written as plainly as they can be."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from stockpot.merging import merge

SHAPE = (8, 12)
RNG = np.random.default_rng(3)
BASE = RNG.standard_normal(SHAPE)
MODELS = [BASE + 0.5 * RNG.standard_normal(SHAPE) for _ in range(3)]
WEIGHTS = [0.7, -0.2, 1.3]


def run(method, models, base=BASE, **values):
    """``{"w": ...}`` merged by mergekit's method."""
    based = None if base is None else {"w": base}
    states = [{"w": model} for model in models]
    return merge(states, method=f"mergekit:{method}", base=based, **values).state["w"]


# ------------------------------------------------------------------------------- task arithmetic
def voted(deltas, weights, normalize):
    """TIES: at each place, those that have the sign of the weighted sum."""
    out = np.zeros(SHAPE)
    for place in np.ndindex(SHAPE):
        terms = [w * d[place] for w, d in zip(weights, deltas, strict=True)]
        sign = 1 if sum(terms) >= 0 else -1
        agreeing = [i for i, term in enumerate(terms) if np.sign(term) == sign]
        divisor = sum(weights[i] for i in agreeing) or 1.0
        out[place] = sum(terms[i] for i in agreeing) / (divisor if normalize else 1.0)
    return out


def summed(deltas, weights, normalize):
    total = sum(weights)
    divisor = total if normalize and abs(total) >= 1e-8 else 1.0
    return sum(w * d for w, d in zip(weights, deltas, strict=True)) / divisor


def largest(delta, density):
    if density >= 1:
        return np.ones(SHAPE)
    count = max(1, int(density * delta.size)) if density > 0 else 0
    order = sorted(range(delta.size), key=lambda i: -abs(delta.ravel()[i]))
    mask = np.zeros(delta.size)
    mask[order[:count]] = 1
    return mask.reshape(SHAPE)


def between(delta, density, gamma):
    if density >= 1:
        return np.ones(SHAPE)
    count, top = int(density * delta.size), int(gamma * delta.size)
    bottom = max(0, delta.size - count - top)
    order = sorted(range(delta.size), key=lambda i: abs(delta.ravel()[i]))
    mask = np.zeros(delta.size)
    mask[order[bottom : bottom + count]] = 1
    return mask.reshape(SHAPE)


def rescaled(delta, mask):
    kept = np.abs(delta * mask).sum()
    return delta * mask * (np.abs(delta).sum() / kept if kept >= 1e-7 else 1.0)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("density", [0.0, 0.001, 0.37, 1.0, 1.5])
@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "breadcrumbs_ties"])
def test_sparse_task_vectors(method, density, normalize, rescale):
    deltas = [model - BASE for model in MODELS]
    masks = [
        largest(delta, density) if method == "ties" else between(delta, density, 0.1)
        for delta in deltas
    ]
    sparse = [
        rescaled(d, m) if rescale and density < 1 else d * m
        for d, m in zip(deltas, masks, strict=True)
    ]
    join = summed if method == "breadcrumbs" else voted
    expected = BASE + 0.8 * join(sparse, WEIGHTS, normalize)
    values = {"gamma": 0.1} if method != "ties" else {}
    found = run(
        method,
        MODELS,
        weight=WEIGHTS,
        density=density,
        normalize=normalize,
        rescale=rescale,
        **{"lambda": 0.8, **values},
    )
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("weights", [WEIGHTS, [1.0, -1.0, 0.0]])
def test_task_arithmetic(weights, normalize):
    expected = BASE + 2.0 * summed([model - BASE for model in MODELS], weights, normalize)
    found = run("task_arithmetic", MODELS, weight=weights, normalize=normalize, **{"lambda": 2.0})
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "values"),
    [("dare_linear", {}), ("della_linear", {"epsilon": 0.15})],
)
def test_random_masks_keep_a_share_and_the_l1_norm(method, values):
    base, model = np.zeros((200, 300)), np.random.default_rng(0).standard_normal((200, 300))
    for density in (0.3, 0.6):
        found = run(method, [model], base, weight=1.0, density=density, seed=4, **values)
        kept = found != 0
        assert abs(kept.mean() - density) < 5 * math.sqrt(density * (1 - density) / kept.size)
        assert np.abs(found).sum() == pytest.approx(np.abs(model).sum())
        factors = found[kept] / model[kept]
        assert np.ptp(factors) < 1e-9
        if method == "della_linear":
            ranks = np.argsort(np.argsort(np.abs(model), axis=1), axis=1)
            for low, high in itertools.pairwise((0, 100, 200, 300)):
                inside = (ranks >= low) & (ranks < high)
                expected = density - 0.15 + 0.3 * ((low + high - 1) / 2) / 299
                assert abs(kept[inside].mean() - expected) < 0.02
    assert (run(method, [model], base, weight=1.0, density=0.0, **values) == 0).all()
    assert (run(method, [model], base, weight=1.0, density=1.0, **values) == model).all()


@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_sce(density):
    deltas = [model - BASE for model in MODELS]
    if density < 1:
        variance = np.var(deltas, axis=0).ravel()
        count = int(np.count_nonzero(variance) * density)
        mask = np.zeros(variance.size)
        mask[np.argsort(-variance)[:count]] = 1
        deltas = [delta * mask.reshape(SHAPE) for delta in deltas]
    squares = [np.mean(delta**2) for delta in deltas]
    total = sum(squares)
    shares = [s / total if total >= 1e-6 else 1 / 3 for s in squares]
    expected = BASE.copy()
    for place in np.ndindex(SHAPE):
        sign = 1 if sum(delta[place] for delta in deltas) >= 0 else -1
        agreeing = [i for i in range(3) if np.sign(deltas[i][place]) == sign]
        total = sum(shares[i] for i in agreeing)
        change = sum(shares[i] * deltas[i][place] for i in agreeing)
        expected[place] += change / max(total, 1e-6)
    np.testing.assert_allclose(run("sce", MODELS, select_topk=density), expected, atol=1e-12)


@pytest.mark.parametrize("values", [{}, {"r": 0.5, "alpha": 2.0}])
def test_ram(values):
    changed = [np.random.default_rng(i).random(SHAPE) < 0.4 for i in range(3)]
    models = [BASE + 0.1 * mask * (i + 1) for i, mask in enumerate(changed)]
    count = sum(mask.astype(int) for mask in changed)
    expected = BASE.copy()
    for i, mask in enumerate(changed):
        own, shared = int((mask & (count == 1)).sum()), int((mask & (count > 1)).sum())
        factor = 1.0
        if values:
            factor += values["r"] * min(shared / max(own, 1e-5), values["alpha"])
        delta = models[i] - BASE
        expected += np.where(count == 1, factor, 1.0) * mask * delta / np.maximum(count, 1)
    method = "ramplus_tl" if values else "ram"
    np.testing.assert_allclose(run(method, models, **values), expected, atol=1e-12)


# --------------------------------------------------------------------------------------- spheres
def on_sphere(a, b, t, straight):
    cosine = float(np.clip(a.ravel() @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))
    if straight(cosine):
        return (1 - t) * a + t * b
    theta = math.acos(cosine)
    return (math.sin((1 - t) * theta) * a + math.sin(t * theta) * b) / math.sin(theta)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 1.4])
@pytest.mark.parametrize("near", [0.5, 0.05, 0.01])
def test_slerp(t, near):
    other = BASE + near * RNG.standard_normal(SHAPE)
    expected = on_sphere(BASE, other, t, lambda cosine: abs(cosine) > 0.9995)
    np.testing.assert_allclose(run("slerp", [other], t=t), expected, atol=1e-9)


@pytest.mark.parametrize("base", [BASE, None])
@pytest.mark.parametrize("weights", [[0.4, 0.6], [-0.5, 0.5], [2.0, -0.5]])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_nuslerp(base, weights, axis):
    t = 0.5 if sum(weights) == 0 else weights[1] / sum(weights)
    origin = np.zeros(SHAPE) if base is None else base
    first, second = (model - origin for model in MODELS[:2])
    if axis is None:
        merged = on_sphere(first, second, t, lambda cosine: 1 - cosine**2 <= 1e-16)
    else:
        pairs = zip(np.moveaxis(first, axis, -1), np.moveaxis(second, axis, -1), strict=True)
        rows = [on_sphere(a, b, t, lambda cosine: 1 - cosine**2 <= 1e-16) for a, b in pairs]
        merged = np.moveaxis(np.array(rows), -1, axis)
    values = {"nuslerp_flatten": axis is None, "nuslerp_row_wise": axis == 0}
    found = run("nuslerp", MODELS[:2], base, weight=weights, **values)
    np.testing.assert_allclose(found, origin + merged, atol=1e-9)


def test_nuslerp_of_a_frozen_tensor_takes_it_for_a_right_angle():
    found = run("nuslerp", [BASE, MODELS[0]], weight=[0.5, 0.5])
    np.testing.assert_allclose(found, BASE + math.sqrt(0.5) * (MODELS[0] - BASE), atol=1e-9)


@pytest.mark.parametrize("base", [BASE, None])
@pytest.mark.parametrize("normalize", [True, False])
def test_multislerp(base, normalize):
    """With the step in the tangent space that comes out as zero."""
    origin = np.zeros(SHAPE) if base is None else base
    vectors = [(model - origin).ravel() for model in MODELS]
    weights = np.array([0.5, 0.3, 0.9])
    weights = weights / weights.sum() if normalize else weights
    lengths = [np.linalg.norm(v) for v in vectors]
    units = [v / (n + 1e-8) for v, n in zip(vectors, lengths, strict=True)]
    mean = sum(w * u for w, u in zip(weights, units, strict=True))
    mean /= np.linalg.norm(mean)
    step = sum(w * (u - (u @ mean) * mean) for w, u in zip(weights, units, strict=True))
    size = np.linalg.norm(step) + 1e-8
    moved = mean * math.cos(size) + step * math.sin(size) / size
    expected = origin + (moved * (weights @ lengths)).reshape(SHAPE)
    found = run("multislerp", MODELS, base, weight=[0.5, 0.3, 0.9], normalize_weights=normalize)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("steps", [0, 1, 10])
def test_karcher(steps):
    vectors = [model.ravel() for model in MODELS]
    lengths = [np.linalg.norm(v) for v in vectors]
    units = [v / n for v, n in zip(vectors, lengths, strict=True)]
    mean = sum(units) / np.linalg.norm(sum(units))
    for _ in range(steps):
        tangent = np.zeros_like(mean)
        for unit in units:
            cosine = np.clip(mean @ unit, -1, 1)
            theta = math.acos(cosine)
            tangent += theta / math.sin(theta) * (unit - cosine * mean) / 3
        length = np.linalg.norm(tangent)
        if length < 1e-5:
            break
        mean = math.cos(length) * mean + math.sin(length) / length * tangent
        mean /= np.linalg.norm(mean)
    expected = (np.mean(lengths) * mean).reshape(SHAPE)
    np.testing.assert_allclose(run("karcher", MODELS, None, max_iter=steps), expected, atol=1e-9)


# ----------------------------------------------------------------------------------------- others
def test_linear_and_passthrough():
    found = run("linear", MODELS, None, weight=WEIGHTS, normalize=False)
    weighted = sum(w * m for w, m in zip(WEIGHTS, MODELS, strict=True))
    np.testing.assert_allclose(found, weighted, atol=1e-12)
    found = run("linear", MODELS, None, weight=WEIGHTS)
    np.testing.assert_allclose(found, weighted / sum(WEIGHTS), atol=1e-12)
    np.testing.assert_array_equal(run("passthrough", MODELS[:1], None, scale=-2.0), -2 * MODELS[0])


@pytest.mark.parametrize("t", [0.0, 0.2, 5.0])
def test_nearswap(t):
    size = np.maximum(np.abs(MODELS[0] - BASE), 1e-6)
    share = np.clip(t / size, 0, 1)
    expected = share * MODELS[0] + (1 - share) * BASE
    np.testing.assert_allclose(run("nearswap", MODELS[:1], t=t), expected, atol=1e-12)


@pytest.mark.parametrize("filter_wise", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_model_stock(filter_wise, scale):
    models = [BASE + scale * (model - BASE) for model in MODELS]
    deltas = np.array([model - BASE for model in models])
    rows = deltas if filter_wise else deltas.reshape(3, 1, -1)
    cosines = []
    for a, b in itertools.combinations(rows, 2):
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        cosines.append(np.clip((a * b).sum(-1) / np.maximum(lengths, 1e-6), -1, 1))
    c = np.mean(cosines, axis=0)
    t = 3 * c / (1 + 2 * c)
    expected = BASE + (t[:, None] * rows.mean(axis=0)).reshape(SHAPE)
    found = run("model_stock", models, filter_wise=filter_wise)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_arcee_fusion_takes_what_is_important():
    base = BASE.astype(np.float32)
    model = MODELS[0].astype(np.float32)

    def softmax(x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True) + 1e-8

    p, q = softmax(model.astype(np.float64)), softmax(base.astype(np.float64))
    divergence = (p * np.log(p / q)).sum(axis=-1, keepdims=True)
    importance = np.abs(model - base) * divergence
    ordered = np.sort(importance.ravel())
    low, middle, high = (ordered[int(q * (ordered.size - 1))] for q in (0.25, 0.5, 0.75))
    mask = importance >= middle + 1.5 * (high - low)
    assert 0 < mask.sum() < mask.size / 3
    np.testing.assert_array_equal(run("arcee_fusion", [model], base), np.where(mask, model, base))


# ------------------------------------------------------------------------------------ arithmetic
def test_a_vote_next_to_zero_is_taken_of_rounded_terms_as_in_mergekit():
    """1 and -1.001 are of one size in bfloat16, and a tie is won by +."""
    base = np.zeros((1, 2), np.float32)
    models = [np.array([[1.0, 1.0]], np.float32), np.array([[-1.001, -1.1]], np.float32)]
    for arithmetic, expected in (("float32", -1.001), ("bfloat16", 1.0)):
        found = run("ties", models, base, weight=1.0, arithmetic=arithmetic)
        np.testing.assert_allclose(found, [[expected, -1.1]], rtol=1e-6)


def test_exactly_so_many_are_kept_of_equal_entries():
    size = 300_000
    model = np.random.default_rng(0).integers(-3, 4, size).astype(np.float32).reshape(500, 600)
    found = run("ties", [model], np.zeros_like(model), weight=1.0, density=0.2)
    order = np.argsort(-np.abs(model.ravel()), kind="stable")[: size // 5]
    assert set(np.flatnonzero(found.ravel())) == set(order)


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("ties", {"weight": 1.0, "density": 0.5}),
        ("sce", {"select_topk": 0.5}),
        ("ram", {}),
        ("nuslerp", {"weight": 1.0}),
        ("karcher", {}),
        ("della", {"weight": 1.0, "density": 0.5}),
    ],
)
def test_torch_and_numpy_agree(method, values):
    count = 2 if method == "nuslerp" else 3
    base = None if method == "karcher" else BASE
    found = [
        run(method, MODELS[:count], base, device=device, **values)
        for device in ("cpu", "torch-cpu")
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-12)
