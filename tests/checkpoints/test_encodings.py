"""Encoded weights are read as the floats that they stand for, or refused by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint
from stockpot.checkpoints.decoded import DecodedCheckpoint
from stockpot.checkpoints.open import open_stored
from stockpot.errors import CheckpointError

from .encoded import FORMATS, refused_states, write_model


@pytest.mark.parametrize("name", FORMATS)
def test_a_weight_is_what_its_format_says(tmp_path, name):
    stored = write_model(tmp_path / "model", name)
    with open_checkpoint(tmp_path / "model") as checkpoint:
        assert set(checkpoint.names) == set(stored.truth)
        for tensor, truth in stored.truth.items():
            assert checkpoint.info(tensor).shape == truth.shape
            np.testing.assert_allclose(checkpoint.read(tensor), truth, rtol=3e-7, atol=1e-9)


@pytest.mark.parametrize("name", FORMATS)
def test_any_piece_has_the_bits_of_the_whole(tmp_path, name):
    write_model(tmp_path / "model", name)
    rng = np.random.default_rng(0)
    with open_checkpoint(tmp_path / "model") as checkpoint:
        for tensor in checkpoint.names:
            size = checkpoint.info(tensor).size
            whole = np.array(checkpoint.read(tensor), np.float32).reshape(-1)
            for _ in range(40):
                start, stop = sorted(int(n) for n in rng.integers(0, size + 1, 2))
                piece = checkpoint.decode(tensor, start, stop, np.empty(stop - start, np.float32))
                np.testing.assert_array_equal(piece, whole[start:stop])
            blocks = np.concatenate([*checkpoint.blocks(tensor, 100)])
            np.testing.assert_array_equal(blocks, whole)


@pytest.mark.parametrize("name", FORMATS)
def test_a_model_is_recognised_however_it_is_read(tmp_path, name):
    write_model(tmp_path / "model", name)
    with open_checkpoint(tmp_path / "model") as one, open_stored(tmp_path / "model") as other:
        assert one.digest() == other.digest()
        assert one.home == other.home == tmp_path / "model"


@pytest.mark.parametrize("title", refused_states())
@pytest.mark.parametrize("with_config", [True, False])
def test_what_is_not_decoded_is_refused_by_name(tmp_path, title, with_config):
    stored = refused_states()[title]
    if not with_config:
        stored.config = {}
    stored.write(tmp_path / "model")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "model")
    known = with_config or title not in ("BitNet", "compressed-tensors")
    assert (title if known else "an unknown format") in caught.value.message
    assert "'a." in caught.value.message
    assert caught.value.hint
    with open_stored(tmp_path / "model") as checkpoint:
        assert set(checkpoint.names) == set(stored.tensors)


@pytest.mark.parametrize("name", FORMATS)
def test_a_part_that_is_missing_is_no_plain_weight(tmp_path, name):
    """Without one of its tensors an encoded weight is refused, or still what it was."""
    whole = write_model(tmp_path / "model", name)
    parts = [part for part in whole.tensors if part not in whole.truth and part != "a.weight"]
    refused = 0
    for number, part in enumerate(parts):
        lacking = write_model(tmp_path / f"other{number}", name)
        del lacking.tensors[part]
        lacking.codes.pop(part, None)
        folder = lacking.write(tmp_path / f"lacking{number}")
        try:
            checkpoint = open_checkpoint(folder)
        except CheckpointError:
            refused += 1
            continue
        values = checkpoint.read("a.weight").astype(float)
        optional = ("input", "g_idx", "weight_zero_point", "weight_format", "scaled_fp8")
        assert any(word in part for word in optional) or name == "fp8_comfy", part
        if "zero_point" not in part and "g_idx" not in part and name != "fp8_comfy":
            np.testing.assert_allclose(values, whole.truth["a.weight"], rtol=3e-7, atol=1e-9)
    assert refused or not parts or name == "fp8_comfy"


def test_conv1d_layers_are_refused(tmp_path):
    for name in ("gptq_4_bits", "awq_gemm", "bitsandbytes_nf4", "bitsandbytes_8_bit"):
        stored = write_model(tmp_path / name, name)
        folder = stored.write(tmp_path / f"{name}-gpt2", model_type="gpt2")
        with pytest.raises(CheckpointError, match="Conv1D"):
            open_checkpoint(folder)


def test_gptq_without_config_is_refused(tmp_path):
    stored = write_model(tmp_path / "model", "gptq_4_bits")
    stored.config = {}
    with pytest.raises(CheckpointError, match=r"GPTQ.*no config"):
        open_checkpoint(stored.write(tmp_path / "bare"))


@pytest.mark.parametrize("version", ["gemv", "gemv_fast", "marlin", "exllama"])
def test_other_layouts_of_awq_are_refused(tmp_path, version):
    stored = write_model(tmp_path / "model", "awq_gemm")
    stored.config["version"] = version
    with pytest.raises(CheckpointError, match=version):
        open_checkpoint(stored.write(tmp_path / version))


def test_blocks_that_cannot_be_told_are_refused(tmp_path):
    """192 rows and 2 scales: blocks of 96 or of 128, as nobody says."""
    from .encoded import Stored, e4m3

    stored = Stored()
    stored.put("a.weight", e4m3(np.ones((192, 128)))[0], "F8_E4M3")
    stored.put("a.weight_scale_inv", np.array([[1], [2]], np.float32))
    with pytest.raises(CheckpointError, match="do not say their blocks"):
        open_checkpoint(stored.write(tmp_path / "silent"))
    stored.config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    with open_checkpoint(stored.write(tmp_path / "said")) as checkpoint:
        values = checkpoint.read("a.weight")
        assert set(values[:128].ravel()) == {1.0}
        assert set(values[128:].ravel()) == {2.0}


def test_plain_models_are_opened_as_they_are(tmp_path):
    from .encoded import Stored

    stored = Stored()
    stored.put("a.weight", np.ones((4, 4), np.float32))
    stored.put("position_ids", np.arange(4))
    stored.put("attn.bias", np.tril(np.ones((1, 1, 4, 4), np.uint8)))
    with open_checkpoint(stored.write(tmp_path / "model")) as checkpoint:
        assert not isinstance(checkpoint, DecodedCheckpoint)


def test_transformers_reads_the_same_fp8_and_mxfp4(tmp_path):
    """Its own functions, on the same bytes, bit for bit."""
    torch = pytest.importorskip("torch")
    from stockpot.compat import ensure_torchvision

    ensure_torchvision(quiet=True)
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    from .encoded import Stored

    rng = np.random.default_rng(0)
    bits = rng.integers(0, 126, (64, 96)).astype(np.uint8)
    scales = rng.random((2, 3), dtype=np.float32)
    stored = Stored(config={"quant_method": "fp8", "weight_block_size": [32, 32]})
    stored.put("a.weight", bits, "F8_E4M3")
    stored.put("a.weight_scale_inv", scales)
    theirs = fp8.Fp8Dequantize(None)._dequantize_one(
        torch.from_numpy(bits).view(torch.float8_e4m3fn), torch.from_numpy(scales), torch.float32
    )
    with open_checkpoint(stored.write(tmp_path / "fp8")) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("a.weight"), theirs.numpy())

    blocks = rng.integers(0, 256, (2, 24, 3, 16)).astype(np.uint8)
    powers = rng.integers(100, 140, (2, 24, 3)).astype(np.uint8)
    stored = Stored(config={"quant_method": "mxfp4"})
    stored.put("a.down_proj_blocks", blocks)
    stored.put("a.down_proj_scales", powers)
    theirs = mxfp4.convert_moe_packed_tensors(
        torch.from_numpy(blocks), torch.from_numpy(powers), dtype=torch.float32
    )
    with open_checkpoint(stored.write(tmp_path / "mxfp4")) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("a.down_proj"), theirs.numpy())


def test_the_page_of_formats_is_what_the_declaration_gives():
    path = Path(__file__).parents[2] / "docs" / "make_formats.py"
    spec = importlib.util.spec_from_file_location("make_formats", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page()
