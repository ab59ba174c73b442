"""Every feature of PEFT's against PEFT itself; the cases are benchmarks/adapters.py's."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.checkpoints.adapters import read_adapter
from stockpot.checkpoints.adapters.config import COMMON, KINDS, NOT_READ, check_values
from stockpot.checkpoints.open import open_adapted
from stockpot.compat import ensure_torchvision
from stockpot.errors import CheckpointError

ensure_torchvision()
peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


CASES = load("adapter_cases").cases()
BENCHMARK = load("adapters")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_outputs_are_those_of_peft_or_the_adapter_is_refused(case, tmp_path):
    row = BENCHMARK.run(case, tmp_path)
    assert row.verdict == ("same" if case.refused is None else "refused"), row


@pytest.mark.parametrize("kind", sorted(one.value for one in peft.PEFT_TYPE_TO_CONFIG_MAPPING))
def test_every_key_of_every_kind_is_declared(kind):
    fields = {field.name for field in dataclasses.fields(peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind])}
    if kind in NOT_READ:
        with pytest.raises(CheckpointError, match=f"{kind} "):
            check_values(Path("adapter_config.json"), {"peft_type": kind})
        return
    assert fields <= KINDS[kind].keys()
    assert KINDS[kind].keys() - fields <= COMMON.keys(), "a key that PEFT does not have"
    for key, declared in KINDS[kind].items():
        if declared.fate == "refused":
            with pytest.raises(CheckpointError, match=f"{key}: .*: {declared.why}"):
                check_values(Path("adapter_config.json"), {"peft_type": kind, key: {"x": 1}})
        assert declared.fate == "used" or declared.why


def test_a_key_of_a_newer_peft_is_refused_unless_it_asks_for_nothing():
    values = {"peft_type": "LORA", "use_something": True}
    with pytest.raises(CheckpointError, match="use_something: True: this key is not known"):
        check_values(Path("adapter_config.json"), values)
    for nothing in (None, False, [], {}):
        check_values(Path("adapter_config.json"), {**values, "use_something": nothing})


def test_a_tensor_that_nothing_declares_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    name = "base_model.model.layer.lora_new_part.weight"
    write_checkpoint(tmp_path / "adapter_model.safetensors", {name: np.ones((2, 2))})
    with pytest.raises(CheckpointError, match=r"lora_new_part.*nothing that adapter_config"):
        read_adapter(tmp_path)


# Files of other tools.

UNET = {"down_blocks.0.attentions.0.to_q.weight": (8, 6), "mid_block.to_out.0.weight": (6, 8)}


@pytest.fixture
def unet(tmp_path):
    rng = np.random.default_rng(0)
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in UNET.items()}
    write_checkpoint(tmp_path / "unet.safetensors", state)
    factors = {
        name.removesuffix(".weight"): (
            rng.normal(size=(shape[0], 2)),
            rng.normal(size=(2, shape[1])),
        )
        for name, shape in UNET.items()
    }
    return state, factors


def kohya(module):
    flat = module.replace(".", "_")
    return f"lora_unet_{flat}.lora_up.weight", f"lora_unet_{flat}.lora_down.weight"


def diffusers(module):
    return f"unet.{module}.lora_B.weight", f"unet.{module}.lora_A.weight"


def processors(module):
    """As diffusers wrote the layers of an attention at first."""
    stem = f"unet.{module.removesuffix('.0')}"
    head, _, leaf = stem.rpartition(".")
    return f"{head}.processor.{leaf}_lora.up.weight", f"{head}.processor.{leaf}_lora.down.weight"


@pytest.mark.parametrize("named", [kohya, diffusers, processors])
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_lora_files_of_other_tools(tmp_path, unet, named, alpha):
    state, factors = unet
    tensors = {}
    for module, (up, down) in factors.items():
        tensors |= dict(zip(named(module), (up, down), strict=True))
        if alpha is not None:
            stem = named(module)[0].replace(".lora_up.weight", "").replace(".lora_B.weight", "")
            tensors[stem.replace("_lora.up.weight", "_lora") + ".alpha"] = np.array(alpha)
    write_checkpoint(tmp_path / "lora.safetensors", tensors)
    if named is processors and alpha is not None:
        return
    with open_adapted(tmp_path / "lora.safetensors", "x", tmp_path / "unet.safetensors") as found:
        for name, (up, down) in zip(UNET, factors.values(), strict=True):
            scale = 1.0 if alpha is None else alpha / 2
            expected = state[name] + scale * up @ down
            np.testing.assert_allclose(found.read(name), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(CheckpointError, match="factors of an adapter, no weights of a model"):
        open_checkpoint(tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora_unet_x.hada_w1_a", "neither a LoRA factor"),
        ("lora_unet_x.dora_scale", "neither a LoRA factor"),
        ("lora_te_text_model.lora_up.weight", "several models: te, unet"),
        ("lora_unet_nowhere.lora_up.weight", "only one of its two"),
    ],
)
def test_files_that_are_refused_by_name(tmp_path, unet, name, words):
    tensors = dict(zip(kohya("mid_block.to_out.0"), unet[1]["mid_block.to_out.0"], strict=True))
    write_checkpoint(tmp_path / "lora.safetensors", {**tensors, name: np.ones((2, 2))})
    with pytest.raises(CheckpointError, match=words):
        open_adapted(tmp_path / "lora.safetensors", "x", tmp_path / "unet.safetensors")


def test_a_module_that_the_base_lacks_is_named(tmp_path, unet):
    tensors = dict(
        zip(kohya("input_blocks.4.to_q"), (np.ones((2, 1)), np.ones((1, 2))), strict=True)
    )
    write_checkpoint(tmp_path / "lora.safetensors", tensors)
    with pytest.raises(CheckpointError, match="'input_blocks_4_to_q', which the base lacks"):
        open_adapted(tmp_path / "lora.safetensors", "x", tmp_path / "unet.safetensors")
