"""A folder that its own library would not load is not kept."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from stockpot.checkpoints import load_state, save_state
from stockpot.compat import ensure_torchvision
from stockpot.errors import CheckpointError
from stockpot.merging import merge

ensure_torchvision(quiet=True)
transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert") / "model"
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        vocab_size=32, max_position_embeddings=16,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def changed(bert, folder, change):
    """A copy of the model with another state."""
    folder.mkdir()
    (folder / "config.json").write_bytes((bert / "config.json").read_bytes())
    state = load_state(bert / "model.safetensors")
    change(state)
    save_state(folder / "model.safetensors", state)
    return folder


def drop(state):
    del state["classifier.weight"]


def add(state):
    state["classifier.more"] = torch.ones(2)


def reshape(state):
    state["classifier.weight"] = torch.ones(3, 16)


@pytest.mark.parametrize(
    ("change", "said"), [(drop, "is missing"), (add, "is unexpected"), (reshape, "has shape")]
)
def test_what_would_not_load_is_not_kept(bert, tmp_path, change, said):
    """A parent without config gives tensors that the config of the other one does not know."""
    other = changed(bert, tmp_path / "other", change)
    (other / "config.json").unlink()
    models = [str(other), str(bert)]
    if change is drop:  # it is left out of the result
        models = [str(bert), str(other)]
        settings = {"heads": "drop"}
    else:
        settings = {"heads": "first"}
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match=f"transformers would not load.*classifier.*{said}"):
        merge(models, output=out, **settings)
    assert not out.exists()
    merge(models, output=out, check_load=False, **settings)
    assert out.exists()


def drop_and_add(state):
    drop(state)
    add(state)


def test_what_a_parent_lacked_before_is_noted(bert, tmp_path):
    changes = {"a": drop_and_add, "b": drop}
    models = [str(changed(bert, tmp_path / name, change)) for name, change in changes.items()]
    report = merge(models, output=tmp_path / "out", heads="drop")
    assert any("what it says of" in w and "classifier.weight" in w for w in report.warnings)
    written = json.loads((tmp_path / "out" / "merge_report.json").read_text())
    assert written["warnings"] == list(report.warnings)


def test_the_process_of_its_own_says_the_same(bert, tmp_path):
    """Where transformers is not imported, it stays so; the check is made elsewhere."""
    other = changed(bert, tmp_path / "other", add)
    (other / "config.json").unlink()
    code = """
        import sys
        from stockpot.errors import CheckpointError
        from stockpot.merging import merge
        merge([sys.argv[2]] * 2, output=sys.argv[3])
        try:
            merge(sys.argv[1:3], output=sys.argv[3] + "2", heads="first")
        except CheckpointError as error:
            print(error.message)
        assert "torch" not in sys.modules
    """
    import textwrap

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), other, bert, tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "'classifier.more' is unexpected" in done.stdout
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_timm_folders(tmp_path):
    torch.manual_seed(0)
    name = "resnet10t.c3_in1k"
    network = timm.create_model("resnet10t", num_classes=3)
    config = {
        "architecture": "resnet10t",
        "num_classes": 3,
        "pretrained_cfg": {"tag": name, "mean": [0.5, 0.5, 0.5]},
    }
    models = []
    for i, classes in enumerate((3, 3, 4)):
        folder = tmp_path / f"m{i}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({**config, "num_classes": classes}))
        save_state(folder / "model.safetensors", network.state_dict())
        models.append(str(folder))
    merge(models[:2], output=tmp_path / "out")
    assert torch.equal(load_state(tmp_path / "out")["fc.weight"], network.fc.weight.data)
    state = load_state(f"{models[2]}/model.safetensors")
    state["fc.weight"] = torch.ones(4, *state["fc.weight"].shape[1:])
    state["fc.bias"] = torch.ones(4)
    save_state(f"{models[2]}/model.safetensors", state)
    (tmp_path / "m2" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"timm would not load.*fc.weight.*\[4, "):
        merge([models[2], models[0]], output=tmp_path / "out2", heads="first")
