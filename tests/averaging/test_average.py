"""A trainer's folder into one model: order, gaps, what is carried over, and oracles in float64."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import stockpot
from stockpot.averaging import coefficients, find_checkpoints, plan_average
from stockpot.checkpoints import open_checkpoint
from stockpot.checkpoints.writer import folder_writer
from stockpot.cli.main import app
from stockpot.errors import CheckpointError, InputError, LineageError, OutputError
from stockpot.provenance import read_record
from tests.averaging.runs import mixed, walk, write_run
from tests.soups.bowls import bowl

SHAPES = ["uniform", "ema:0.7", "wsm:cosine", "wsm:linear", "wsm:sqrt"]


def read(path: Path) -> dict[str, np.ndarray]:
    with open_checkpoint(path) as opened:
        return {name: np.array(opened.read(name)) for name in opened.names}


def run_command(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["average", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("last", [1, 3, 12])
def test_the_command_writes_the_weighted_mean(tmp_path: Path, shape: str, last: int) -> None:
    states = walk(12)  # steps 100 to 1200: by name, 1000 comes before 200
    run = write_run(tmp_path / "run", states)
    output = tmp_path / "averaged"
    code, said, _ = run_command(
        run, "-o", output, "--last", last, "--shape", shape, "--json", "--quiet"
    )
    assert code == 0
    expected = mixed(states[-last:], coefficients(shape, last))
    got = read(output)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-14)
    # The newest's config and tokenizer, and nothing of the training.
    assert json.loads((output / "generation_config.json").read_text())["step"] == 1200
    written = {path.name for path in output.iterdir()}
    assert written == {
        *("model.safetensors", "config.json", "tokenizer.json", "generation_config.json"),
        *("merge_report.json", "stockpot.json", "README.md"),
    }
    value = json.loads(said)
    assert value["kind"] == "average"
    assert [one["step"] for one in value["checkpoints"]] == [
        1300 - 100 * i for i in range(last, 0, -1)
    ]
    assert [one["weight"] for one in value["checkpoints"]] == coefficients(shape, last)
    parents = read_record(output).parents
    assert [one.name for one in parents] == [
        f"./checkpoint-{1300 - 100 * i}" for i in range(1, last + 1)
    ]


def test_sharded_checkpoints_and_files_give_the_same(tmp_path: Path) -> None:
    states = walk(3)
    plain = stockpot.average(write_run(tmp_path / "plain", states), output=tmp_path / "one")
    for number, state in enumerate(states, 1):
        home = tmp_path / "sharded" / f"checkpoint-{number}"
        home.mkdir(parents=True)
        with open_checkpoint(state) as one, folder_writer(home, one.tensors, {}, 100) as writer:
            for name in one.names:
                writer.write(name, 0, one.raw(name))
        assert len(list(home.glob("*.safetensors"))) > 1
    stockpot.average(tmp_path / "sharded", output=tmp_path / "two")
    files = [tmp_path / f"plain/checkpoint-{s}/model.safetensors" for s in (200, 300, 100)]
    memory = stockpot.average(files)
    assert [one.step for one in memory.plan.checkpoints] == [100, 200, 300]
    for name, value in read(tmp_path / "one").items():
        np.testing.assert_array_equal(read(tmp_path / "two")[name], value)
        np.testing.assert_array_equal(memory.state[name], value)
    assert plain.state is None


def test_states_in_memory_keep_their_order_and_are_not_changed() -> None:
    states = [{"w": torch.full((3,), float(i), dtype=torch.float64)} for i in range(4)]
    done = stockpot.average(states, shape="ema:0.5", force=True)
    expected = sum(c * i for i, c in enumerate(coefficients("ema:0.5", 4)))
    torch.testing.assert_close(done.state["w"], torch.full((3,), expected, dtype=torch.float64))
    assert [float(state["w"][0]) for state in states] == [0, 1, 2, 3]


def lightning(folder: Path, states: list[dict[str, np.ndarray]]) -> Path:
    """Files as Lightning's ModelCheckpoint(save_last=True) leaves them."""
    home = folder / "checkpoints"
    home.mkdir(parents=True)
    for number, state in enumerate(states, 1):
        weights = {f"model.{n}": torch.from_numpy(v) for n, v in state.items()}
        content = {
            "epoch": number,
            "global_step": 50 * number,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": weights,
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(9)}}, "param_groups": []}],
            "lr_schedulers": [],
            "loops": {},
            "callbacks": {},
        }
        torch.save(content, home / f"epoch={number}-step={50 * number}.ckpt")
        torch.save(content, home / "last.ckpt")
    return folder


def test_lightning_files(tmp_path: Path) -> None:
    states = walk(11)
    run = lightning(tmp_path / "version_0", states)
    done = stockpot.average(run, last=3, shape="wsm:sqrt")
    assert [one.step for one in done.plan.checkpoints] == [450, 500, 550]
    assert done.plan.notes == ("last.ckpt is left out: a copy of the newest",)
    expected = mixed(states[-3:], coefficients("wsm:sqrt", 3))
    assert set(done.state) == {f"model.{name}" for name in expected}
    for name, value in expected.items():
        np.testing.assert_allclose(done.state[f"model.{name}"], value, rtol=0, atol=1e-14)
    (run / "checkpoints" / "epoch=11-step=550-v1.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match=r"are both of step 550"):
        find_checkpoints(run)


def test_gaps_and_bad_input_are_refused_by_name(tmp_path: Path) -> None:
    states = walk(6)
    run = write_run(tmp_path / "run", states, [100, 200, 300, 500, 600, 650])
    twice = write_run(tmp_path / "twice", states[:3], [10, 20, 30])
    (tmp_path / "twice/checkpoint-30").rename(tmp_path / "twice/checkpoint-020")
    empty = tmp_path / "empty"
    empty.mkdir()
    both = write_run(tmp_path / "both", states[:1])
    (both / "step=3.ckpt").write_bytes(b"")
    nameless = tmp_path / "nameless"
    nameless.mkdir()
    (nameless / "best.ckpt").write_bytes(b"")
    out = ("-o", tmp_path / "out")
    for arguments, words in (
        ((run, *out), "step 400 is missing between the checkpoints of steps 300 and 500"),
        ((run, *out, "--last", 4), "step 400 is missing"),
        ((run, *out, "--last", 9), "the run has 6 checkpoints"),
        ((run, *out, "--last", 2, "--shape", "cosine"), "shape: got 'cosine'"),
        ((twice, *out), "are both of step 20"),
        ((empty, *out), "holds no checkpoint-N folders"),
        ((both, *out), "two kinds of runs"),
        ((nameless, *out), "has no step=N in its name"),
        ((tmp_path / "nowhere", *out), "does not exist"),
        ((run, "--last", 2), "no output was given"),
        ((run, *out, "--last", 2, "--sweep"), "go together"),
        ((run, *out, "--last", 2, "-e", "eval.yaml"), "go together"),
    ):
        code, said, error = run_command(*arguments)
        assert (code, said) == (2, ""), error
        assert words in error
        assert not (tmp_path / "out").exists()
    # Nothing is missing in a later window, nor in what was listed one by one.
    assert len(plan_average(run, last=2).checkpoints) == 2
    (note,) = plan_average(run, last=3).notes
    assert "not evenly spaced" in note
    listed = plan_average([run / f"checkpoint-{step}" for step in (500, 100)])
    assert [one.step for one in listed.checkpoints] == [100, 500]
    (run / "checkpoint-650/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="checkpoint-650 holds"):
        stockpot.average(run, last=2)
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        stockpot.average(twice / "checkpoint-10/model.safetensors", output=tmp_path / "out")


def test_strangers_are_refused_and_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    strangers = [{"w": np.random.default_rng(i).standard_normal((64, 64))} for i in (0, 1)]
    with pytest.raises(LineageError, match="no ancestor"):
        stockpot.average(strangers)
    run = write_run(tmp_path / "run", walk(3))
    code, said, _ = run_command(run, "--dry-run", "--shape", "wsm:cosine")
    assert code == 0
    assert said.startswith("wsm:cosine over 3 checkpoints\n    0.2500  checkpoint-100\n")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def noisy(weights: dict[str, np.ndarray], rows: int = 200):
    """Minus the squared distance to some weights, with the rows' own level on top."""
    return bowl(weights, 0.01 * np.random.default_rng(0).standard_normal(rows))


@pytest.mark.parametrize("best", [(4, "wsm:sqrt"), (2, "wsm:cosine"), (1, "uniform")])
def test_a_sweep_finds_the_window_that_is_best(best: tuple[int, str]) -> None:
    states = walk(8)
    expected = mixed(states[-best[0] :], coefficients(best[1], best[0]))
    target = {name: expected[name] for name in ("layer.weight", "layer.bias")}
    done = stockpot.average(states, sweep=True, evaluate=noisy(target), force=True)
    size, weights = len(done.plan.checkpoints), done.plan.weights
    assert size == best[0]
    assert weights == pytest.approx(coefficients(best[1], best[0]))
    for name, value in expected.items():
        np.testing.assert_allclose(done.state[name], value, rtol=0, atol=1e-6)
    assert len(done.sweep.tried) == 10  # windows 2, 4, 8 in three shapes, and the last checkpoint
    claim = done.sweep.claims[0]
    assert claim.against == "asked"
    assert claim.low > 0


def test_a_sweep_keeps_what_was_asked_for_where_nothing_is_better() -> None:
    states = walk(8)
    rng = np.random.default_rng(0)

    def chance(state: dict[str, np.ndarray]) -> np.ndarray:
        return rng.standard_normal(60)

    done = stockpot.average(
        states, last=3, shape="ema:0.5", sweep=True, evaluate=chance, force=True
    )
    assert (done.plan.shape, len(done.plan.checkpoints)) == ("ema:0.5", 3)
    assert all(claim.low < 0 < claim.high for claim in done.sweep.claims)


def test_a_sweep_on_the_command_line(tmp_path: Path) -> None:
    states = walk(4)
    run = write_run(tmp_path / "run", states)
    target = mixed(states[-2:], [0.5, 0.5])
    np.savez(tmp_path / "target.npz", **{n: v for n, v in target.items() if n != "steps"})
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        f"target = dict(np.load({str(tmp_path / 'target.npz')!r}))\n"
        "noise = 0.01 * np.random.default_rng(0).standard_normal(100)\n"
        "def score(state):\n"
        "    return noise - sum(((state[n] - target[n]) ** 2).sum() for n in target)\n"
    )
    (tmp_path / "eval.yaml").write_text("function: mine.py:score\n")
    arguments = (run, "-o", tmp_path / "out", "--sweep", "-e", tmp_path / "eval.yaml")
    code, said, error = run_command(*arguments, "--json")
    assert code == 0, error
    value = json.loads(said)
    assert [one["step"] for one in value["checkpoints"]] == [300, 400]
    assert value["sweep"]["judge"] > -0.01
    code, said, error = run_command(*arguments, "--overwrite", "-q")
    assert code == 0, error
    assert "tried, on the rows that choose:" in said
    gap = write_run(tmp_path / "gap", states, [100, 300, 400, 500])
    code, _, error = run_command(gap, "--last", 2, *arguments[3:], "--dry-run")
    assert code == 2
    assert "step 200 is missing" in error
    (tmp_path / "eval.yaml").write_text(
        "function: mine.py:score\nconstraints: [{function: mine.py:score, lose_at_most: 1, "
        "against: best}]\n"
    )
    code, _, error = run_command(*arguments, "--overwrite", "--dry-run")
    assert code == 2
    assert "takes no constraints" in error


def batches() -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """A model with BatchNorm, and what to estimate its statistics on."""
    generator = torch.Generator().manual_seed(0)
    return torch.nn.BatchNorm1d(3), [torch.randn(50, 3, generator=generator) + 2.0]


def test_batchnorm_statistics_are_estimated_again(tmp_path: Path) -> None:
    model, (inputs,) = batches()
    states = [{n: t.numpy() for n, t in model.state_dict().items()}] * 2
    run, function = write_run(tmp_path / "run", states), f"{__name__}:batches"
    with pytest.raises(InputError, match="works on an output"):
        stockpot.average(run, recalibrate=function)
    stockpot.average(run, output=tmp_path / "plain")
    stockpot.average(run, output=tmp_path / "out", recalibrate=function)
    np.testing.assert_array_equal(read(tmp_path / "plain")["running_mean"], np.zeros(3))
    got = read(tmp_path / "out")["running_mean"]
    np.testing.assert_allclose(got, inputs.mean(0).numpy(), rtol=1e-6)
