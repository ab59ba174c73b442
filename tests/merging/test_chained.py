"""A merge of merges is what it would be by way of a wide file in between."""

from __future__ import annotations

import pytest
import torch

from stockpot.merging import merge
from stockpot.merging.chained import open_merged
from stockpot.merging.engine import Options
from stockpot.merging.job import MergeJob, Spec

from .models import torch_states


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("linear", {}),
        ("stock", {}),
        ("stock", {"granularity": "filter"}),
        ("stock", {"granularity": "global"}),
        ("ties", {}),
        ("dare", {}),
        ("iso_c", {}),
    ],
)
def test_streamed_equals_written_in_between(method, parameters):
    base, models = torch_states(3, torch.bfloat16)
    base_of = None if method == "linear" else base
    wide = merge(models[:2], method=method, base=base_of, dtype="float32", **parameters).state
    wide = {name: wide[name] for name in models[2]}
    expected = merge([wide, models[2]], dtype="bfloat16").state
    inner = Spec(models[:2], method, base_of, parameters)
    found = merge([inner, models[2]], heads="drop", threads=3).state
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name


def test_it_can_be_read_like_any_checkpoint():
    base, models = torch_states(2, torch.bfloat16)
    base["count"] = models[0]["count"] = models[1]["count"] = torch.tensor(7)
    expected = merge(models, method="stock", base=base).state
    options = Options()
    with open_merged(MergeJob(Spec(models, "stock", base), options), options) as merged:
        assert merged.label == "stock of 2 models"
        for name, tensor in expected.items():
            values = torch.tensor(merged.read(name))
            assert torch.equal(values, tensor.to(values.dtype)), name
        assert merged.first_nonfinite("scale", 0, 1) is None
        assert len(merged.digest()) == 64


def test_three_levels():
    _, models = torch_states(4, torch.float32)
    inner = Spec([Spec(models[:2]), models[2]])
    merged = merge([inner, models[3]]).state
    mean = {n: ((models[0][n].double() + models[1][n]) / 2 + models[2][n]) / 2 for n in models[0]}
    for name, tensor in merged.items():
        expected = (mean[name] + models[3][name]) / 2
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-7, atol=1e-8)
