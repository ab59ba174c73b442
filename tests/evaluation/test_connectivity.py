from dataclasses import asdict

import numpy as np
import pytest

from stockpot.errors import InputError
from stockpot.evaluation.connectivity import barrier, curve, interpolate, midpoint_gain


def train_mlp(seed, inputs, labels, start=None, steps=400):
    """A two-layer network trained by plain gradient descent in float64."""
    rng = np.random.default_rng(seed)
    state = start or {
        "in": rng.normal(size=(2, 16)),
        "in_bias": rng.normal(size=16) * 0.1,
        "out": rng.normal(size=(16, 2)) * 0.5,
    }
    state = {name: value.copy() for name, value in state.items()}
    onehot = np.eye(2)[labels]
    for _ in range(steps):
        batch = rng.integers(len(labels), size=64)
        hidden = np.maximum(inputs[batch] @ state["in"] + state["in_bias"], 0)
        logits = hidden @ state["out"]
        probability = np.exp(logits - logits.max(1, keepdims=True))
        probability /= probability.sum(1, keepdims=True)
        error = (probability - onehot[batch]) / 64
        back = error @ state["out"].T * (hidden > 0)
        state["out"] -= 0.5 * hidden.T @ error
        state["in"] -= 0.5 * inputs[batch].T @ back
        state["in_bias"] -= 0.5 * back.sum(0)
    return state


@pytest.fixture(scope="module")
def world():
    """Two classes that no line separates (XOR), so that hidden units must specialise."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(600, 2))
    labels = (inputs[:, 0] * inputs[:, 1] > 0).astype(int)
    first = train_mlp(1, inputs, labels)

    def evaluate(state):
        hidden = np.maximum(inputs @ state["in"] + state["in_bias"], 0)
        return {"id": float(((hidden @ state["out"]).argmax(1) == labels).mean())}

    return inputs, labels, first, evaluate


def test_permuted_units_break_linear_mode_connectivity(world):
    """The same function with its hidden units renumbered: equal ends, a barrier between them."""
    _, _, first, evaluate = world
    order = np.random.default_rng(2).permutation(16)
    twin = {"in": first["in"][:, order], "in_bias": first["in_bias"][order]}
    twin["out"] = first["out"][order]
    result = curve(first, twin, evaluate)
    assert result.values["id"][0] == result.values["id"][-1] > 0.95
    assert result.barrier["id"] > 0.15
    assert result.gain["id"] < -0.1


def test_two_runs_from_one_trained_network_are_connected(world):
    inputs, labels, first, evaluate = world
    runs = [train_mlp(seed, inputs, labels, start=first, steps=60) for seed in (3, 4)]
    assert curve(*runs, evaluate).barrier["id"] < 0.02


def test_barrier_of_known_curves():
    lambdas = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert barrier(lambdas, [0.8, 0.7, 0.6, 0.5, 0.4]) == pytest.approx(0)
    assert barrier(lambdas, [0.8, 0.75, 0.4, 0.55, 0.6]) == pytest.approx(0.3)
    assert barrier(lambdas, [0.8, 0.85, 0.9, 0.85, 0.8]) == 0
    assert midpoint_gain([0.61, 0.5, 0.40, 0.45, 0.52]) == pytest.approx(-0.165)
    assert midpoint_gain([0.0, 1.0, 3.0, 0.0]) == pytest.approx(2.0)


def test_ends_are_the_models_themselves():
    a = {"w": np.array([1.0, np.pi], np.float32), "steps": np.array(3)}
    b = {"w": np.array([2.0, 1e-8], np.float32), "steps": np.array(9)}
    assert interpolate(a, b, 0.0)["w"] is a["w"]
    assert interpolate(a, b, 1.0)["w"] is b["w"]
    assert interpolate(a, b, 0.3)["steps"] == 3
    assert interpolate(a, b, 0.7)["steps"] == 9


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_one_rounding(kind):
    """Half precision is mixed in float32 and rounded once: half a unit from the exact value."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=1000).astype(kind) for _ in range(2))
    mixed = interpolate({"w": a}, {"w": b}, 0.3)["w"]
    exact = 0.7 * a.astype(np.longdouble) + 0.3 * b.astype(np.longdouble)
    assert mixed.dtype == a.dtype
    unit = 0.51 if kind == "float16" else 2.0
    assert (np.abs(mixed - exact) <= unit * np.spacing(np.abs(mixed) + np.abs(a))).all()


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    a = {"w": torch.tensor([1.0, 3.0], dtype=torch.bfloat16), "n": torch.tensor(1)}
    b = {"w": torch.tensor([2.0, 5.0], dtype=torch.bfloat16), "n": torch.tensor(2)}
    mixed = interpolate(a, b, 0.75)
    assert mixed["w"].dtype == torch.bfloat16
    assert mixed["w"].tolist() == [1.75, 4.5]
    assert mixed["n"].item() == 2


def test_bad_input():
    with pytest.raises(InputError, match="'v' is in one model only"):
        interpolate({"w": np.ones(1)}, {"w": np.ones(1), "v": np.ones(1)}, 0.5)
    with pytest.raises(InputError, match="'w' has shapes \\(1,\\) and \\(2,\\)"):
        interpolate({"w": np.ones(1)}, {"w": np.ones(2)}, 0.5)
    with pytest.raises(InputError, match="at least 3 points"):
        curve({}, {}, lambda state: {}, points=2)


def test_curve_as_json():
    state = {"w": np.zeros(1)}
    other = {"w": np.ones(1)}
    result = curve(state, other, lambda s: {"id": float(s["w"][0] ** 2)}, points=3)
    assert asdict(result) == {
        "lambdas": [0.0, 0.5, 1.0],
        "values": {"id": [0.0, 0.25, 1.0]},
        "barrier": {"id": 0.25},
        "gain": {"id": -0.25},
    }


def test_torch_tensors_keep_the_digits_of_their_type():
    torch = pytest.importorskip("torch")
    third = torch.tensor([1.0 / 3.0], dtype=torch.float64)
    mixed = interpolate({"w": third}, {"w": torch.zeros_like(third)}, 0.5)["w"]
    assert mixed.dtype == torch.float64
    assert float(mixed) == 1.0 / 6.0
    half = torch.tensor([1.0], dtype=torch.float16)
    assert interpolate({"w": half}, {"w": 2 * half}, 0.5)["w"].dtype == torch.float16
