"""What does not fit is handled by a named policy, and said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stockpot.errors import CheckpointError, InputError, MethodError
from stockpot.merging import merge

ONES = np.ones((2, 2), np.float32)


def state(**more):
    return {"w": ONES, **more}


def actions(report):
    return {tensor.name: tensor.action for tensor in report.tensors}


def test_counters_are_copied_from_the_first_model():
    """Averaging ``num_batches_tracked`` means nothing; different ones must not stop a merge."""
    a = state(count=np.array(10), mask=np.array([True, False]))
    b = state(count=np.array(99), mask=np.array([True, False]))
    for method, base in (("linear", None), ("stock", state(count=np.array(0)))):
        merged = merge([a, b], method=method, base=base)
        assert merged.state["count"] == 10
        assert merged.state["mask"].tolist() == [True, False]
        assert actions(merged.report)["count"] == "copy"


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (np.array([True, False]), np.array([False, True])),
        (np.arange(4), np.arange(4)[::-1].copy()),
        (np.arange(4), np.arange(4.0)),
        (np.arange(4.0), np.arange(4)),
        (np.arange(4), np.arange(5)),
    ],
)
@pytest.mark.parametrize(("method", "base"), [("linear", None), ("ties", state())])
def test_integers_that_differ_are_never_one_models_own(mine, theirs, method, base):
    models = [state(ids=mine), state(ids=theirs)]
    for heads in ("auto", "mean"):
        with pytest.raises(CheckpointError, match="'ids'"):
            merge(models, method=method, base=base, heads=heads)
    kept = merge(models, method=method, base=base, heads="first")
    np.testing.assert_array_equal(kept.state["ids"], mine)
    assert "ids" not in merge(models, method=method, base=base, heads="drop").state


def test_batchnorm_statistics_are_averaged_with_a_warning():
    merged = merge([state(**{"bn.running_var": np.ones(3)})] * 2)
    assert any("BatchNorm" in warning for warning in merged.report.warnings)


def test_a_new_head_that_the_base_lacks_is_averaged():
    a = state(head=np.full((3, 2), 1.0))
    b = state(head=np.full((3, 2), 2.0))
    base = {"w": ONES, "pretraining_head": np.ones(7)}
    merged = merge([a, b], method="stock", base=base)
    np.testing.assert_array_equal(merged.state["head"], np.full((3, 2), 1.5))
    assert actions(merged.report)["head"] == "mean"
    assert "pretraining_head" in merged.report.dropped
    assert any("'head'" in warning for warning in merged.report.warnings)
    assert "head" not in merge([a, b], method="stock", base=base, heads="drop").state
    first = merge([a, b], method="stock", base=base, heads="first").state["head"]
    np.testing.assert_array_equal(first, a["head"])


def test_a_base_with_another_head_does_not_matter_to_methods_without_base():
    a, b = state(head=np.zeros(3)), state(head=np.ones(3))
    merged = merge([a, b], method="linear", base=state(head=np.ones(9)))
    assert actions(merged.report)["head"] == "merge"


def test_heads_of_different_shapes_need_a_decision():
    a, b = state(head=np.zeros(3)), state(head=np.ones(5))
    with pytest.raises(CheckpointError, match=r"'head'.*shapes \(3,\) in model 1, \(5,\)"):
        merge([a, b])
    np.testing.assert_array_equal(merge([a, b], heads="first").state["head"], np.zeros(3))
    np.testing.assert_array_equal(merge([a, b], heads="mean").state["head"], np.zeros(3))
    dropped = merge([a, b], heads="drop")
    assert dropped.report.dropped == ("head",)
    assert list(dropped.state) == ["w"]


def test_tensors_of_some_models_only():
    models = [state(extra=np.zeros(3)), state(), state(extra=np.ones(3))]
    with pytest.raises(CheckpointError, match="'extra' \\(model 2 lacks it\\)"):
        merge(models)
    merged = merge(models, heads="mean")
    np.testing.assert_array_equal(merged.state["extra"], np.full(3, 0.5))


def test_models_with_nothing_in_common():
    with pytest.raises(CheckpointError, match="no tensor in common"):
        merge([{"a": ONES}, {"b": ONES}], heads="mean")
    with pytest.raises(InputError, match="nothing to merge"):
        merge([])
    with pytest.raises(MethodError, match="heads: got 'sometimes'"):
        merge([state()], heads="sometimes")


def test_mixed_types_give_the_widest_and_an_explicit_one_wins():
    half, wide = torch.ones(2, 2).half(), torch.full((2, 2), 3.0)
    merged = merge([{"w": half}, {"w": wide}]).state["w"]
    assert merged.dtype == torch.float32
    assert torch.equal(merged, torch.full((2, 2), 2.0))
    assert merge([{"w": half}, {"w": half.bfloat16()}]).state["w"].dtype == torch.float32
    asked = merge([{"w": half}, {"w": wide}], dtype="bfloat16").state["w"]
    assert asked.dtype == torch.bfloat16
    assert merge([{"w": half}], dtype="torch.float64").state["w"].dtype == torch.float64
    with pytest.raises(InputError, match="dtype: got 'int8'"):
        merge([{"w": half}], dtype="int8")


def test_eight_bit_weights_are_read_and_come_out_as_bfloat16():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])
    f8 = [{"w": x.to(torch.float8_e4m3fn)} for x in (a, b)]
    merged = merge(f8).state["w"]
    assert merged.dtype == torch.bfloat16
    assert merged.tolist() == [1.5, 3.0]


def test_non_contiguous_and_tied_tensors():
    square = torch.arange(12.0).reshape(3, 4)
    model = {"a": square.t(), "tied": square, "also": square}
    merged = merge([model, model]).state
    for name, tensor in model.items():
        assert torch.equal(merged[name], tensor)
