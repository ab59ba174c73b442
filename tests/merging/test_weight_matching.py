"""Weight matching: shuffled models come back, functions stay, unknown structures are refused."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.checkpoints import MemoryCheckpoint, TensorInfo, open_checkpoint, write_checkpoint
from stockpot.errors import CheckpointError, InputError, LineageError
from stockpot.inspection.guarded import merge
from stockpot.merging.weight_matching import aligned_to, find_units, match_units

pytest.importorskip("scipy")

HIDDEN, MODEL = 12, 7


def llama(rng, layers=2):
    state = {"model.embed_tokens.weight": rng.standard_normal((9, MODEL))}
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        state |= {
            f"{stem}.self_attn.q_proj.weight": rng.standard_normal((MODEL, MODEL)),
            f"{stem}.mlp.gate_proj.weight": rng.standard_normal((HIDDEN, MODEL)),
            f"{stem}.mlp.up_proj.weight": rng.standard_normal((HIDDEN, MODEL)),
            f"{stem}.mlp.down_proj.weight": rng.standard_normal((MODEL, HIDDEN)),
            f"{stem}.input_layernorm.weight": rng.standard_normal(MODEL),
        }
    return single(state)


def chain(rng, sizes=(6, 10, 8, 3)):
    state = {}
    for place, (rows, columns) in enumerate(zip(sizes[1:], sizes[:-1], strict=True)):
        state[f"{2 * place}.weight"] = rng.standard_normal((rows, columns))
        state[f"{2 * place}.bias"] = rng.standard_normal(rows)
    return single(state)


def single(state):
    return {name: np.asarray(x, dtype=np.float32) for name, x in state.items()}


def shuffled(state, rng):
    """The same function: hidden units of every set in an order of their own."""
    units = find_units(infos(state))
    moved = dict(state)
    for one in units:
        order = rng.permutation(one.size)
        for name, axis in one.axes:
            moved[name] = np.take(moved[name], order, axis=axis)
    return moved


def infos(state):
    return {name: TensorInfo(name, x.shape, "F32") for name, x in state.items()}


def run_chain(state, x):
    last = max(int(name.split(".")[0]) for name in state)
    for place in range(0, last + 1, 2):
        x = x @ state[f"{place}.weight"].T + state[f"{place}.bias"]
        x = np.maximum(x, 0) if place < last else x
    return x


@pytest.mark.parametrize("build", [llama, chain])
def test_a_shuffled_model_comes_back_and_its_merge_is_the_model(build):
    rng = np.random.default_rng(0)
    state = build(rng)
    other = shuffled(state, rng)
    assert any(not np.array_equal(state[name], other[name]) for name in state)
    aligned = aligned_to(MemoryCheckpoint(state), MemoryCheckpoint(other))
    for name, values in state.items():
        assert np.array_equal(aligned.read(name), values)
    merged = merge([state, other], align=True)
    assert all(np.array_equal(merged.state[name], values) for name, values in state.items())
    assert any("hidden units" in warning for warning in merged.report.warnings)


def test_without_alignment_they_are_refused_and_the_hint_names_it():
    rng = np.random.default_rng(1)
    big = {
        f"layers.{layer}.mlp.{end}.weight": np.asarray(rng.standard_normal(shape), np.float32)
        for layer in range(4)
        for end, shape in (("fc1", (96, 48)), ("fc2", (48, 96)))
    }
    other = shuffled(big, rng)
    with pytest.raises(LineageError) as caught:
        merge([big, other])
    assert "--align" in str(caught.value.hint)
    merged = merge([big, other], align=True).state
    assert all(np.array_equal(merged[name], values) for name, values in big.items())


def test_alignment_keeps_the_function_and_lowers_the_distance():
    rng = np.random.default_rng(2)
    one, two = chain(rng), chain(rng)
    aligned = aligned_to(MemoryCheckpoint(one), MemoryCheckpoint(two))
    state = {name: aligned.read(name) for name in two}
    x = rng.standard_normal((5, 6)).astype(np.float32)
    np.testing.assert_allclose(run_chain(state, x), run_chain(two, x), rtol=1e-4, atol=1e-5)

    def distance(other):
        return sum(float(np.sum((one[name] - other[name]) ** 2)) for name in one)

    assert distance(state) < distance(two)


def test_one_set_of_units_gets_the_best_order_of_all():
    import itertools

    rng = np.random.default_rng(3)
    one, two = chain(rng, (3, 5, 2)), chain(rng, (3, 5, 2))
    (units,) = find_units(infos(one))
    orders = match_units(MemoryCheckpoint(one), MemoryCheckpoint(two), [units])

    def gain(order):
        return sum(
            float(np.sum(one[name] * np.take(two[name], order, axis=axis)))
            for name, axis in units.axes
        )

    best = max(gain(list(order)) for order in itertools.permutations(range(5)))
    assert gain(orders[units.name]) == pytest.approx(best)


def test_a_model_beside_itself_is_not_touched():
    state = llama(np.random.default_rng(4))
    state["model.layers.0.mlp.gate_proj.weight"][:] = 0  # all orders of equal units are as good
    aligned = aligned_to(MemoryCheckpoint(state), MemoryCheckpoint(state))
    assert all(np.array_equal(aligned.read(name), x) for name, x in state.items())
    assert "0 of 24 hidden units" in aligned.notes[-1]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (
            {"h.0.mlp.c_fc.weight": (4, 16), "h.0.mlp.c_fc.bias": (16,)}
            | {"h.0.mlp.c_proj.weight": (16, 4), "h.0.mlp.c_proj.bias": (4,)},
            {"h.0.mlp": (16, {"c_fc.weight": 1, "c_fc.bias": 0, "c_proj.weight": 0})},
        ),
        (
            {"l.0.intermediate.dense.weight": (16, 4), "l.0.intermediate.dense.bias": (16,)}
            | {"l.0.output.dense.weight": (4, 16), "l.0.output.LayerNorm.weight": (4,)}
            | {"l.0.attention.output.dense.weight": (4, 4)},
            {
                "l.0": (
                    16,
                    {"intermediate.dense.weight": 0, "intermediate.dense.bias": 0}
                    | {"output.dense.weight": 1},
                )
            },
        ),
        (
            {"b.0.DenseReluDense.wi_0.weight": (6, 4), "b.0.DenseReluDense.wi_1.weight": (6, 4)}
            | {"b.0.DenseReluDense.wo.weight": (4, 6)},
            {"b.0.DenseReluDense": (6, {"wi_0.weight": 0, "wi_1.weight": 0, "wo.weight": 1})},
        ),
        # A packed gate: twice as many rows go in as columns come out.
        ({"b.mlp.fc1.weight": (12, 4), "b.mlp.fc2.weight": (4, 6)}, {}),
        # A norm between the layers.
        (
            {"b.mlp.fc1.weight": (12, 4), "b.mlp.fc2.weight": (4, 12), "b.mlp.norm.weight": (12,)},
            {},
        ),
        # Conv1D or Linear? A square does not say.
        (
            {"m.c_fc.weight": (4, 4), "m.c_fc.bias": (4,), "m.c_proj.weight": (4, 4)},
            {},
        ),
        ({"0.weight": (5, 3, 3, 3), "2.weight": (2, 5)}, {}),
        ({"0.weight": (5, 3), "2.weight": (2, 4)}, {}),
        (
            {"0.weight": (5, 3), "1.weight": (5,), "1.bias": (5,), "1.running_mean": (5,)}
            | {"3.weight": (2, 5), "3.bias": (2,)},
            {"0": (5, {"weight": 0, "1.weight": 0, "1.bias": 0, "1.running_mean": 0})},
        ),
    ],
)
def test_hidden_units_are_read_from_names_and_shapes(shapes, expected):
    units = find_units({name: TensorInfo(name, shape, "F32") for name, shape in shapes.items()})
    assert {one.name for one in units} == set(expected)
    for one in units:
        size, axes = expected[one.name]
        assert one.size == size
        own = {name.removeprefix(f"{one.name}."): axis for name, axis in one.axes}
        assert axes.items() <= own.items()


def test_pieces_are_the_whole_in_any_type(tmp_path):
    rng = np.random.default_rng(5)
    state = llama(rng)
    other = shuffled(state, rng)
    write_checkpoint(tmp_path / "a.safetensors", state, dtypes=dict.fromkeys(state, "BF16"))
    write_checkpoint(tmp_path / "b.safetensors", other, dtypes=dict.fromkeys(other, "BF16"))
    one, two = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    with open_checkpoint(one) as reference, open_checkpoint(two) as model:
        aligned = aligned_to(reference, model)
        for name in reference.names:
            info = reference.info(name)
            assert np.array_equal(aligned.raw(name), reference.raw(name))
            for start, stop in ((0, info.size), (1, min(9, info.size)), (3, 3)):
                out = np.empty(stop - start, np.float32)
                aligned.decode(name, start, stop, out)
                assert np.array_equal(out, reference.read(name).reshape(-1)[start:stop])
    report = merge([one, two], align=True, output=tmp_path / "out.safetensors", block_elements=7)
    assert report.recipe["models"][1] == {"align": str(two)}
    with open_checkpoint(tmp_path / "out.safetensors") as merged, open_checkpoint(one) as expected:
        for name in merged.names:
            assert np.array_equal(merged.raw(name), expected.raw(name))


def test_what_is_not_recognised_is_refused_by_name():
    convolution = {"conv.weight": np.ones((3, 2, 3, 3), np.float32)}
    with pytest.raises(CheckpointError, match=r"no hidden units are recognised.*'conv\.weight'"):
        merge([convolution, convolution], align=True)
    one, two = (chain(np.random.default_rng(0), sizes) for sizes in ((6, 10, 3), (6, 12, 3)))
    with pytest.raises(CheckpointError, match=r"no tensor '0\.weight' of shape \(12, 6\)"):
        merge([one, two], align=True)


def test_a_mergekit_recipe_is_not_aligned(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("merge_method: linear\nmodels:\n  - model: a\n    parameters: {weight: 1}\n")
    with pytest.raises(InputError, match="knows no alignment"):
        merge(recipe, align=True)
