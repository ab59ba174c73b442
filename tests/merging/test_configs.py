"""Parents whose configs differ: refused where weights mean other things, noted elsewhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from stockpot.checkpoints import write_checkpoint
from stockpot.cli.main import app
from stockpot.errors import CheckpointError
from stockpot.merging import merge

BASE = {
    "model_type": "llama",
    "architectures": ["NotThere"],
    "hidden_act": "silu",
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "sliding_window": 128,
    "layer_types": ["full_attention", "sliding_attention"],
    "max_position_embeddings": 512,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "torch_dtype": "bfloat16",
    "num_experts_per_tok": 2,
    "vision_config": {"patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
    "text_config": {"rope_theta": 500000.0, "final_logit_softcapping": 30.0},
}
MEANING = {
    "model_type": "mistral",
    "hidden_act": "gelu",
    "num_attention_heads": 4,
    "num_key_value_heads": 8,
    "head_dim": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "linear", "factor": 2.0},
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "full_attention"],
    "num_experts_per_tok": 1,
    "vision_config": {"patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
    "text_config": {"rope_theta": 10000.0, "final_logit_softcapping": 30.0},
}
NOTED = {"max_position_embeddings": 1024, "bos_token_id": 2}
SILENT = {"attention_dropout": 0.1, "torch_dtype": "float32", "transformers_version": "5.0"}


def model(folder, seed, files, labels=3):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    state = {
        "model.weight": rng.standard_normal((16, 16), dtype=np.float32),
        "classifier.weight": rng.standard_normal((labels, 16), dtype=np.float32),
    }
    write_checkpoint(folder / "model.safetensors", state)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return str(folder)


def pair(tmp_path, mine, theirs, name="config.json"):
    files = [{"config.json": BASE, name: content} for content in (mine, theirs)]
    return [model(tmp_path / f"m{i}", i, each) for i, each in enumerate(files)]


@pytest.mark.parametrize("key", MEANING)
def test_other_meanings_are_refused_by_name(tmp_path, key):
    models = pair(tmp_path, BASE, {**BASE, key: MEANING[key]})
    named = {"rope_theta": "rope_parameters.rope_theta", "rope_scaling": "rope_parameters"}
    with pytest.raises(CheckpointError) as caught:
        merge(models, output=tmp_path / "out")
    assert named.get(key, key) in caught.value.message
    assert all(name in caught.value.message for name in models)
    assert "force" in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()
    report = merge(models, output=tmp_path / "out", force=True)
    assert any(named.get(key, key) in warning for warning in report.warnings)


def test_a_base_has_the_meaning_of_its_models(tmp_path):
    models = pair(tmp_path, BASE, BASE)
    base = model(tmp_path / "base", 9, {"config.json": {**BASE, "hidden_act": "gelu"}})
    with pytest.raises(CheckpointError, match="hidden_act"):
        merge(models, method="ties", base=base)
    merge(models, method="ties", base=base, force=True)


@pytest.mark.parametrize("key", [*NOTED, *SILENT])
def test_the_rest_is_noted_or_of_no_matter(tmp_path, key):
    models = pair(tmp_path, BASE, {**BASE, key: (NOTED | SILENT)[key]})
    report = merge(models, output=tmp_path / "out")
    assert any(key in warning for warning in report.warnings) == (key in NOTED)


def test_code_of_a_model_is_copied_and_not_run(tmp_path):
    config = {**BASE, "auto_map": {"AutoModel": "modeling_own.Own"}}
    for number, name in enumerate("ab"):
        model(tmp_path / name, number, {"config.json": config})
        (tmp_path / name / "modeling_own.py").write_text(f"raise SystemExit({number})\n")
        (tmp_path / name / "other.txt").write_text("")
    report = merge([tmp_path / "a", tmp_path / "b"], output=tmp_path / "out")
    said = [warning for warning in report.warnings if "modeling_own.py" in warning]
    assert "copied and not run" in said[0]
    assert "not the same" in said[1]
    assert (tmp_path / "out/modeling_own.py").read_text() == "raise SystemExit(0)\n"
    model(tmp_path / "plain", 2, {"config.json": BASE})
    (tmp_path / "plain/train.py").write_text("")
    merge([tmp_path / "plain"], output=tmp_path / "out2")
    assert not (tmp_path / "out2/train.py").exists()


def test_one_rope_in_the_words_of_two_versions(tmp_path):
    old = {k: v for k, v in BASE.items() if k not in ("rope_theta", "rope_scaling")}
    new = {**old, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}
    assert not merge(pair(tmp_path, BASE, new)).report.warnings
    (tmp_path / "more").mkdir()
    other = {**new, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    with pytest.raises(CheckpointError, match="rope_theta"):
        merge(pair(tmp_path / "more", BASE, other))
    (tmp_path / "less").mkdir()
    with pytest.raises(CheckpointError, match="rope_theta"):
        merge(pair(tmp_path / "less", old, other))


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        (["cat", "dog", "cow"], ["dog", "cat", "cow"], "labels in another order"),
        (["cat", "dog", "cow"], ["red", "blue", "green"], "other labels"),
        (["cat", "dog", "cow"], ["LABEL_0", "LABEL_1", "LABEL_2"], None),
        (["cat", "dog", "cow"], ["cat", "dog", "cow"], None),
    ],
)
def test_labels_of_heads(tmp_path, mine, theirs, said):
    def config(labels):
        return {**BASE, "id2label": {str(i): label for i, label in enumerate(labels)}}

    models = pair(tmp_path, config(mine), config(theirs))
    if said is None:
        merge(models)
        return
    with pytest.raises(CheckpointError, match=f"{said}: row 0.*'{theirs[0]}'.*'{mine[0]}'"):
        merge(models)
    merge(models, force=True)
    # Of a base the labels do not matter.
    same = model(tmp_path / "same", 5, {"config.json": config(mine)})
    merge([models[0], same], method="ties", base=models[1])


@pytest.mark.parametrize(
    ("file", "mine", "theirs", "key"),
    [
        ("preprocessor_config.json", {"image_mean": [0.5]}, {"image_mean": [0.4]}, "image_mean"),
        ("preprocessor_config.json", {"do_normalize": True}, {"do_normalize": False}, "do_norm"),
        ("tokenizer_config.json", {"do_lower_case": True}, {"do_lower_case": False}, "do_lower"),
        (
            "tokenizer.json",
            {"model": {"vocab": {"a": 0}}, "normalizer": {"type": "Lowercase"}},
            {"model": {"vocab": {"a": 0}}, "normalizer": None},
            "normalizer",
        ),
        (
            "tokenizer.json",
            {"model": {"vocab": {"a": 0}, "merges": ["a b"]}},
            {"model": {"vocab": {"a": 0}, "merges": [["b", "a"]]}},
            "merges",
        ),
        ("config.json", {"pretrained_cfg": {"std": [1]}}, {"pretrained_cfg": {"std": [2]}}, "std"),
    ],
)
def test_inputs_that_weights_were_trained_for(tmp_path, file, mine, theirs, key):
    with pytest.raises(CheckpointError, match=f"{key}"):
        merge(pair(tmp_path, mine, theirs, file))


def test_merges_of_tokens_are_one_in_both_spellings(tmp_path):
    mine = {"model": {"vocab": {"a": 0}, "merges": ["a b"]}}
    theirs = {"model": {"vocab": {"a": 0}, "merges": [["a", "b"]]}}
    merge(pair(tmp_path, mine, theirs, "tokenizer.json"))


def test_the_command_line_says_it_in_one_line_and_takes_force(tmp_path):
    models = pair(tmp_path, BASE, {**BASE, "rope_theta": 5e5})
    out = str(tmp_path / "out")
    done = CliRunner().invoke(app, ["merge", *models, "-o", out, "--force"])
    assert done.exit_code == 0, done.stderr
    assert "rope_theta" in done.stderr
    state = tmp_path / "m1" / "model.safetensors"
    state.write_bytes((tmp_path / "m0" / "model.safetensors").read_bytes())
    done = CliRunner().invoke(app, ["merge", *models, "-o", f"{out}2"])
    assert done.exit_code == 2
    assert "rope_theta" in done.stderr
    assert "--force" in done.stderr
