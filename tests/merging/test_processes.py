"""Merges on forked processes: the same bytes, the same errors, nobody left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest

from stockpot.checkpoints import known_digests, open_checkpoint
from stockpot.checkpoints.checkpoint import join_digests
from stockpot.checkpoints.safetensors_file import SafetensorsCheckpoint
from stockpot.errors import NonFiniteError, StockpotError
from stockpot.merging import method as registry
from stockpot.merging import processes
from stockpot.merging.engine import Options
from stockpot.merging.job import Spec
from stockpot.merging.merge import run_merge
from stockpot.merging.method import merge_method
from tests.merging.models import numpy_states, write_states

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forking is for Linux")

SHAPES = {f"layer.{i}.weight": (40 + i, 37) for i in range(9)} | {"big": (300, 301), "one": ()}


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(processes, "WORTH_IT", 0)


@pytest.fixture
def own_method():
    """Registers a function as the method "own" for the length of a test."""
    yield merge_method("own", title="", formula="", source="", base="required")
    registry._REGISTERED.pop("own", None)


@pytest.fixture
def paths(tmp_path):
    base, models = numpy_states(3, code="BF16", shapes=SHAPES)
    for state in (base, *models):
        state["steps"] = np.array([3, 7], dtype=np.int64)
    return write_states(tmp_path, base, models, "BF16")


def merged(paths, output, count, method, **parameters):
    base, models = paths
    return run_merge(
        Spec(models, method, base, parameters), output, options=Options(processes=count, threads=1)
    )


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("linear", {}),
        ("stock", {}),
        ("stock", {"granularity": "global"}),
        ("ties", {"scope": "model", "sign_tie": "majority"}),
        ("dare", {"seed": 3, "density": 0.5}),
    ],
)
def test_the_same_bytes_and_facts(paths, tmp_path, monkeypatch, method, parameters, direct):
    if direct:
        monkeypatch.setattr("stockpot.checkpoints.writer._DIRECT_FROM", 0)
    one = merged(paths, tmp_path / "one.safetensors", 1, method, **parameters)
    three = merged(paths, tmp_path / "three.safetensors", 3, method, **parameters)
    assert (tmp_path / "one.safetensors").read_bytes() == (
        tmp_path / "three.safetensors"
    ).read_bytes()
    assert [t.to_json() for t in one.tensors] == [t.to_json() for t in three.tensors]


def test_a_bad_value_is_named_and_nothing_is_left(tmp_path):
    base, models = numpy_states(2, shapes=SHAPES)
    models[1]["layer.4.weight"][3, 5] = np.nan
    paths = write_states(tmp_path, base, models)
    with pytest.raises(NonFiniteError, match=r"layer\.4\.weight.*\[3, 5\]"):
        merged(paths, tmp_path / "out.safetensors", 3, "stock")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "base.safetensors",
        "model0.safetensors",
        "model1.safetensors",
    ]
    assert multiprocessing.active_children() == []


def test_a_killed_process_is_an_error(paths, tmp_path, own_method):
    parent = os.getpid()

    @own_method
    def killed(block):
        if os.getpid() != parent and block.name == "big":
            os.kill(os.getpid(), signal.SIGKILL)
        return block.models[0]

    with pytest.raises(StockpotError, match="ended with code -9"):
        merged(paths, tmp_path / "out.safetensors", 2, "own")
    assert not (tmp_path / "out.safetensors").exists()


def test_an_error_that_cannot_travel_comes_in_words(paths, tmp_path, own_method):
    class LocalError(Exception):
        pass

    @own_method
    def failing(block):
        raise LocalError("what went wrong")

    with pytest.raises(StockpotError, match="LocalError: what went wrong"):
        merged(paths, tmp_path / "out.safetensors", 2, "own")


def test_small_merges_and_methods_that_learn_stay_in_one_process(paths, monkeypatch):
    from stockpot.merging.job import MergeJob

    base, models = paths
    options = Options(processes=2)
    with MergeJob(Spec(models, "linear", base), options) as job:
        tasks = (job.prepare(), job.tasks)[1]
        assert processes.worth_forking(tasks, options)
        assert not processes.worth_forking(tasks, Options())
        monkeypatch.setattr(processes, "WORTH_IT", 10_000_000)
        assert not processes.worth_forking(tasks, options)


@pytest.mark.parametrize("elements", [None, 1000])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("method", ["linear", "stock", "ties", "passthrough"])
def test_the_hash_of_a_result_is_that_of_its_file(
    paths, tmp_path, monkeypatch, method, count, threads, elements
):
    monkeypatch.setattr(known_digests, "_SETTLED", 10**18)
    read_back: list[str] = []
    hash_tensor = SafetensorsCheckpoint.tensor_digest

    def count_reads(checkpoint, name):
        if str(tmp_path / "out") in checkpoint.label:
            read_back.append(name)
        return hash_tensor(checkpoint, name)

    monkeypatch.setattr(SafetensorsCheckpoint, "tensor_digest", count_reads)
    base, models = paths
    spec = Spec(models[:1] if method == "passthrough" else models, method, base, {})
    if method == "passthrough":
        spec = replace(spec, base=None)
    options = Options(processes=count, threads=threads, block_elements=elements)
    run_merge(spec, tmp_path / "out.safetensors", options=options)
    recorded = json.loads((tmp_path / "out.merge.json").read_text())["record"]["digest"]
    if threads == 1 or count == 2:  # one thread takes a tensor's pieces in their order
        assert read_back == []
    monkeypatch.undo()
    with open_checkpoint(tmp_path / "out.safetensors") as written:
        parts = {name: written.tensor_digest(name) for name in written.names}
        assert recorded == join_digests(written.tensors, parts)
