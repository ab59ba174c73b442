"""A merge by several workers: byte for byte the merge by one, done once, resumed after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.checkpoints.header import read_header
from stockpot.errors import InputError, MethodError, OutputError
from stockpot.execution import Serial
from stockpot.execution.job import Outcome
from stockpot.merging.distributed import merge_with, split_parts
from stockpot.merging.job import Spec
from stockpot.merging.merge import run_merge
from stockpot.merging.part import PAGE, PartFile
from stockpot.merging.portable import spec_from_json, spec_to_json
from stockpot.merging.recipe import load_recipe
from stockpot.merging.settings import Rule
from tests.merging.models import numpy_states, write_states

# Tensors of all kinds of size against the pages of a file: smaller, equal, larger, empty.
SHAPES = {
    "embed.weight": (300, 40),
    "layers.0.attn.weight": (32, 64),
    "layers.0.norm.bias": (7,),
    "layers.1.attn.weight": (64, 32),
    "layers.1.norm.bias": (1024,),
    "scale": (),
    "empty": (0, 4),
    "head.weight": (5, 16),
}


@pytest.fixture
def parents(tmp_path: Path) -> tuple[Path, list[Path]]:
    folder = tmp_path / "parents"
    folder.mkdir()
    return write_states(folder, *numpy_states(3, code="BF16", shapes=SHAPES), code="BF16")


def spec(parents: tuple[Path, list[Path]], method: str = "ties", **more) -> Spec:
    base, models = parents
    return Spec(models, method, base, **more)


SPECS = {
    "ties": {"parameters": {"density": 0.4}},
    "linear": {"parameters": {"weights": [0.5, 0.3, 0.2]}},
    "dare": {"parameters": {"density": 0.5, "seed": 7}},
    "stock": {"parameters": {"granularity": "global"}},
    "rules": {
        "parameters": {"density": 0.4},
        "rules": (
            Rule(("*.attn.*",), None, "stock", {"granularity": "global"}),
            Rule(("head.*",), None, "stock", {"granularity": "global", "average": "angle"}),
            Rule(("*.bias",), None, None, {"density": {"gradient": [0.2, 0.9]}}),
        ),
    },
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("part", [1, 6000, 10**9])
def test_bytes_and_report_are_those_of_one_worker(tmp_path: Path, parents, name, part) -> None:
    asked = spec(parents, "ties" if name == "rules" else name, **SPECS[name])
    one, many = (tmp_path / name / "out.safetensors" for name in ("one", "many"))
    one.parent.mkdir()
    many.parent.mkdir()
    expected = run_merge(asked, one)
    found = merge_with("serial", asked, many, part=part)
    assert many.read_bytes() == one.read_bytes()
    assert found.to_json() == expected.to_json()
    assert (
        many.with_suffix(".merge.json").read_bytes() == one.with_suffix(".merge.json").read_bytes()
    )
    assert sorted(p.name for p in many.parent.iterdir() if p.name.startswith(".")) == []


def test_a_folder_with_shards_has_the_same_files(tmp_path: Path) -> None:
    base, models = numpy_states(2, shapes=SHAPES)
    sources = []
    for number, state in enumerate((base, *models)):
        folder = tmp_path / f"model{number}"
        folder.mkdir()
        write_checkpoint(folder / "model.safetensors", state)
        (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
        sources.append(folder)
    asked = Spec(sources[1:], "task_arithmetic", sources[0], {"scale": 0.5}, dtype="bfloat16")
    run_merge(asked, tmp_path / "a" / "merged", max_shard_size=20_000)
    merge_with("serial", asked, tmp_path / "b" / "merged", max_shard_size=20_000, part=5000)
    files = [
        {str(f.relative_to(top)): f.read_bytes() for f in sorted(top.rglob("*")) if f.is_file()}
        for top in (tmp_path / "a", tmp_path / "b")
    ]
    assert files[0] == files[1]
    assert len([name for name in files[0] if name.endswith(".safetensors")]) > 1
    with pytest.raises(OutputError, match="exists already"):
        merge_with("serial", asked, tmp_path / "b" / "merged")
    merge_with("serial", asked, tmp_path / "b" / "merged", overwrite=True)


def test_local_processes_write_one_file(tmp_path: Path, parents) -> None:
    asked = spec(parents, "stock", parameters={"granularity": "global"})
    run_merge(asked, tmp_path / "one.safetensors")
    merge_with("local", asked, tmp_path / "many.safetensors", workers=2, part=9000)
    assert (tmp_path / "many.safetensors").read_bytes() == (
        tmp_path / "one.safetensors"
    ).read_bytes()


class StopsAfter(Serial):
    """The parent's machine goes down after some jobs."""

    def __init__(self, jobs: int) -> None:
        super().__init__()
        self.left = jobs

    def wait(self) -> Outcome:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().wait()


def test_an_interrupted_merge_goes_on_with_the_parts_that_are_missing(
    tmp_path: Path, parents
) -> None:
    asked = spec(parents)
    output = tmp_path / "many.safetensors"
    with pytest.raises(KeyboardInterrupt):
        merge_with(StopsAfter(3), asked, output, part=1)
    assert not output.exists()
    (staging,) = tmp_path.glob(".many.safetensors.*.parts")
    assert len(list((staging / "work" / "jobs").iterdir())) == 3
    with pytest.raises(KeyboardInterrupt):  # another merge to the same output is another matter
        merge_with(StopsAfter(1), spec(parents, "linear"), output, part=1)
    assert len(list(tmp_path.glob(".many.safetensors.*.parts"))) == 2

    count = len(SHAPES)
    merge_with(StopsAfter(count - 3), asked, output, part=1)
    run_merge(asked, tmp_path / "one.safetensors")
    assert output.read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert not staging.exists()


def test_files_lost_from_an_interrupted_merge_are_made_again(tmp_path: Path, parents) -> None:
    asked, output = spec(parents), tmp_path / "many.safetensors"
    with pytest.raises(KeyboardInterrupt):
        merge_with(StopsAfter(3), asked, output, part=1)
    next(tmp_path.glob(".many*.parts/model.safetensors")).unlink()
    merge_with("serial", asked, output, part=1)
    run_merge(asked, tmp_path / "one.safetensors")
    assert output.read_bytes() == (tmp_path / "one.safetensors").read_bytes()


def test_files_past_the_page_cache_are_shared_as_well(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("stockpot.checkpoints.writer._DIRECT_FROM", 1)
    shapes = {f"layers.{i}.weight": (300, 1001 + 7 * i) for i in range(5)}
    base, models = write_states(tmp_path, *numpy_states(2, shapes=shapes))
    asked = Spec(models, "ties", base)
    run_merge(asked, tmp_path / "one.safetensors")
    merge_with("serial", asked, tmp_path / "many.safetensors", part=2_500_000, threads=2)
    assert (tmp_path / "many.safetensors").read_bytes() == (
        tmp_path / "one.safetensors"
    ).read_bytes()


def test_no_two_parts_write_one_page(tmp_path: Path) -> None:
    """Each part alone, into a file of 0xAA: what changes lies in pages of its own."""
    source, _ = write_states(tmp_path, *numpy_states(0, shapes=SHAPES))
    with source.open("rb") as handle:
        header = read_header(source, handle)
    original = source.read_bytes()
    written: dict[int, int] = {}
    for number, names in enumerate(split_parts(header, 6000)):
        blank = tmp_path / "blank.safetensors"
        start = min(header.offsets.values())
        blank.write_bytes(original[:start] + bytes([0xAA]) * (len(original) - start))
        before = blank.read_bytes()
        with PartFile(blank, names) as sink, open_checkpoint(source) as parent:
            for name in names:
                sink.write(name, 0, parent.raw(name))
            sink.finish()
        after = bytearray(blank.read_bytes())
        for page in range(0, len(after), PAGE):
            if after[page : page + PAGE] != before[page : page + PAGE]:
                assert written.setdefault(page, number) == number
        edges = sink.edges
        assert sum(len(data) for _, data in edges) < 2 * PAGE
        for offset, data in edges:
            after[offset : offset + len(data)] = data
        for name in names:
            first = header.offsets[name]
            last = first + header.tensors[name].nbytes
            assert after[first:last] == original[first:last]
    assert len(set(written.values())) > 1


def test_a_spec_travels_as_json(tmp_path: Path, parents, monkeypatch) -> None:
    base, models = parents
    monkeypatch.chdir(base.parent)
    inner = Spec([models[0].name, models[1]], "linear", parameters={"weights": [1, 2]})
    foreign = tmp_path / "stack.yaml"
    foreign.write_text(
        f"""
        merge_method: passthrough
        slices:
          - sources: [{{model: {models[2]}, layer_range: [0, 1]}}]
          - sources: [{{model: {models[1]}, layer_range: [1, 2]}}]
        """
    )
    stack = load_recipe(foreign)
    asked = Spec([inner, stack], "ties", base.name, {"density": 0.4}, SPECS["rules"]["rules"])
    there = spec_from_json(json.loads(json.dumps(spec_to_json(asked))))
    monkeypatch.chdir(tmp_path)
    run_merge(there, tmp_path / "there.safetensors")
    monkeypatch.chdir(base.parent)
    run_merge(asked, tmp_path / "here.safetensors")
    assert (tmp_path / "there.safetensors").read_bytes() == (
        tmp_path / "here.safetensors"
    ).read_bytes()


def test_what_cannot_be_shared_out_is_refused_before_anything_is_written(
    tmp_path: Path, parents
) -> None:
    base, states = numpy_states(2)
    with pytest.raises(InputError, match="in memory"):
        merge_with("serial", Spec(states, "ties", base), tmp_path / "out.safetensors")
    with pytest.raises(MethodError, match="sees the whole model at once"):
        merge_with("serial", spec(parents, "emr"), tmp_path / "out.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parents"]


def test_nan_is_reported_and_leaves_nothing_behind(tmp_path: Path) -> None:
    base, models = numpy_states(2)
    models[1]["layers.1.attn.weight"][3, 4] = np.nan
    paths = write_states(tmp_path, base, models)
    asked = Spec(paths[1], "ties", paths[0])
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match=r"'layers\.1\.attn\.weight' holds NaN.*\[3, 4\]"):
        merge_with("serial", asked, tmp_path / "out.safetensors", part=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
