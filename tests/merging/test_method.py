"""A method of one's own: one decorated function, and everything else follows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from stockpot.errors import MethodError
from stockpot.merging import available_methods, get_method, merge
from stockpot.merging import method as registry
from stockpot.merging.method import (
    Block,
    Count,
    Largest,
    Pass,
    Real,
    TensorShape,
    merge_method,
    sum_arrays,
)

from .models import numpy_states, torch_states


@pytest.fixture
def own():
    """The example of ``method.py``, registered for one test."""

    @merge_method(
        "half_way",
        title="Half way",
        formula="theta_0 + scale * mean_i(theta_i - theta_0)",
        source="Doe 2026, eq. 3",
        base="required",
        parameters=(Real("scale", 0.5, 0.0, 1.0, help="how far to go"),),
    )
    def half_way(block: Block, *, scale: float):
        total = sum_arrays(block.deltas)
        total *= scale / block.count
        total += block.base
        return total

    yield half_way
    del registry._REGISTERED["half_way"]


def test_the_example_of_the_documentation(own):
    base, models = numpy_states(2)
    merged = merge(models, method="half_way", base=base, scale=0.25).state
    for name, start in base.items():
        wide = [np.asarray(model[name], np.float64) - start for model in models]
        expected = start + 0.25 * (wide[0] + wide[1]) / 2
        np.testing.assert_allclose(merged[name], expected, rtol=2e-7, atol=1e-9)
    with pytest.raises(MethodError, match=r"'half_way', parameter 'scale': got 2.*\[0, 1\]"):
        merge(models, method="half_way", base=base, scale=2)


def test_it_is_listed_and_has_its_command_line(own):
    from stockpot.cli.main import app

    assert "half_way" in available_methods()
    listed = CliRunner().invoke(app, ["merge", "--list-methods", "--json"]).stdout
    entry = next(m for m in json.loads(listed)["methods"] if m["name"] == "half_way")
    assert entry["parameters"][0]["default"] == 0.5


def test_methods_of_other_packages_are_found_by_entry_point(monkeypatch):
    class Point:
        name = "theirs"

        @staticmethod
        def load():
            merge_method("theirs", title="", formula="", source="", base="none")(
                lambda block: block.models[-1]
            )

    monkeypatch.setattr(registry, "_entry_points", lambda: [Point])
    assert "theirs" in available_methods()
    merged = merge([{"w": np.ones(2)}, {"w": np.zeros(2)}], method="theirs")
    assert merged.state["w"].tolist() == [0, 0]
    del registry._REGISTERED["theirs"]


def test_unknown_methods_are_answered_with_the_nearest_or_with_all():
    with pytest.raises(MethodError, match="did you mean 'linear'"):
        get_method("liner")
    with pytest.raises(MethodError, match=r"there are: .*linear, .*stock"):
        get_method("zzz")


def test_passes_statistics_and_granularities():
    """A pass over the model, one over the tensor that uses it, then rows."""

    def sums(block, **_):
        return {
            "sum": block.total(block.models[0]),
            "count": Count(np.array([len(block.models[0])])),
            "top": Largest(np.array([float(block.xp.max(block.models[0]))])),
        }

    def mean(statistics, tensor, **_):
        assert tensor is None
        return {"mean": statistics["sum"] / statistics["count"][0], "top": statistics["top"][0]}

    def spread(block, **_):
        return {"square": block.total((block.models[0] - block.statistics["mean"]) ** 2)}

    def deviation(statistics, tensor, **_):
        assert isinstance(tensor, TensorShape)
        return {"deviation": (statistics["square"] / tensor.size) ** 0.5}

    @merge_method(
        "probe",
        title="",
        formula="",
        source="",
        base="none",
        granularity="row",
        passes=(Pass(sums, mean, scope="model"), Pass(spread, deviation)),
        report=("mean", "top", "deviation"),
    )
    def probe(block):
        assert block.models[0].ndim == 2
        shift = block.row_sum(block.models[0]) * 0 + block.statistics["deviation"]
        block.models[0] *= 0
        return block.models[0] + block.like(shift)[:, None]

    state = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([100.0]), "c": np.array(4.0)}
    merged = merge([state], method="probe", block_elements=2)
    everything = np.concatenate([x.reshape(-1) for x in state.values()])
    assert merged.report.fact("mean")["a"] == everything.mean()
    assert merged.report.fact("top")["b"] == 100
    for name, values in state.items():
        expected = np.sqrt(np.mean((values - everything.mean()) ** 2))
        np.testing.assert_allclose(merged.state[name], np.full(values.shape, expected))
    del registry._REGISTERED["probe"]


def test_methods_that_see_the_whole_model():
    @merge_method("whole", title="", formula="", source="", base="required", granularity="model")
    def whole(models):
        assert models.count == 2
        for tensor in models.tensors:
            block = models.read(tensor.name)
            assert block.models[0].shape == tensor.shape
            yield tensor.name, block.models[1]
            yield f"extra.{tensor.name}", np.packbits(np.ones(9, bool))

    base, models = torch_states(2, __import__("torch").bfloat16)
    merged = merge(models, method="whole", base=base)
    for name, tensor in models[1].items():
        assert merged.state[name].equal(tensor)
    assert merged.state["extra.head.weight"].tolist() == [255, 128]
    assert {t.action for t in merged.report.tensors if t.name.startswith("extra")} == {"copy"}

    @merge_method("lossy", title="", formula="", source="", base="none", granularity="model")
    def lossy(models):
        return {}

    with pytest.raises(MethodError, match="'lossy' gave no"):
        merge(models, method="lossy")
    del registry._REGISTERED["whole"], registry._REGISTERED["lossy"]


@pytest.mark.slow
def test_work_is_linear_in_the_number_of_tensors():
    """mergekit 0.1.5 needs 6 processor seconds for 453 tensors and 191 for 7,203."""
    import time

    seconds = []
    for count in (5_000, 20_000):
        state = {f"layers.{i}.experts.w": np.ones((4, 4), np.float32) for i in range(count)}
        started = time.process_time()
        merge([state, state], method="stock", base=state)
        seconds.append(time.process_time() - started)
    assert seconds[1] < 8 * seconds[0]
