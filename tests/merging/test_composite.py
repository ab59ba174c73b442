"""Folders of several models: every component is merged, and the folder loads as a whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from stockpot.checkpoints import load_state, open_checkpoint, save_state, write_checkpoint
from stockpot.checkpoints.open import open_stored
from stockpot.compat import ensure_torchvision
from stockpot.errors import CheckpointError, OutputError
from stockpot.inspection import compare
from stockpot.merging import merge

ensure_torchvision(quiet=True)
transformers = pytest.importorskip("transformers")


def sentence_model(folder, seed):
    """What sentence-transformers saves: a network, pooling, and a dense layer."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        vocab_size=32, max_position_embeddings=16,
    )  # fmt: skip
    network = transformers.BertModel(config)
    dense = {"linear.weight": torch.randn(8, 16), "linear.bias": torch.randn(8)}
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in (*network.parameters(), *dense.values()):
            tensor.add_(0.02 * seed * torch.randn_like(tensor))
    network.save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(
        folder
    )
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for path in ("1_Pooling", "2_Dense"):
        (folder / path).mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    shape = {
        "in_features": 16,
        "out_features": 8,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    (folder / "2_Dense" / "config.json").write_text(json.dumps(shape))
    save_state(folder / "2_Dense" / "model.safetensors", dense)
    return str(folder)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentences")
    return [sentence_model(folder / str(seed), seed) for seed in range(3)]


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
def test_every_module_of_sentence_transformers_is_merged(sentences, tmp_path, method):
    base, *models = sentences
    settings = {} if method == "linear" else {"base": base}
    merge(models, method=method, output=tmp_path / "out", **settings)
    parts = {"model.safetensors": "", "2_Dense/model.safetensors": "2_Dense/"}
    states = [load_state(model) for model in sentences]
    whole = merge(states[1:], method=method, **({} if method == "linear" else {"base": states[0]}))
    for file, prefix in parts.items():
        for name, tensor in load_state(tmp_path / "out" / file).items():
            assert torch.equal(tensor, whole.state[prefix + name]), name
    assert (tmp_path / "out" / "modules.json").is_file()
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()
    with open_stored(tmp_path / "out") as one, open_checkpoint(models[0]) as other:
        assert one.names == other.names


def test_sentence_transformers_itself_loads_it(sentences, tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is absent")
    merge(sentences[1:], output=tmp_path / "out")
    texts = ["a b c", "x y z z"]
    got = library.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    expected = library.SentenceTransformer(sentences[1], device="cpu")
    other = library.SentenceTransformer(sentences[2], device="cpu").state_dict()
    mean = {
        k: (v + other[k]) / 2 if v.is_floating_point() else v
        for k, v in expected.state_dict().items()
    }
    expected.load_state_dict(mean)
    np.testing.assert_allclose(got.encode(texts), expected.encode(texts), atol=1e-5)


def test_components_are_inspected_and_need_a_folder(sentences, tmp_path):
    found = compare(sentences[1:], sentences[0])
    assert "2_Dense/linear.weight" in {layer.name for layer in found.layers}
    with pytest.raises(OutputError, match="several components"):
        merge(sentences[1:], output=tmp_path / "out.safetensors")
    merge(sentences[1:], output=tmp_path / "small", max_shard_size=2000)
    assert (tmp_path / "small" / "model.safetensors.index.json").is_file()
    state = load_state(tmp_path / "small")
    for name, tensor in merge(sentences[1:]).state.items():
        np.testing.assert_array_equal(state[name].numpy(), tensor)


def pipeline(folder, seed, index=None):
    """A diffusers pipeline: two components with weights, a scheduler without."""
    rng = np.random.default_rng(seed)
    files = {
        "unet": "diffusion_pytorch_model.safetensors",
        "text_encoder": "model.safetensors",
    }
    listed = {"_class_name": "APipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    for name, file in files.items():
        (folder / name).mkdir(parents=True)
        state = {"layer.weight": rng.standard_normal((8, 8)).astype(np.float32)}
        write_checkpoint(folder / name / file, state)
        (folder / name / "config.json").write_text(json.dumps({"_class_name": name}))
        listed[name] = ["a", "b"]
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    (folder / "model_index.json").write_text(json.dumps(index or listed))
    return str(folder)


def test_pipelines_are_merged_by_component(tmp_path):
    models = [pipeline(tmp_path / f"m{seed}", seed) for seed in range(2)]
    merge(models, output=tmp_path / "out")
    states = [load_state(model) for model in models]
    for name, file in (
        ("unet", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "model.safetensors"),
    ):
        got = load_state(tmp_path / "out" / name / file)["layer.weight"]
        key = f"{name}/layer.weight"
        torch.testing.assert_close(got, (states[0][key] + states[1][key]) / 2)
    written = {
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.json")
    }
    assert {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json"} <= written


@pytest.mark.parametrize("name", ["../m1", "/etc", "a/b", ".."])
def test_a_list_that_leaves_its_folder_is_refused(tmp_path, name):
    pipeline(tmp_path / "m1", 1)
    bad = pipeline(tmp_path / "m0", 0, {name: ["a", "b"]})
    with pytest.raises(CheckpointError, match="names the component"):
        open_checkpoint(bad)
