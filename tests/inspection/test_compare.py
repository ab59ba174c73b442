"""Families are told from strangers, and the words say what is the matter."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from stockpot.errors import CheckpointError, InputError
from stockpot.inspection import Inspection, compare
from stockpot.inspection.layers import stock_ratio
from tests.inspection.models import SHAPES, State, fresh, tuned

BASE = fresh(0)
A, B, C = (tuned(BASE, seed) for seed in (1, 2, 3))
STRANGER = fresh(9)


def layer(found: Inspection, name: str) -> Any:
    return next(each for each in found.layers if each.name == name)


def without(state: State, *names: str) -> State:
    return {name: values for name, values in state.items() if name not in names}


def test_siblings_share_an_ancestor() -> None:
    found = compare([A, B])
    assert found.verdict == "same ancestor"
    assert "agree far beyond chance" in found.reason
    assert found.pairs[0].adjusted > 0.99
    assert found.deltas is None


def test_strangers_are_called_out_although_their_norm_scales_agree() -> None:
    found = compare([A, STRANGER])
    assert found.verdict == "unrelated"
    assert "noise" in found.reason
    assert layer(found, "stem.norm.weight").cosine[0] > 0.98
    assert not layer(found, "stem.norm.weight").counted


def test_a_common_mean_is_no_kinship() -> None:
    """Smoothing filters of strangers have a cosine of a half; adjusted for chance about 0."""
    found = layer(compare([A, STRANGER]), "depthwise.weight")
    assert found.cosine[0] > 0.35
    assert abs(found.adjusted[0]) < 0.2


def test_the_stranger_in_a_group_is_named() -> None:
    found = compare({"a": A, "b": B, "odd": STRANGER, "c": C})
    assert found.verdict == "unrelated"
    assert found.reason.startswith("odd and the others share no ancestor")
    assert {p.verdict for p in found.pairs if "odd" not in (p.first, p.second)} == {"same ancestor"}


def test_two_families_are_no_single_stranger() -> None:
    found = compare({"a": A, "b": B, "x": STRANGER, "y": tuned(STRANGER, 5)})
    assert found.verdict == "unrelated"
    assert "the others" not in found.reason


def test_fine_tunings_far_apart_are_probably_related() -> None:
    """A cosine of 0.4, as measured between two public fine-tunings of one ancestor."""
    found = compare([tuned(BASE, 1, far=1.2), tuned(BASE, 2, far=1.2)])
    assert found.pairs[0].cosine == pytest.approx(0.41, abs=0.05)
    assert found.verdict == "probably related"
    assert "measure the loss" in found.reason


def test_new_upper_layers_are_named() -> None:
    other = B | {"head.weight": STRANGER["head.weight"]}
    found = compare({"a": A, "b": other})
    assert found.verdict == "same ancestor"
    assert found.pairs[0].foreign == ("head.weight",)
    assert any("not in head.weight: trained from new values" in note for note in found.notes)


def test_a_shared_stem_alone_is_said() -> None:
    other = STRANGER | {name: B[name] for name in ("stem.weight", "blocks.0.fc.weight")}
    found = compare([A, other])
    assert found.verdict == "probably related"
    assert "share only 2 of 9 layers" in found.reason


def test_the_same_weights_twice() -> None:
    found = compare([A, {name: values.copy() for name, values in A.items()}])
    assert (found.verdict, found.reason) == ("identical", "every tensor is equal")
    found = compare({"a": A, "again": A, "b": B})
    assert found.verdict == "same ancestor"
    assert "a and again are the same weights twice" in found.notes


def test_an_export_in_half_precision_is_the_same_weights() -> None:
    half = {name: values.astype(np.float16) for name, values in A.items()}
    found = compare({"a": A, "export": half})
    assert (found.verdict, found.reason) == ("identical", "equal up to rounding to F16")
    assert found.models[1].dtypes == {"F16": len(SHAPES)}
    assert compare([half, B]).verdict == "same ancestor"
    found = compare({"export": half, "b": B}, base=A)
    assert "export was never trained: it equals base up to rounding to F16" in found.notes


def test_weights_rounded_to_8_bits_are_told() -> None:
    wide = {"fc.weight": np.random.default_rng(0).normal(size=(32, 512)).astype(np.float32)}
    scale = np.abs(wide["fc.weight"]).max(axis=1, keepdims=True) / 127
    rounded = {"fc.weight": (np.round(wide["fc.weight"] / scale) * scale).astype(np.float32)}
    found = compare({"wide": wide, "rounded": rounded})
    assert [model.coarse for model in found.models] == [(), ("fc.weight",)]
    assert found.verdict == "same ancestor"
    assert any("rounded was rounded to 8 bits" in note for note in found.notes)
    halves = {
        code: {name: values.astype(np.float16) for name, values in wide.items()}
        for code in ("one", "other")
    }
    assert not any(model.coarse for model in compare(halves).models)


def test_a_difference_in_a_counter_is_a_difference() -> None:
    one, other = A | {"steps": np.array(3)}, A | {"steps": np.array(4)}
    assert compare([one, {**one}]).verdict == "identical"
    found = compare([one, other])
    assert found.verdict == "same ancestor"
    assert "steps" not in [each.name for each in found.layers]


def test_another_architecture_is_named_with_an_example() -> None:
    wide = {name: np.ones((2, *values.shape), np.float32) for name, values in A.items()}
    found = compare({"a": A, "wide": wide})
    assert found.verdict == "different architecture"
    assert "only 0 of 9 matrices" in found.reason
    assert "[16, 3, 3, 3] and [2, 16, 3, 3, 3]" in found.reason
    found = compare({"a": A, "other": {f"x{n}.y": v for n, v in enumerate(A.values())}})
    assert found.verdict == "different architecture"
    assert "other has no 'stem.weight'" in found.reason
    assert found.layers == ()
    assert compare([A, {}]).verdict == "different architecture"


def test_heads_may_differ() -> None:
    other = B | {"head.weight": np.ones((3, 32), np.float32), "head.bias": np.ones(3, np.float32)}
    found = compare({"a": A, "b": without(other, "stem.norm.bias") | {"extra": np.ones(1)}})
    assert found.verdict == "same ancestor"
    assert found.models[1].reshaped == {
        "head.weight": ((10, 32), (3, 32)),
        "head.bias": ((10,), (3,)),
    }
    assert found.models[1].missing == ("stem.norm.bias",)
    assert found.models[1].extra == ("extra",)
    assert "b lacks stem.norm.bias" in found.notes
    assert "only b has extra" in found.notes


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ("", "module.", "'module.' before"),
        ("model.", "", "without 'model.'"),
        ("model.", "module.net.", "'model.' is 'module.net.'"),
    ],
)
def test_wrapped_names_are_matched_and_told(ours: str, theirs: str, words: str) -> None:
    one = {ours + name: values for name, values in A.items()}
    other = {theirs + name: values for name, values in B.items()}
    found = compare({"a": one, "b": other})
    assert found.verdict == "same ancestor"
    assert found.models[1].renamed == words
    assert not found.models[1].missing
    assert len(found.layers) == len(A)


def test_broken_values_are_found_and_do_not_spoil_the_verdict() -> None:
    bad = {name: values.copy() for name, values in B.items()}
    bad["blocks.2.fc.weight"][4, 7] = np.nan
    found = compare({"a": A, "b": bad})
    assert found.verdict == "same ancestor"
    (broken,) = found.nonfinite
    assert (broken.model, broken.tensor, broken.count, broken.index) == (
        "b",
        "blocks.2.fc.weight",
        1,
        (4, 7),
    )
    assert any("first at [4, 7]" in note for note in found.notes)
    assert json.dumps(found.to_json(), allow_nan=False)


def test_deltas_against_the_plain_formulas() -> None:
    found = compare({"a": A, "b": B, "c": C}, base=BASE)
    assert found.base == "base"
    assert [model.name for model in found.models] == ["base", "a", "b", "c"]
    assert found.delta_pairs == (("a", "b"), ("a", "c"), ("b", "c"))
    for name in SHAPES:
        deltas = [state[name].astype(np.float64) - BASE[name] for state in (A, B, C)]
        cosines = [
            float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))
            for x, y in combinations(deltas, 2)
        ]
        row = layer(found, name)
        assert row.delta_cosine == pytest.approx(cosines, abs=1e-9)
        c = np.mean(cosines)
        assert row.ratio == pytest.approx(3 * c / (1 + 2 * c) if c > 0 else 0.0, abs=1e-9)
        assert row.delta_angle == pytest.approx(np.degrees(np.arccos(cosines)))
        norm = np.linalg.norm(BASE[name].astype(np.float64))
        assert row.change[1:] == pytest.approx([np.linalg.norm(d) / norm for d in deltas])
        assert row.distance[0] == pytest.approx(
            np.linalg.norm(deltas[0]) / np.sqrt(norm * np.linalg.norm(A[name].astype(np.float64)))
        )
    assert found.deltas is not None
    assert found.deltas.sign_conflict == pytest.approx(0.5, abs=0.03)
    assert any("right angles" in note for note in found.notes)


@pytest.mark.parametrize(("models", "cosine", "ratio"), [(2, 0.5, 2 / 3), (3, 0.5, 0.75)])
def test_stock_ratio_of_the_paper(models: int, cosine: float, ratio: float) -> None:
    assert stock_ratio(models, cosine) == pytest.approx(ratio)
    assert stock_ratio(models, -0.1) == 0.0
    assert stock_ratio(models, 1.0) == 1.0


@pytest.mark.parametrize(
    ("weights", "words"),
    [((1.0, 0.02), "almost the same change"), ((0.6, 0.8), "agree in part"), ((-1, 0), "against")],
)
def test_the_direction_of_changes_in_words(weights: tuple[float, float], words: str) -> None:
    other = {
        name: BASE[name] + weights[0] * (A[name] - BASE[name]) + weights[1] * (B[name] - BASE[name])
        for name in BASE
    }
    found = compare([A, other], base=BASE)
    assert any(words in note for note in found.notes)


def test_pairs_that_agree_differently_are_named() -> None:
    found = compare({"a": A, "twin": tuned(A, 8, far=0.01), "c": C}, base=BASE)
    (note,) = [note for note in found.notes if "some pairs only" in note]
    assert "(a and twin)" in note


def test_what_was_never_trained() -> None:
    frozen = A | {name: BASE[name] for name in ("stem.weight", "stem.norm.bias")}
    found = compare({"a": frozen, "b": B}, base=BASE)
    assert found.models[1].untrained == ("stem.weight", "stem.norm.bias")
    assert found.models[2].untrained == ()
    assert any("a left 2 of 18 tensors as in base" in note for note in found.notes)
    assert layer(found, "stem.weight").ratio is None
    found = compare({"copy": BASE, "b": B}, base=BASE)
    assert "copy was never trained: it equals base" in found.notes


def test_louder_models_are_pointed_out() -> None:
    loud = {name: 3 * values for name, values in B.items()}
    found = compare([A, loud])
    assert found.verdict == "same ancestor"
    assert any("twofold" in note for note in found.notes)


def test_torch_states_give_the_same_numbers() -> None:
    import torch

    states = [{name: torch.from_numpy(v) for name, v in state.items()} for state in (A, B)]
    assert compare(states).to_json() == compare([A, B]).to_json()
    brain = [{name: tensor.bfloat16() for name, tensor in state.items()} for state in states]
    found = compare(brain)
    assert found.models[0].dtypes == {"BF16": len(SHAPES)}
    assert found.verdict == "same ancestor"
    assert compare([states[0], brain[0]]).reason == "equal up to rounding to BF16"


def test_threads_change_nothing() -> None:
    assert (
        compare([A, B, C], base=BASE, threads=4).to_json()
        == compare([A, B, C], base=BASE, threads=1).to_json()
    )


def test_a_quick_look_comes_to_the_same_verdict() -> None:
    many = {
        f"layer.{index}.weight": np.random.default_rng(index).normal(size=(64, 64))
        for index in range(50)
    }
    noisy = {name: values + 0.1 for name, values in many.items()}
    found = compare([many, noisy], quick=True)
    assert found.quick
    assert found.verdict == "same ancestor"
    assert len(found.layers) == 32
    other = {name: values[::-1].copy() for name, values in many.items()}
    assert compare([many, other], quick=True).verdict == "unrelated"


def test_names_restrict_the_question() -> None:
    other = STRANGER | {name: B[name] for name in B if name.startswith("stem")}
    assert compare([A, other], names="blocks.*").verdict == "unrelated"
    found = compare([A, other], names=["stem.weight"])
    assert found.verdict == "same ancestor"
    assert [each.name for each in found.layers] == ["stem.weight"]
    with pytest.raises(InputError, match="no tensor is called nothing"):
        compare([A, B], names="nothing")


def test_too_few_weights_are_no_evidence() -> None:
    small = {"weight": np.ones((2, 2), np.float32)}
    found = compare([small, {"weight": np.eye(2, dtype=np.float32)}])
    assert found.verdict == "probably related"
    assert "too few" in found.reason


def test_empty_tensors_are_passed_over() -> None:
    empty = {"nothing": np.zeros((0, 8), np.float32)}
    assert compare([A | empty, B | empty]).verdict == "same ancestor"


def test_one_model_is_described() -> None:
    found = compare([A])
    assert found.verdict == "identical"
    assert found.reason == "one model, nothing to compare it with"
    assert found.models[0].parameters == sum(values.size for values in A.values())


@pytest.mark.parametrize(
    ("models", "error"),
    [
        ([], InputError),
        ("folder", InputError),
        ([3], InputError),
        ([{"weight": [1.0]}], CheckpointError),
    ],
)
def test_what_is_no_model_is_refused(models: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        compare(models)


def test_the_json_is_plain_and_complete() -> None:
    value = compare({"a": A, "b": B}, base=BASE).to_json()
    again = json.loads(json.dumps(value, allow_nan=False))
    assert again == value
    assert value["schema"] == 1
    assert value["verdict"] == "same ancestor"
    assert value["layers"][0].keys() >= {"name", "cosine", "adjusted", "delta_angle", "ratio"}
