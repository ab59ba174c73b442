"""What README and docs say is what the code does."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from stockpot.checkpoints import write_checkpoint
from stockpot.cli.main import app
from stockpot.ranking.history import Store
from stockpot.ranking.request import load_request
from stockpot.ranking.zoo import load_zoo
from stockpot.recycling import parse_recipe
from tests.ranking.rank.tiny import QUALITY, write_task, zoo
from tests.recycling.tiny import recipe
from tests.tangent.core.world import write_world as write_tangent

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/stockpot-ml/stockpot"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.M | re.S)
    return [text for name, text in found if name == language]


def commands() -> list[str]:
    lines = [line for block in blocks("") for line in block.splitlines()]
    return [line for line in lines if line.startswith("stockpot ")]


def write_world(folder: Path) -> None:
    """The files that the README's commands name."""
    rng = np.random.default_rng(0)
    base = {"layer.weight": rng.normal(size=(32, 16)).astype(np.float32)}
    for name, scale in (("base", 0.0), ("fine-tuned-1", 1e-3), ("fine-tuned-2", 1e-3)):
        tensors = {
            key: (value + scale * rng.normal(size=value.shape)).astype(np.float32)
            for key, value in base.items()
        }
        write_checkpoint(folder / name / "model.safetensors", tensors)
    write_checkpoint(folder / "my-fine-tuning" / "model.safetensors", tensors)
    small = recipe(folder, protocols=["erm", "soup_uniform"], auxiliaries=[], runs=2)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(small))
    write_task(folder)
    (folder / "zoo.yaml").write_text(yaml.safe_dump(zoo()))
    with Store.open(folder / "results.db") as store:
        for task in ("old", "older"):
            for place, name in enumerate(QUALITY):
                store.add(name, task, "accuracy", 0.5 + 0.1 * place)
    (folder / "sites").mkdir()
    tangent = yaml.safe_load(write_tangent(folder / "sites", rows=120).read_text())
    tangent["task"]["path"], tangent["backbone"]["name"] = "sites/data.npz", "sites/net.py:net"
    (folder / "tangent.yaml").write_text(yaml.safe_dump(tangent))


def test_the_readmes_commands_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = commands()
    assert {line.split()[1] for line in found} >= {"rank", "recycle", "merge", "tangent", "inspect"}
    for line in found:
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
    assert (tmp_path / "merged" / "model.safetensors").exists()
    assert (tmp_path / "recycled" / "report.html").exists()


def test_the_readmes_files_are_valid(tmp_path: Path) -> None:
    files = {text.splitlines()[0].removeprefix("# "): text for text in blocks("yaml")}
    assert set(files) == {"recipe.yaml", "task.yaml", "zoo.yaml"}
    parse_recipe(yaml.safe_load(files["recipe.yaml"]))
    for name in ("task.yaml", "zoo.yaml"):
        (tmp_path / name).write_text(files[name])
    request, _ = load_request(tmp_path / "task.yaml")
    assert request.task.kind == "text"
    assert list(load_zoo(tmp_path / "zoo.yaml").entries) == ["minilm", "distilbert"]


def test_the_readmes_python_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    (text,) = blocks("python")
    assert len([line for line in text.splitlines() if line.strip()]) < 10
    exec(compile(text, "README.md", "exec"), {})


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            own = re.fullmatch(rf"{re.escape(REPOSITORY)}/(?:blob|tree)/main/(.+)", target)
            if own:
                assert (ROOT / own[1]).exists(), f"{page}: {target}"
            elif not target.startswith(("http:", "https:")):
                assert page.name != "README.md" or page.parent != ROOT, f"not absolute: {target}"
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_recipe_reference_is_what_the_declarations_say() -> None:
    place = ROOT / "docs" / "make_reference.py"
    spec = importlib.util.spec_from_file_location("make_reference", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    current = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert current == module.page(), "run: python docs/make_reference.py"
    current = (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")
    assert current == module.trainers(), "run: python docs/make_reference.py"


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/**/*recipe.yaml")), ids=str)
def test_the_examples_recipes_are_valid(path: Path) -> None:
    parse_recipe(yaml.safe_load(path.read_text(encoding="utf-8")), source=str(path))
