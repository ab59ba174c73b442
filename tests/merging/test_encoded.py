"""Every encoding through every door: what the float models would give, or one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from stockpot.checkpoints import open_checkpoint
from stockpot.cli.main import app
from stockpot.inspection import compare
from stockpot.merging import merge

from ..checkpoints.encoded import FORMATS, refused_states, write_model

HALF = 2.0**-8  # half of a bfloat16's last digit, relative


@pytest.fixture
def family(tmp_path, request):
    """Folders of a base and two fine-tunings in one format, and what they stand for."""
    folders = [tmp_path / f"{request.param}-{i}" for i in range(3)]
    stored = [write_model(folder, request.param, step=i) for i, folder in enumerate(folders)]
    return [str(folder) for folder in folders], [each.truth for each in stored]


def close(name, got, expected, digits):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=digits, atol=digits * 1e-2 * scale, err_msg=name)


@pytest.mark.parametrize("family", FORMATS, indirect=True)
def test_a_mean_is_that_of_the_floats(family, tmp_path):
    (_, *models), (_, *truths) = family
    report = merge(models, method="linear", output=tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    with open_checkpoint(tmp_path / "out") as merged:
        assert merged.stored is merged
        assert set(merged.names) == set(truths[0])
        for name in merged.names:
            expected = np.mean([truth[name] for truth in truths], axis=0)
            wide = merged.info(name).dtype != "BF16"
            close(name, merged.read(name), expected, 1e-3 if wide else HALF * 1.0001)
        encoded = [name for name in merged.names if "weight" in name and "norm" not in name]
        assert all(merged.info(name).dtype == "BF16" for name in encoded)
    notes = [warning for warning in report.warnings if "decoded from" in warning]
    assert len(notes) == (0 if "float8" in models[0] else 2)


@pytest.mark.parametrize("family", FORMATS, indirect=True)
@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_methods_with_a_base_see_the_floats(family, method):
    """The same method on the float64 truth in memory gives the same numbers."""
    (base, *models), (start, *truths) = family
    settings = {"density": 0.5} if method == "ties" else {}
    got = merge(models, method=method, base=base, dtype="float32", **settings).state
    expected = merge(truths, method=method, base=start, dtype="float64", **settings).state
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        different = ~np.isclose(got[name], values, rtol=1e-4, atol=1e-6)
        # Differences of equal size are kept or trimmed by their last digit.
        assert different.mean() <= (0.02 if method == "ties" else 0), name


@pytest.mark.parametrize("family", FORMATS, indirect=True)
def test_inspection_sees_the_floats(family):
    (base, *models), (start, *truths) = family
    got = compare(models, base)
    expected = compare(truths, start)
    assert got.verdict == expected.verdict
    cosines = {layer.name: layer.cosine for layer in got.layers}
    assert cosines.keys() == {layer.name for layer in expected.layers}
    for layer in expected.layers:
        np.testing.assert_allclose(cosines[layer.name], layer.cosine, atol=1e-5)


def test_an_encoded_and_a_plain_model_mix(tmp_path):
    one = write_model(tmp_path / "one", "gptq_4_bits", step=1)
    two = write_model(tmp_path / "two", "bitsandbytes_nf4", step=2)
    del one.truth["a.bias"]
    models = [str(tmp_path / "one"), str(tmp_path / "two"), one.truth]
    merged = merge(models, heads="drop", dtype="float32").state
    expected = (2 * one.truth["a.weight"] + two.truth["a.weight"]) / 3
    np.testing.assert_allclose(merged["a.weight"], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("title", refused_states())
def test_a_refusal_is_one_line_before_anything_is_written(tmp_path, title):
    for i in range(2):
        refused_states()[title].write(tmp_path / f"m{i}")
    models = [str(tmp_path / f"m{i}") for i in range(2)]
    for command in (["merge", *models, "-o", str(tmp_path / "out")], ["inspect", *models]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2
        assert title in done.stderr
        assert done.stderr.count("error") == 1, done.stderr
    assert not (tmp_path / "out").exists()


def test_a_quantisation_of_plain_weights_stays_asked_for(tmp_path):
    from ..checkpoints.encoded import Stored

    stored = Stored(config={"quant_method": "torchao", "quant_type": "int8_weight_only"})
    stored.put("a.weight", np.ones((4, 4), np.float32))
    stored.write(tmp_path / "model")
    merge([str(tmp_path / "model")] * 2, output=tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "torchao"
