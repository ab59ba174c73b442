"""A step cut into shares: the gradient of the whole, and the same bytes on one process or two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stockpot.backbones import BackboneSpec, Model, load_backbone
from stockpot.errors import InputError
from stockpot.training import HyperParameters, Trainer, build_feed, finetune
from tests.training.tiny import NETWORKS, array_task, linear_model, parts

HP = HyperParameters(
    steps=12, batch_size=4, evaluate_every=4, learning_rate=0.01, average_from=0.25, dropout=0.2
)


def buffered_model(dropout: float) -> Model:
    spec = BackboneSpec(
        kind="function", name=f"{NETWORKS}:linear_with_buffers", batchnorm="reestimate"
    )
    return Model(load_backbone(spec), 2, dropout)


def run(folder: Path, hp: HyperParameters = HP, shares: int | None = None, buffers: bool = False):
    task = array_task("classification")
    model = buffered_model(hp.dropout) if buffers else linear_model(task, hp.dropout)
    feed = build_feed(task, model.backbone, folder=folder / "feed")
    return finetune(
        model, feed, task, parts(task), hp, seed=3, scratch=folder / "resume", shares=shares
    )


def test_shares_add_up_to_the_gradient_of_the_step(tmp_path: Path) -> None:
    plain = HP.replace(dropout=0.0)
    whole = run(tmp_path, plain)
    for count in (2, 3, 8):
        cut = run(tmp_path, plain, count)
        for name, tensor in whole.last.items():
            torch.testing.assert_close(cut.last[name], tensor, rtol=1e-4, atol=1e-5)
        losses = [entry["loss"] for entry in whole.history[1:]]
        assert [entry["loss"] for entry in cut.history[1:]] == pytest.approx(losses, rel=1e-5)


def test_one_share_is_no_shares(tmp_path: Path) -> None:
    whole, one = run(tmp_path), run(tmp_path, shares=1)
    assert all(torch.equal(whole.last[name], one.last[name]) for name in whole.last)


def test_a_run_in_shares_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    task = array_task("classification")
    split = parts(task)

    def trainer() -> Trainer:
        model = linear_model(task, HP.dropout)
        feed = build_feed(task, model.backbone, folder=tmp_path / "feed")
        rows = (task.labels, split.train, split.validation)
        return Trainer(model, feed, *rows, HP, seed=3, kind=task.kind, shares=2)

    half = trainer()
    half.advance(5)
    half.save(tmp_path / "half.pt")
    rest = trainer()
    rest.load(tmp_path / "half.pt")
    rest.advance(7)
    whole = run(tmp_path, shares=2)
    assert all(torch.equal(rest.state()[name], whole.last[name]) for name in whole.last)


@pytest.mark.parametrize("count", [0, 1000])
def test_shares_that_cannot_be_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(InputError, match="shares of a step"):
        run(tmp_path, shares=count)


def test_buffers_are_those_that_the_first_share_leaves(tmp_path: Path) -> None:
    task, hp = array_task("classification"), HP.replace(dropout=0.0)
    split, model = parts(task), buffered_model(0.0)
    feed = build_feed(task, model.backbone, folder=tmp_path)
    cut = Trainer(model, feed, task.labels, split.train, {}, hp, seed=3, kind=task.kind, shares=2)
    rows = cut.shares.rows(cut.sampler.rows(0), 0)
    first = buffered_model(0.0)
    first.train()
    first(feed.batch(rows))
    cut.advance(1)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        name = f"featurizer.1.{name}"
        torch.testing.assert_close(cut.state()[name], first.state()[name])


SCRIPT = """
import os, sys
from pathlib import Path
import torch
from tests.training.test_shares import run

torch.set_num_threads(1)
done = run(Path(sys.argv[1]), shares=int(sys.argv[2]) or None, buffers=sys.argv[3] == "True")
states = {"best": done.best, "last": done.last, "average": done.average}
torch.save(states, f"{sys.argv[1]}/{os.environ['RANK']}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("shares", "buffers"), [(0, False), (4, False), (0, True), (4, True)])
def test_two_processes_give_the_bytes_of_one(tmp_path: Path, shares: int, buffers: bool) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": f"{root}/src{os.pathsep}{root}",
        "OMP_NUM_THREADS": "1",
    }
    command = [*start, str(script), str(tmp_path), str(shares), str(buffers)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    torch.set_num_threads(1)
    alone = run(tmp_path, shares=shares or 2, buffers=buffers)
    for rank in (0, 1):
        together = torch.load(tmp_path / f"{rank}.pt")
        for words, state in (
            ("best", alone.best),
            ("last", alone.last),
            ("average", alone.average),
        ):
            assert list(together[words]) == list(state)
            assert all(torch.equal(together[words][name], state[name]) for name in state)
    assert not (tmp_path / "resume").exists()
