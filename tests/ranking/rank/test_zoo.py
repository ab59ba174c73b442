"""A zoo and a task file are checked whole: every problem at once, each with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stockpot.errors import InputError, RecipeError, TaskError
from stockpot.ranking.request import Request, load_request, parse_request
from stockpot.ranking.zoo import FeatureEntry, ModelEntry, load_zoo, parse_zoo

ZOO = """\
models:
  - id: small
    kind: transformers
    name: folder/small
    metadata: {family: bert, parameters: 2.2e7}
    readout: best_layer
  - kind: timm
    name: resnet18
    weights: resnet18.pth
    head: fc
  - kind: features
    path: features/big.npy
"""


def test_a_zoo_has_names_and_metadata(tmp_path: Path) -> None:
    file = tmp_path / "zoo.yaml"
    file.write_text(ZOO)
    zoo = load_zoo(file)
    assert list(zoo.entries) == ["small", "resnet18", "big"]
    assert len(zoo) == 3
    assert zoo.root == tmp_path.resolve()
    assert zoo.metadata()["small"] == {"family": "bert", "parameters": 2.2e7}
    small, resnet, big = zoo.entries.values()
    assert isinstance(small, ModelEntry)
    assert small.spec.name == "folder/small"
    assert not hasattr(small.spec, "readout")
    assert isinstance(resnet, ModelEntry)
    assert resnet.head == "fc"
    assert isinstance(big, FeatureEntry)


def problems(file: Path, text: str, load) -> list[str]:
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load(file)
    assert caught.value.exit_code == 2
    return [line.replace(str(file), file.name) for line in caught.value.problems]


def test_all_problems_of_a_zoo_have_their_lines(tmp_path: Path) -> None:
    text = ZOO.replace("head: fc", "haed: fc").replace("best_layer", "worst_layer")
    found = problems(tmp_path / "zoo.yaml", text, load_zoo)
    assert any(line.startswith("zoo.yaml:6: ") and "readout" in line for line in found)
    assert any(line.startswith("zoo.yaml:10: ") and "did you mean 'head'" in line for line in found)


def test_other_slips(tmp_path: Path) -> None:
    file = tmp_path / "zoo.yaml"
    assert "nothing says what 'x' is" in problems(file, "models:\n  - name: x\n", load_zoo)[0]
    assert "zoo.yaml:2" in problems(file, "models:\n  - name: x\n", load_zoo)[0]
    twice = "models:\n  - {kind: timm, name: x}\n  - {kind: timm, name: x}\n"
    assert "two models are called 'x'" in problems(file, twice, load_zoo)[0]
    assert "unknown kind" in problems(file, "models:\n  - {kind: onnx, name: x}\n", load_zoo)[0]
    assert "mapping with 'models'" in problems(file, "- kind: timm\n", load_zoo)[0]
    assert "models" in problems(file, "models: []\n", load_zoo)[0]
    with pytest.raises(RecipeError, match="cannot read the zoo"):
        load_zoo(tmp_path / "none.yaml")
    with pytest.raises(RecipeError):
        parse_zoo({"models": "x"})


def model_folder(path: Path, **config: object) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_kind_and_name_follow_from_what_is_named(tmp_path: Path) -> None:
    model_folder(tmp_path / "bert", model_type="bert")
    model_folder(tmp_path / "net", architecture="resnet18")
    names = ["bert", "net", "f.npz", "net.py:build", "resnet18", {"name": "bert", "id": "again"}]
    zoo = parse_zoo({"models": names}, root=tmp_path)
    kinds = {name: entry.kind for name, entry in zoo.entries.items()}
    assert kinds == {
        "bert": "transformers",
        "net": "timm",
        "f": "features",
        "net.py:build": "function",
        "resnet18": "timm",
        "again": "transformers",
    }


def test_a_folder_of_models_is_a_zoo(tmp_path: Path) -> None:
    model_folder(tmp_path / "zoo" / "bert", model_type="bert")
    (tmp_path / "zoo" / "notes").mkdir()
    (tmp_path / "zoo" / "torn").mkdir()
    (tmp_path / "zoo" / "torn" / "config.json").write_text('{"model_type": "bert"')
    zoo = load_zoo(tmp_path / "zoo")
    assert list(zoo.entries) == ["bert"]
    assert zoo.others["notes"] == "it holds no model: no config.json"
    assert "cannot be read as JSON" in zoo.others["torn"]
    (tmp_path / "zoo" / "torn" / "config.json").unlink()
    assert list(load_zoo(tmp_path / "zoo" / "bert").entries) == ["bert"]
    with pytest.raises(InputError, match="holds no model"):
        load_zoo(tmp_path / "zoo" / "notes")
    (tmp_path / "zoo" / "notes" / "config.json").write_text("{}")
    assert "neither 'model_type'" in load_zoo(tmp_path / "zoo").others["notes"]
    with pytest.raises(RecipeError, match="neither 'model_type'"):
        load_zoo(tmp_path / "zoo" / "notes")


def test_code_that_a_zoo_names_without_a_kind_may_not_run_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STOCKPOT_ALLOW_CODE")
    file = tmp_path / "zoo.yaml"
    assert "--allow-code" in problems(file, "models:\n  - os:system\n", load_zoo)[0]


def test_a_task_may_be_given_in_many_ways(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    request, root = load_request(folder)
    assert request.task.kind == "images"
    assert (root / "pictures") == folder.resolve()
    assert load_request(tmp_path / "texts.csv")[0].task.kind == "text"
    assert load_request(tmp_path / "data.npz")[0].task.kind == "arrays"
    bare = tmp_path / "bare.yaml"
    bare.write_text("kind: arrays\npath: data.npz\n")
    assert load_request(bare)[0] == Request.model_validate(
        {"task": {"kind": "arrays", "path": "data.npz"}}
    )
    recipe = {
        "title": "T",
        "seed": 3,
        "task": {"kind": "arrays", "path": "x.npz"},
        "backbone": {"kind": "timm", "name": "y"},
        "runs": 3,
    }
    taken = parse_request(recipe)
    assert (taken.title, taken.seed) == ("T", 3)


def test_problems_of_a_task_have_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    text = "task:\n  kind: arrays\n  path: x.npz\ntraining:\n  step: 3\nsample: {first: 2}\n"
    found = problems(file, text, load_request)
    assert "task.yaml:5: training.step: unknown key 'step'; did you mean 'steps'?" in found
    assert any(line.startswith("task.yaml:6: sample.first") for line in found)
    found = problems(file, "kind: arrays\npth: x\n", load_request)
    assert any(line.startswith("task.yaml:2") and "pth" in line for line in found)
    with pytest.raises(RecipeError, match="a mapping"):
        parse_request([1])
    with pytest.raises(TaskError, match="there is no task"):
        load_request(tmp_path / "none.yaml")
    (tmp_path / "x.bin").write_text("")
    with pytest.raises(TaskError, match="a task is"):
        load_request(tmp_path / "x.bin")
