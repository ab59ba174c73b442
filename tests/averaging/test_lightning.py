"""The average inside Lightning's own Trainer, on a tiny module."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stockpot
from stockpot.averaging import coefficients
from stockpot.checkpoints import open_checkpoint
from stockpot.errors import InputError, MissingDependencyError

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from stockpot.averaging.lightning import LightningAverage, import_lightning
except MissingDependencyError:
    pytest.skip("lightning is not installed", allow_module_level=True)

lightning = import_lightning()

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
STEPS = 6


class Small(lightning.LightningModule):
    """A layer, one that is frozen, and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.frozen = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)
        self.frozen.requires_grad_(False)

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        (x,) = batch
        return self.frozen(self.norm(self.first(x))).square().mean()

    def configure_optimizers(self) -> Any:
        trained = [one for one in self.parameters() if one.requires_grad]
        return torch.optim.AdamW(trained, lr=0.05)


class Recorder(lightning.Callback):
    """Keeps the weights after every optimizer step: what an average is checked against."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []
        self.step = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *known: Any) -> None:
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            state = pl_module.state_dict()
            self.states.append({name: one.detach().double().clone() for name, one in state.items()})


def fit(
    folder: Path, *callbacks: Any, resume: Path | None = None, steps: int = STEPS, gather: int = 1
) -> Small:
    data = torch.randn(96, 4, generator=torch.Generator().manual_seed(1))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data), batch_size=8)
    saved = lightning.callbacks.ModelCheckpoint(
        folder / "kept", filename="{step}", every_n_train_steps=2, save_top_k=-1
    )
    trainer = lightning.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=gather,
        callbacks=[saved, *callbacks],
    )
    module = Small()
    trainer.fit(module, loader, ckpt_path=None if resume is None else str(resume))
    return module


def check(file: Path, states: list[dict[str, torch.Tensor]], weights: list[float]) -> None:
    """A checkpoint that Lightning loads holds the weighted mean of some states."""
    got = Small.load_from_checkpoint(file).state_dict()
    for name, tensor in got.items():
        expected = sum(w * s[name] for w, s in zip(weights, states, strict=True))
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected.float(), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    """One fit with two averages, and the weights after every step."""
    folder, recorder = tmp_path_factory.mktemp("run"), Recorder()
    late = LightningAverage(folder / "late.ckpt", shape="uniform", start=2, every=2)
    fit(folder, recorder, LightningAverage(shape="ema:0.8"), late)
    return folder, recorder


def test_the_average_is_that_of_the_weights_after_the_steps(run: tuple[Path, Recorder]) -> None:
    folder, recorder = run
    assert len(recorder.states) == STEPS
    check(folder / "average.ckpt", recorder.states, coefficients("ema:0.8", STEPS))
    check(folder / "late.ckpt", recorder.states[1::2], coefficients("uniform", 3))


def test_the_fit_is_not_changed_by_it(run: tuple[Path, Recorder], tmp_path: Path) -> None:
    plain = fit(tmp_path)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor.double(), run[1].states[-1][name])


def test_the_checkpoints_of_the_fit_are_averaged_as_a_folder(
    run: tuple[Path, Recorder], tmp_path: Path
) -> None:
    folder, recorder = run
    done = stockpot.average(folder / "kept", output=tmp_path / "mean", shape="uniform")
    assert [one.step for one in done.plan.checkpoints] == [2, 4, 6]
    with open_checkpoint(tmp_path / "mean") as mean:
        expected = sum(state["first.weight"] for state in recorder.states[1::2]) / 3
        torch.testing.assert_close(
            torch.from_numpy(mean.read("first.weight").copy()), expected.float(), rtol=0, atol=1e-6
        )


def test_a_fit_that_goes_on_goes_on_with_its_average(
    run: tuple[Path, Recorder], tmp_path: Path
) -> None:
    late = LightningAverage(tmp_path / "late.ckpt", shape="uniform", start=2, every=2)
    recorder = Recorder()
    fit(
        tmp_path,
        recorder,
        late,
        LightningAverage(shape="ema:0.8"),
        resume=run[0] / "kept" / "step=2.ckpt",
    )
    states = [*run[1].states[:2], *recorder.states]
    check(tmp_path / "average.ckpt", states, coefficients("ema:0.8", STEPS))
    check(tmp_path / "late.ckpt", states[1::2], coefficients("uniform", 3))
    with pytest.raises(InputError, match="no average to go on from"):
        fit(
            tmp_path,
            LightningAverage(shape="uniform"),
            resume=run[0] / "kept" / "step=2.ckpt",
        )


def test_steps_are_those_of_the_optimizer(tmp_path: Path) -> None:
    recorder = Recorder()
    fit(tmp_path, recorder, LightningAverage(shape="uniform"), steps=3, gather=2)
    assert len(recorder.states) == 3
    check(tmp_path / "average.ckpt", recorder.states, coefficients("uniform", 3))


def test_what_cannot_be_is_refused_before_the_first_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for settings in ({"start": 0}, {"every": 0}):
        with pytest.raises(InputError, match="1 or more"):
            LightningAverage(**settings)
    with pytest.raises(InputError, match="shape"):
        LightningAverage(shape="wsm:cosine")
    with pytest.raises(InputError, match=r"start: got 9 of 6"):
        fit(tmp_path, LightningAverage(start=9))
    with pytest.raises(InputError, match="is a folder"):
        fit(tmp_path, LightningAverage(tmp_path))
    assert not (tmp_path / "average.ckpt").exists()

    class Stop(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *known: Any) -> None:
            trainer.should_stop = True

    with caplog.at_level(logging.WARNING, logger="stockpot"):
        fit(tmp_path, LightningAverage(start=5), Stop())
    assert "there is no average" in caplog.text
