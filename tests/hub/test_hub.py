"""What goes to the hub and what stays here; what comes back. Against a stand-in, no network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.cli.main import app
from stockpot.errors import CheckpointError, InputError, OutputError, StockpotError
from stockpot.hub import pull, push
from stockpot.merging import merge
from stockpot.provenance import FILE_NAME, read_record
from tests.hub.standin import TOKEN, Hub, serve

# huggingface_hub hands bytes to its HTTP library in a way that this one finds outdated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with serve() as hub:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        values = {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template.replace(constants.ENDPOINT, hub.url),
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_EXPERIMENTAL_WARNING", "1")
        yield hub


def model_folder(path: Path, seed: int) -> Path:
    path.mkdir(parents=True)
    values = np.random.default_rng(seed).standard_normal((40, 30)).astype(np.float32)
    write_checkpoint(path / "model.safetensors", {"layer.weight": values})
    (path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (path / "tokenizer.json").write_text("{}")
    return path


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    models = [model_folder(tmp_path / "private" / name, i) for i, name in enumerate(("a", "b"))]
    merge(models, output=tmp_path / "merged")
    return tmp_path / "merged"


def front_matter(text: bytes) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)---\n", text.decode(), re.DOTALL)
    assert found
    value: dict[str, Any] = yaml.safe_load(found[1])
    return value


def test_a_model_goes_there_and_comes_back_bit_by_bit(
    hub: Hub, merged: Path, tmp_path: Path
) -> None:
    done = push(merged, "me/soup", base_models=["org/base"], license="apache-2.0")
    assert done.url.startswith(hub.url)
    assert hub.private["me/soup"]
    sent = hub.files("me/soup")
    assert set(sent) == {path.name for path in merged.iterdir()} == set(done.files)
    assert sent["model.safetensors"] == (merged / "model.safetensors").read_bytes()
    front = front_matter(sent["README.md"])
    assert front["base_model"] == ["org/base"]
    assert front["base_model_relation"] == "merge"
    assert front["license"] == "apache-2.0"
    assert {"merge", "stockpot"} <= set(front["tags"])

    back = pull("me/soup", tmp_path / "back")
    assert back.own_record
    assert back.record == read_record(merged)
    names = {path.name for path in back.folder.iterdir()}
    assert names == set(sent)
    for name in names - {"README.md", "merge_report.json"}:
        assert (back.folder / name).read_bytes() == (merged / name).read_bytes()


def test_places_of_this_machine_stay_here(hub: Hub, merged: Path, tmp_path: Path) -> None:
    assert str(tmp_path) in (merged / "merge_report.json").read_text()
    done = push(merged, "me/soup")
    assert any("merge_report.json: 2 paths" in note for note in done.notes)
    for name, data in hub.files("me/soup").items():
        assert str(tmp_path).encode() not in data, name
    assert b'"./a"' in hub.files("me/soup")["merge_report.json"]
    assert "base_model" not in front_matter(hub.files("me/soup")["README.md"])
    assert str(tmp_path) in (merged / "merge_report.json").read_text()


def test_files_of_others_stay_here_unless_they_are_named(hub: Hub, merged: Path) -> None:
    for name in ("passwords.json", "optimizer.pt", "notes.txt", "work/model.safetensors"):
        (merged / name).parent.mkdir(exist_ok=True)
        (merged / name).write_text("mine")
    plan = push(merged, "me/soup", dry_run=True)
    assert plan.left_out == (
        "notes.txt",
        "optimizer.pt",
        "passwords.json",
        "work/model.safetensors",
    )
    assert hub.requests == []
    push(merged, "me/soup", also=["notes.txt"])
    assert {name for name in hub.files("me/soup") if name in plan.left_out} == {"notes.txt"}
    with pytest.raises(InputError, match=r"no file 'plan\.md'"):
        push(merged, "me/soup", also=["plan.md"])


def test_folders_that_stockpot_did_not_make_are_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was not made by stockpot"):
        push(model_folder(tmp_path / "theirs", 0), "me/theirs")
    assert hub.requests == []


def test_nothing_is_shown_to_the_world_by_accident(hub: Hub, merged: Path) -> None:
    hub.add("me/open", {"README.md": b""}, private=False)
    with pytest.raises(InputError, match="is public"):
        push(merged, "me/open")
    assert set(hub.files("me/open")) == {"README.md"}
    push(merged, "me/open", public=True)
    assert "model.safetensors" in hub.files("me/open")
    push(merged, "me/new", public=True)
    assert not hub.private["me/new"]


def test_weights_that_are_not_the_records_are_noticed(
    hub: Hub, merged: Path, tmp_path: Path
) -> None:
    with open_checkpoint(merged) as checkpoint:
        record = json.loads((merged / FILE_NAME).read_text()) | {"digest": checkpoint.digest()}
    (merged / FILE_NAME).write_text(json.dumps(record))
    push(merged, "me/soup")
    flipped = bytearray(hub.files("me/soup")["model.safetensors"])
    flipped[-1] ^= 1
    hub.add("me/soup", {"model.safetensors": bytes(flipped)})
    with pytest.raises(CheckpointError, match="the weights are not those"):
        pull("me/soup", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    (merged / "model.safetensors").write_bytes(flipped)
    with pytest.raises(CheckpointError, match="changed afterwards"):
        push(merged, "me/soup")


def test_a_model_without_lineage_gets_one(hub: Hub, tmp_path: Path) -> None:
    theirs = model_folder(tmp_path / "theirs", 0)
    commit = hub.add("org/base", {path.name: path.read_bytes() for path in theirs.iterdir()})
    found = pull("org/base@main", tmp_path / "base")
    assert not found.own_record
    assert found.record.parents[0].name == "org/base"
    assert found.record.recipe == {"hub": "org/base", "commit": commit}
    with open_checkpoint(theirs) as checkpoint:
        assert found.record.digest == checkpoint.digest()
    assert read_record(tmp_path / "base") == found.record
    with pytest.raises(OutputError, match="exists already"):
        pull("org/base", tmp_path / "base")
    pull("org/base", tmp_path / "base", overwrite=True)


def test_what_the_hub_refuses_is_one_line(
    hub: Hub, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("soup", "a/b/c", "../x", ""):
        with pytest.raises(InputError, match="expected owner/name"):
            push(merged, name)
    with pytest.raises(InputError, match="is no hub id"):
        push(merged, "me/soup", base_models=["/home/me/base"])
    with pytest.raises(CheckpointError, match="gave no model of that name"):
        pull("org/none", tmp_path / "none")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match=r"the hub refuses \(401\).*HF_TOKEN"):
        push(merged, "me/soup")
    hub.failing = True
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(StockpotError, match=r"the hub failed \(500\)|cannot be reached"):
        push(merged, "me/soup")


def test_the_environment_of_huggingface_hub_is_heeded(merged: Path, tmp_path: Path) -> None:
    with serve() as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
        }
        for words in (["push", str(merged), "me/soup"], ["pull", "me/soup"]):
            command = [sys.executable, "-m", "stockpot", *words]
            subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True)
    weights = "model.safetensors"
    assert (tmp_path / "soup" / weights).read_bytes() == (merged / weights).read_bytes()


def test_push_and_pull_on_the_command_line(
    hub: Hub, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (merged / "notes.txt").write_text("mine")
    found = CliRunner().invoke(app, ["push", str(merged), "me/soup", "--dry-run"])
    assert found.exit_code == 0
    assert "model.safetensors" in found.stdout
    assert "left out: notes.txt" in found.stderr
    found = CliRunner().invoke(app, ["push", str(merged), "me/soup", "--json"])
    assert json.loads(found.stdout)["url"].startswith(hub.url)
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["pull", "me/soup"])
    assert found.exit_code == 0, found.stderr
    assert "parents: ./a, ./b" in found.stdout
    assert read_record(tmp_path / "soup") == read_record(merged)
    assert CliRunner().invoke(app, ["pull", "me/soup"]).exit_code == 2


def test_pulled_merged_and_pushed_again_it_knows_its_parents_of_the_hub(
    hub: Hub, tmp_path: Path
) -> None:
    for seed, name in enumerate(("org/a", "org/b")):
        source = model_folder(tmp_path / "there" / name, seed)
        hub.add(name, {path.name: path.read_bytes() for path in source.iterdir()})
        pull(name, tmp_path / "here" / name)
    merge([tmp_path / "here" / name for name in ("org/a", "org/b")], output=tmp_path / "merged")
    assert [parent.name for parent in read_record(tmp_path / "merged").parents] == [
        "org/a",
        "org/b",
    ]
    push(tmp_path / "merged", "me/soup")
    front = front_matter(hub.files("me/soup")["README.md"])
    assert (front["base_model"], front["base_model_relation"]) == (["org/a", "org/b"], "merge")
