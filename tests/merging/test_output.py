"""What stands on the disk after a merge, and what never does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.errors import NonFiniteError, OutputError
from stockpot.merging import merge
from stockpot.provenance import read_record

from .models import numpy_states, write_states


@pytest.fixture
def parents(tmp_path):
    folder = tmp_path / "parents"
    folder.mkdir()
    return write_states(folder, *numpy_states(2, code="BF16"), code="BF16")


def model_folder(path, state, **config):
    path.mkdir()
    write_checkpoint(path / "model.safetensors", state)
    (path / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    (path / "tokenizer.json").write_text("{}")
    (path / "README.md").write_text("not mine")
    (path / "optimizer.pt").write_text("not mine")
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text("{}")
    return path


def test_a_file_its_report_and_nothing_else(parents, tmp_path):
    base, models = parents
    out = tmp_path / "out" / "merged.safetensors"
    report = merge(models, method="stock", base=base, output=out)
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "merged.merge.json",
        "merged.safetensors",
    ]
    written = json.loads((out.parent / "merged.merge.json").read_text())
    assert written.pop("record")["kind"] == "merge"
    assert report.to_json() == written
    memory = merge(models, method="stock", base=base).state
    with open_checkpoint(out) as written, open_checkpoint(base) as original:
        assert written.names == original.names
        for name in written.names:
            assert written.info(name) == original.info(name)
            np.testing.assert_array_equal(written.read(name), memory[name])
        assert [parent.role for parent in report.parents] == ["model", "model", "base"]
        assert report.parents[2].digest == original.digest()


def test_equal_merges_have_equal_bytes_and_reports(parents, tmp_path):
    base, models = parents
    for name, threads in (("a", 1), ("b", 4)):
        merge(models, method="ties", base=base, output=tmp_path / name, threads=threads)
    for file in ("model.safetensors", "merge_report.json", "stockpot.json"):
        a, b = ((tmp_path / name / file).read_bytes() for name in "ab")
        assert a == b.replace(b'"b"', b'"a"'), file


def test_a_folder_is_what_its_parents_were(tmp_path):
    base, states = numpy_states(2)
    models = [
        model_folder(tmp_path / f"m{i}", state, torch_dtype="float32")
        for i, state in enumerate(states)
    ]
    out = tmp_path / "merged"
    merge(models, output=out, dtype="bfloat16", max_shard_size=1000)
    names = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert {"config.json", "tokenizer.json", "1_Pooling/config.json", "README.md"} <= names
    assert "optimizer.pt" not in names
    assert "model.safetensors.index.json" in names
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    card = (out / "README.md").read_text()
    assert "merge" in card
    assert "library_name: transformers" in card
    assert str(tmp_path) not in card + (out / "stockpot.json").read_text()
    record = read_record(out)
    assert record.kind == "merge"
    assert [parent.name for parent in record.parents] == ["./m0", "./m1"]
    assert base.keys() == merge([out]).state.keys()


def test_an_existing_output_is_kept_unless_told_otherwise(parents, tmp_path):
    _, models = parents
    out = tmp_path / "merged"
    merge(models, output=out)
    (out / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="exists already"):
        merge(models, output=out)
    assert (out / "mine.txt").exists()
    merge(models, output=out, overwrite=True)
    assert not (out / "mine.txt").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        merge(models, output=tmp_path / "file", overwrite=True)


def test_an_output_may_replace_one_of_its_parents(parents):
    """The parent is mapped while it is read; the new file takes its name only when whole."""
    _, models = parents
    expected = merge(models).state
    merge(models, output=models[0], overwrite=True)
    with open_checkpoint(models[0]) as written:
        for name in written.names:
            np.testing.assert_array_equal(written.read(name), expected[name])


def test_an_error_half_way_leaves_nothing(parents, tmp_path):
    base, models = parents
    with open_checkpoint(models[1]) as checkpoint:
        state = {name: checkpoint.read(name).copy() for name in checkpoint.names}
    state["head.weight"][0, 0] = np.nan
    write_checkpoint(models[1], state, dtypes=dict.fromkeys(state, "BF16"))
    for out in ("merged", "merged.safetensors"):
        with pytest.raises(NonFiniteError):
            merge(models, method="stock", base=base, output=tmp_path / out)
    assert [p.name for p in tmp_path.iterdir()] == ["parents"]


def test_a_full_disk_is_one_line_and_leaves_nothing(parents, tmp_path, monkeypatch):
    import errno

    _, models = parents

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for out in ("merged", "merged.safetensors"):
        with pytest.raises(OutputError, match="no space left"):
            merge(models, output=tmp_path / out)
    assert [p.name for p in tmp_path.iterdir()] == ["parents"]


def test_a_failing_disk_is_noticed_when_flushing(parents, tmp_path, monkeypatch):
    import errno

    from stockpot.checkpoints.writer import CheckpointWriter

    def broken(self):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(CheckpointWriter, "finish", broken)
    with pytest.raises(OutputError, match="Input/output error"):
        merge(parents[1], output=tmp_path / "merged")
    assert [p.name for p in tmp_path.iterdir()] == ["parents"]


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1])
@pytest.mark.parametrize("out", ["merged", "merged.safetensors"])
def test_kill_9_never_leaves_half_a_model(tmp_path, delay, out):
    rng = np.random.default_rng(0)
    states = [
        {f"layer.{i}": rng.standard_normal((500, 1000), dtype=np.float32) for i in range(8)}
        for _ in range(2)
    ]
    _, models = write_states(tmp_path, states[0], states)
    code = (
        "import sys; from stockpot.merging import merge; print('go', flush=True);"
        "merge(sys.argv[1:3], output=sys.argv[3])"
    )
    target = tmp_path / "out" / out
    arguments = [sys.executable, "-c", code, *map(str, models), str(target)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    expected = merge(models).state
    if not target.exists():
        merge(models, output=target)
    with open_checkpoint(target) as written:
        for name, values in expected.items():
            np.testing.assert_array_equal(written.read(name), values)


def test_states_and_files_mix_and_the_result_is_what_the_states_are(parents):
    _, models = parents
    with open_checkpoint(models[0]) as checkpoint:
        state = {name: torch.tensor(checkpoint.read(name)).bfloat16() for name in checkpoint.names}
    merged = merge([state, models[1]]).state
    assert all(isinstance(tensor, torch.Tensor) for tensor in merged.values())
    assert all(isinstance(x, np.ndarray) for x in merge(models).state.values())


def test_hashes_can_be_declined(parents, tmp_path):
    report = merge(parents[1], output=tmp_path / "m", hash_parents=False)
    assert [parent.digest for parent in report.parents] == [None, None]
    assert merge(parents[1]).report.parents[0].digest is None
    assert merge(parents[1], hash_parents=True).report.parents[0].digest is not None
