"""What commands leave goes into a registry: the results, and what they were made of."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.execution.conductor import Conductor
from stockpot.merging import merge
from stockpot.provenance import Record, RunModel, read_models, write_models
from stockpot.registry import Registry, add, init_registry, land
from stockpot.registry.tree import family, text
from stockpot.version import VERSION
from tests.registry.models import BASE, moved, write_model


def run(*arguments: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def parents(tmp_path: Path) -> list[Path]:
    models = [write_model(tmp_path / f"m{n}", moved(BASE, n)) for n in range(2)]
    return [write_model(tmp_path / "base", BASE), *models]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    init_registry(tmp_path / "r").close()
    return tmp_path / "r"


@pytest.mark.parametrize("output", ["soup", "soup.safetensors"])
@pytest.mark.parametrize("backend", [None, "serial"])
def test_a_merge_lands_with_its_parents(
    parents: list[Path], place: Path, tmp_path: Path, output: str, backend: str | None
) -> None:
    base, *models = parents
    arguments = ["merge", *models, "--base", base, "-m", "task_arithmetic", "-o", tmp_path / output]
    arguments += ["--backend", backend] if backend else []
    said = json.loads(run(*arguments, "-r", place, "--json").stdout)
    assert [each["name"] for each in said["registry"]["models"]] == ["base", "m0", "m1", "soup"]
    assert all(each["new"] for each in said["registry"]["models"])
    with Registry(place) as registry:
        rows, edges = family(registry)
        assert text(rows, edges).splitlines() == [
            f"base  {registry.find('base')[:8]}  base",
            f"├── m0  {registry.find('m0')[:8]}  finetune",
            f"│   └── soup  {registry.find('soup')[:8]}  merge  (also from m1, base)",
            f"└── m1  {registry.find('m1')[:8]}  finetune",
        ]
        soup = registry.manifest("soup")
        assert [(link.name, link.role) for link in soup.parents] == [
            ("./m0", "model"),
            ("./m1", "model"),
            ("./base", "base"),
        ]
        assert soup.recipe["method"] == "task_arithmetic"
        again = land(registry, tmp_path / output)
        assert [each.new for each in again.models] == [False] * 4
        assert again.result.id == soup.id


def test_the_record_of_a_merge_into_one_file_is_read_by_add(
    parents: list[Path], place: Path, tmp_path: Path
) -> None:
    models = parents[1:]
    merge(models, output=tmp_path / "out" / "soup.safetensors")
    with Registry(place) as registry:
        for each in models:
            add(registry, each)
        found = add(registry, tmp_path / "out" / "soup.safetensors").manifest
        assert (found.name, found.kind) == ("soup", "merge")
        assert {row.name for row in registry.ancestors(found.id)} >= {"m0", "m1"}
        # The report of another merge, whose file was replaced, says nothing.
        write_model(tmp_path / "other", {"a": BASE[next(iter(BASE))]})
        (tmp_path / "other" / "model.safetensors").rename(tmp_path / "out" / "soup.safetensors")
        assert (
            add(registry, tmp_path / "out" / "soup.safetensors", infer=False).manifest.parents == ()
        )


def test_parents_that_are_gone_or_changed_are_left_out(
    parents: list[Path], place: Path, tmp_path: Path
) -> None:
    base, *models = parents
    merge(models, base=base, method="ties", output=tmp_path / "soup")
    (base / "model.safetensors").unlink()
    write_model(models[0], moved(BASE, 9))
    with Registry(place) as registry:
        done = land(registry, tmp_path / "soup")
        assert [each.manifest.name for each in done.models] == ["m1", "soup"]
        assert [words.split(": ")[-1] for words in done.left_out][
            1
        ] == "its weights have changed since"
        assert "base" in done.left_out[0]
        # The edge joins as soon as such weights are there.
        add(registry, write_model(tmp_path / "back", BASE), name="found", infer=False)
        assert "found" in {row.name for row in registry.ancestors("soup")}
    words = run("registry", "land", tmp_path / "soup", "-r", place, "--line", "main").stdout
    assert "not added" in words
    assert "main" in run("registry", "tree", "-r", place).stdout


def test_a_model_given_in_pieces(place: Path, tmp_path: Path) -> None:
    """An overlay replaces tensors; files for which it has nothing do not belong to the model."""
    run_folder = tmp_path / "out"
    final = write_model(run_folder / "model", BASE)
    write_model(tmp_path / "head", {"weight": BASE[next(iter(BASE))]})
    (tmp_path / "head" / "model.safetensors").rename(final / "head.safetensors")
    (final / "head.json").write_text("{}")
    (final / "tokenizer.json").write_text("{}")
    changed = moved(BASE, 3)
    name = next(iter(BASE))
    write_model(run_folder / "work", {f"featurizer.{name}": changed[name]})
    made = RunModel(
        "model",
        record=Record(kind="finetune", name="part"),
        overlay="work/model.safetensors",
        parts={"model.safetensors": "featurizer."},
    )
    write_models(run_folder, [made, RunModel("model")])
    assert read_models(run_folder)[0] == made
    with Registry(place) as registry:
        done = land(registry, run_folder)
        part = done.models[0].manifest
        assert sorted(file.path for file in part.files) == [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "vocab.txt",
        ]
        own = registry.checkpoint(part)
        for each in BASE:
            expected = changed if each == name else BASE
            assert (own.read(each) == expected[each]).all()
        assert done.result.manifest.name == "model"


def test_a_result_is_not_lost_when_the_registry_cannot_take_it(
    parents: list[Path], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stockpot.errors import OutputError

    def full(*_: object, **__: object) -> None:
        raise OutputError("no space left")

    _, *models = parents
    monkeypatch.setattr("stockpot.registry.land", full)
    done = run("merge", *models, "-o", tmp_path / "soup", "-r", place, code=1)
    assert (tmp_path / "soup" / "model.safetensors").exists()
    assert "tensors by linear" in done.stdout
    assert "is whole, but not in the registry: no space left" in done.stderr
    command = done.stderr.split("to add it: stockpot ")[1].split()
    monkeypatch.undo()
    assert "3 of 3 models new" in run(*command).stdout


def test_a_registry_that_is_not_there_stops_the_command_before_it_works(
    parents: list[Path], tmp_path: Path
) -> None:
    _, *models = parents
    done = run("merge", *models, "-o", tmp_path / "soup", "-r", tmp_path / "none", code=2)
    assert "holds no registry" in done.stderr
    assert not (tmp_path / "soup").exists()


def test_the_registry_of_the_environment(
    parents: list[Path], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOCKPOT_REGISTRY", str(place))
    run("merge", *parents[1:], "-o", tmp_path / "soup")
    with Registry(place) as registry:
        assert registry.manifest("soup").kind == "merge"


@pytest.mark.parametrize("content", ["[]", '{"models": []}', "no json", '{"models": [{"a": 1}]}'])
def test_a_damaged_list_of_models_is_told(place: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "models.json").write_text(content)
    assert "models" in run("registry", "land", tmp_path / "out", "-r", place, code=2).stderr
    said = run("registry", "add", tmp_path / "out", "-r", place, code=2).stderr
    assert "stockpot registry land" in said


def test_a_submitted_command_lands_where_it_runs(
    parents: list[Path], place: Path, tmp_path: Path
) -> None:
    """What the cluster's conductor does for ``stockpot submit``, without a cluster."""
    words = ["merge", *parents[1:], "-o", tmp_path / "soup", "-r", place, "--json"]
    conductor = Conductor(list(map(str, words)), VERSION, None, None)
    deadline, code = time.monotonic() + 120, None
    while code is None and time.monotonic() < deadline:
        (said, _), (heard, _), code = conductor.look(0, 0)
        time.sleep(0.05)
    assert code == 0, heard
    assert len(json.loads(said)["registry"]["models"]) == 3
    with Registry(place) as registry:
        assert registry.manifest("soup").kind == "merge"
