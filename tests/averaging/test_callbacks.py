"""The average inside transformers' own Trainer, on a tiny causal model."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import stockpot
from stockpot.averaging import AverageCallback, ModuleAverage, coefficients
from stockpot.compat import import_transformers
from stockpot.errors import InputError

transformers = import_transformers()

STEPS = 6


class Recorder(transformers.TrainerCallback):
    """Keeps the weights after every optimizer step: what an average is checked against."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        weights = known["model"].state_dict()
        self.states.append({n: t.detach().double().clone() for n, t in weights.items()})


def train(folder: Path, *callbacks: Any, resume: str | None = None, steps: int = STEPS) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    config.bos_token_id = config.eos_token_id = 0
    rows = torch.randint(0, 32, (64, 8), generator=torch.Generator().manual_seed(1))
    data = [{"input_ids": row, "labels": row} for row in rows]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        save_steps=2,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    trainer = transformers.Trainer(
        transformers.GPT2LMHeadModel(config),
        arguments,
        train_dataset=data,
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()


def check(folder: Path, states: list[dict[str, torch.Tensor]], weights: list[float]) -> None:
    """A model folder that transformers loads holds the weighted mean of some states."""
    got = loaded(folder)
    for name in got:
        expected = sum(w * s[name] for w, s in zip(weights, states, strict=True))
        torch.testing.assert_close(got[name], expected.float(), rtol=0, atol=1e-7)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    """One training with two averages, and the weights after every step."""
    folder, recorder = tmp_path_factory.mktemp("run"), Recorder()
    ema = AverageCallback(shape="ema:0.8")
    late = AverageCallback(folder / "late", shape="uniform", start=2, every=2)
    train(folder, recorder, ema, late)
    return folder, recorder


def test_the_average_is_that_of_the_weights_after_the_steps(run: tuple[Path, Recorder]) -> None:
    folder, recorder = run
    assert len(recorder.states) == STEPS
    check(folder / "average", recorder.states, coefficients("ema:0.8", STEPS))
    check(folder / "late", recorder.states[1::2], coefficients("uniform", 3))


def test_training_is_not_changed_by_it(run: tuple[Path, Recorder], tmp_path: Path) -> None:
    plain = train(tmp_path)
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor.double(), run[1].states[-1][name])


def test_the_checkpoints_of_the_run_are_averaged_as_a_folder(
    run: tuple[Path, Recorder], tmp_path: Path
) -> None:
    folder, recorder = run
    for shape in ("uniform", "wsm:sqrt"):
        output = tmp_path / shape.replace(":", "-")
        done = stockpot.average(folder, output=output, shape=shape)
        assert [one.step for one in done.plan.checkpoints] == [2, 4, 6]
        check(output, recorder.states[1::2], coefficients(shape, 3))


def test_a_resumed_run_goes_on_with_its_average(run: tuple[Path, Recorder], tmp_path: Path) -> None:
    shutil.copytree(run[0] / "checkpoint-2", tmp_path / "checkpoint-2")
    resumed = str(tmp_path / "checkpoint-2")
    late = AverageCallback(tmp_path / "late", shape="uniform", start=2, every=2)
    train(tmp_path, late, resume=resumed)
    for name, tensor in loaded(run[0] / "late").items():
        assert torch.equal(loaded(tmp_path / "late")[name], tensor)
    for file in Path(resumed).glob("stockpot_average*"):
        file.unlink()
    with pytest.raises(InputError, match="no average to go on from"):
        train(tmp_path, AverageCallback(shape="uniform"), resume=resumed)


class Small(nn.Module):
    """Trained and frozen weights, tied ones, floating and whole buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.frozen = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.tied = self.first
        self.frozen.requires_grad_(False)


def test_any_module_is_averaged_and_gets_its_weights_back() -> None:
    torch.manual_seed(0)
    module = Small().double()
    average = ModuleAverage(module, "uniform")
    with pytest.raises(InputError, match="no average yet"), average.applied():
        pass
    seen = []
    for _ in range(3):
        with torch.no_grad():
            module.first.weight.add_(torch.randn(3, 3))
            module.norm.running_mean.add_(1.0)
            module.norm.num_batches_tracked.add_(1)
        average.add()
        seen.append({n: t.clone() for n, t in module.state_dict().items()})
    other = ModuleAverage(module, "uniform")
    other.load(average.dump())
    with other.applied() as inside:
        now = {n: t.clone() for n, t in inside.state_dict().items()}
    for name in ("first.weight", "tied.weight", "norm.running_mean"):
        expected = (seen[0][name] + seen[1][name] + seen[2][name]) / 3
        torch.testing.assert_close(now[name], expected, rtol=0, atol=1e-6)
    assert torch.equal(now["frozen.weight"], module.frozen.weight)
    assert int(now["norm.num_batches_tracked"]) == 3
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, seen[2][name])
    with pytest.raises(InputError, match="another module"):
        ModuleAverage(nn.Linear(2, 2)).load(average.dump())


def test_sixteen_bits_are_added_up_in_float64_and_rounded_once() -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 4).to(torch.bfloat16)
    average, seen = ModuleAverage(module, "ema:0.5"), []
    for _ in range(3):
        with torch.no_grad():
            module.weight.add_(torch.randn(4, 4))
        average.add()
        seen.append(module.weight.detach().double())
    expected = sum(c * s for c, s in zip(coefficients("ema:0.5", 3), seen, strict=True))
    with average.applied():
        assert torch.equal(module.weight, expected.float().bfloat16())
    assert torch.equal(module.weight.double(), seen[-1])


def test_settings_that_cannot_be_are_refused() -> None:
    for shape in ("wsm:cosine", "ema:1", "ema:x", "uniform:3", ""):
        with pytest.raises(InputError, match="shape"):
            AverageCallback(shape=shape)
    for settings in ({"start": 0}, {"every": 0}):
        with pytest.raises(InputError, match="1 or more"):
            AverageCallback(**settings)


def test_what_would_fail_at_the_end_is_refused_before_the_first_step(tmp_path: Path) -> None:
    args = SimpleNamespace(output_dir=str(tmp_path / "run"), fsdp=[], deepspeed=None)
    state = SimpleNamespace(global_step=0, max_steps=10)
    config = transformers.GPT2Config(vocab_size=8, n_positions=4, n_embd=4, n_layer=1, n_head=1)
    model = transformers.GPT2LMHeadModel(config)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("not a model")
    for callback, changed, trained, words in (
        (AverageCallback(), {"fsdp": ["full_shard"]}, model, "FSDP"),
        (AverageCallback(), {"deepspeed": "zero.json"}, model, "DeepSpeed"),
        (AverageCallback(), {}, nn.Linear(2, 2), "no save_pretrained"),
        (AverageCallback(start=11), {}, model, "got 11 of 10 steps"),
        (AverageCallback(tmp_path / "mine"), {}, model, "more than a model"),
        (AverageCallback(tmp_path), {}, model, "more than a model"),
    ):
        changed = SimpleNamespace(**{**vars(args), **changed})
        with pytest.raises(InputError, match=words):
            callback.on_train_begin(changed, state, None, model=trained)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]
