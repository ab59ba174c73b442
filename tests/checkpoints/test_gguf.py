"""GGUF files: the floats that the package ``gguf`` decodes, or one line that says what is wrong."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import CheckpointError, InputError, MissingDependencyError, OutputError
from stockpot.merging import merge

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0", "TQ1_0")


def needs_gguf():
    return pytest.importorskip("gguf", reason="the extra 'gguf' is not installed")


def write(path, kind, seed=0):
    gguf = needs_gguf()
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    values = 0.05 * rng.standard_normal((24, 256)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[kind]
    packed = gguf.quants.quantize(values, kind)
    writer.add_tensor("blk.0.attn_q.weight", packed, raw_dtype=kind)
    writer.add_tensor("output_norm.weight", values[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf.quants.dequantize(packed, kind)


@pytest.mark.parametrize("kind", TYPES)
def test_floats_are_those_of_the_package(tmp_path, kind):
    floats = write(tmp_path / "model.gguf", kind)
    with open_checkpoint(tmp_path / "model.gguf") as checkpoint:
        assert checkpoint.names == ["blk.0.attn_q.weight", "output_norm.weight"]
        name = checkpoint.names[0]
        np.testing.assert_array_equal(checkpoint.read(name), floats)
        piece = checkpoint.decode(name, 300, 900, np.empty(600, np.float32))
        np.testing.assert_array_equal(piece, floats.reshape(-1)[300:900])


@pytest.mark.parametrize("kind", TYPES)
def test_a_merge_is_that_of_the_floats(tmp_path, kind):
    truths = [write(tmp_path / f"m{i}.gguf", kind, i) for i in range(2)]
    models = [str(tmp_path / f"m{i}.gguf") for i in range(2)]
    merged = merge(models, dtype="float32").state
    np.testing.assert_allclose(
        merged["blk.0.attn_q.weight"], np.mean(truths, axis=0), rtol=1e-6, atol=1e-9
    )
    with pytest.raises(OutputError, match="name one file"):
        merge(models, output=tmp_path / "folder")
    merge(models, output=tmp_path / "merged.safetensors")
    with open_checkpoint(tmp_path / "merged.safetensors") as checkpoint:
        assert checkpoint.names == ["blk.0.attn_q.weight", "output_norm.weight"]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, b"PK\x03\x04"])
def test_damaged_files_are_one_line(tmp_path, content):
    if content.startswith(b"GGUF"):
        needs_gguf()
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is no GGUF file"):
        open_checkpoint(path)


@pytest.mark.skipif(importlib.util.find_spec("gguf") is not None, reason="gguf is installed")
def test_without_the_package_its_extra_is_named(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(16))
    with pytest.raises(MissingDependencyError, match=r"stockpot\[gguf\]"):
        open_checkpoint(tmp_path / "model.gguf")


def test_a_registry_keeps_no_gguf(tmp_path):
    pytest.importorskip("fsspec")
    from stockpot.registry.contents import read_contents

    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(InputError, match="keeps safetensors"):
        read_contents(tmp_path / "model.gguf")
