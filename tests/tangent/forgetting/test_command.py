"""``stockpot tangent forget`` and ``verify`` on a folder of trained components."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.tangent import Component
from tests.tangent.core.world import write_world


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["tangent", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("world")
    recipe = write_world(folder)
    run("train", recipe, "-o", folder / "out", "--backend", "serial", "-q")
    return recipe, folder / "out"


@pytest.fixture
def copy(trained, tmp_path) -> tuple[Path, Path]:
    recipe, out = trained
    shutil.copytree(out, tmp_path / "out")
    return recipe, tmp_path / "out"


def test_forgetting_leaves_no_file_of_it_and_a_certificate_that_holds(copy) -> None:
    recipe, out = copy
    before = {Component.load(f).digest for f in (out / "components").glob("*")}
    said = run("forget", recipe, out, "south", "--retrain", "-q")
    assert "against a model retrained without it: the same bits" in said
    assert "membership AUC" in said
    certificate = out / "forgotten-south.json"
    value = json.loads(certificate.read_text())
    gone = value["removed"][0]["digest"]
    assert gone in before
    assert value["against_retrained"]["equal_components"]
    assert value["seconds"]["training_the_rest"] > 0
    left = {
        Component.load(f).digest
        for f in out.rglob("*.safetensors")
        if not f.name.startswith(("head.", "base-"))
    }
    assert "south" not in (out / "models.json").read_text()
    assert left == before - {gone}
    assert not list(out.rglob("activations.bin"))
    names = [c["name"] for c in json.loads((out / "components.json").read_text())["components"]]
    assert names == ["east", "north"]
    said = run("verify", certificate, "--recipe", recipe, "--run", out, "--retrain", "-q")
    assert said.count("holds") == 8
    assert "FAILS" not in said


def test_a_certificate_that_does_not_hold_is_told(copy) -> None:
    recipe, out = copy
    run("forget", recipe, out, "south", "--keep", "-q")
    certificate = out / "forgotten-south.json"
    # Alone it holds; against the folder, where the component still lies, it does not.
    assert "FAILS" not in run("verify", certificate)
    said = run("verify", certificate, "--recipe", recipe, "--run", out, code=1)
    assert "FAILS  what was removed (" in said
    value = json.loads(certificate.read_text())
    value["membership"]["after"]["value"] = 0.5
    certificate.write_text(json.dumps(value))
    assert "FAILS  the certificate's hash" in run("verify", certificate, code=1)
    (out / "components" / "east.safetensors").unlink()
    said = run("verify", certificate, "--recipe", recipe, "--run", out, "--json", code=1)
    assert not json.loads(said)["holds"]


def test_what_cannot_be_forgotten_is_refused(copy, trained) -> None:
    recipe, out = copy
    assert "no component 'west'" in run("forget", recipe, out, "west", code=2)
    assert "one to keep" in run("forget", recipe, out, "east", "north", "south", code=2)
    assert "unknown weights" in run("forget", recipe, out, "east", "--weights", "x", code=2)
    assert "is no forgetting" in run("verify", out / "components.json", code=2)
    run("forget", recipe, out, "south", "--keep", "-q")
    certificate = out / "forgotten-south.json"
    assert "needs the recipe" in run("verify", certificate, "--retrain", code=2)
    assert len(list((out / "components").glob("*"))) == 3


def test_any_name_of_a_domain_can_be_forgotten(tmp_path: Path) -> None:
    recipe = write_world(tmp_path, names=("EU/west", "../up", "north pole " * 30))
    out = tmp_path / "out"
    run("train", recipe, "-o", out, "--backend", "serial", "-q")
    run("forget", recipe, out, "EU/west", "north pole " * 30, "-q")
    (certificate,) = out.glob("forgotten-*.json")
    assert "FAILS" not in run("verify", certificate, "--recipe", recipe, "--run", out, "-q")
    assert [Component.load(f).task for f in (out / "components").glob("*")] == ["../up"]


def test_statistics_are_forgotten_likewise(tmp_path: Path) -> None:
    composer = {"kind": "statistics", "dimension": 64, "random_dimension": 64, "directions": 2}
    recipe, out = write_world(tmp_path, composer=composer), tmp_path / "out"
    run("train", recipe, "-o", out, "--backend", "serial", "-q")
    said = run("forget", recipe, out, "south", "--retrain", "-q")
    assert "against a model retrained without it: the same bits" in said
    certificate = out / "forgotten-south.json"
    assert json.loads(certificate.read_text())["composer"] == "statistics"
    assert "FAILS" not in run("verify", certificate, "--recipe", recipe, "--run", out, "-q")
