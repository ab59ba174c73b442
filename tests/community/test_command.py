"""The commands of a community, from an empty folder to a revert."""

from __future__ import annotations

import json

import yaml
from typer.testing import CliRunner

from stockpot.cli.main import app
from tests.community.conftest import World


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == code, done.output
    return done.stdout


def test_a_session(world: World) -> None:
    place = world.root / "registry"
    tasks = world.root / "tasks.yaml"
    tasks.write_text(
        yaml.safe_dump({"tasks": [json.loads(task.model_dump_json()) for task in world.tasks]})
    )
    run("registry", "init", place)
    run("registry", "add", world.root / "base", "-r", place, "--line", "main")
    said = run("contribute", world.tuned("ada", 0), "-r", place, "--author", "ada", "--json")
    assert json.loads(said)["name"] == "ada"
    run("contribute", world.tuned("ben", 1), "-r", place)
    run("contribute", world.root / "base", "-r", place, "--name", "copy")
    said = run("review", "-r", place, "--tasks", tasks, "--barrier", "0.5", code=1)
    assert "ada: accepted" in said
    assert "copy: refused" in said
    assert "NO  layers: its weights are those of its base" in said
    assert "none to review" in run("review", "-r", place)
    page = world.root / "page.html"
    value = json.loads(
        run(
            "accept",
            "ada",
            "ben",
            "-r",
            place,
            "-t",
            tasks,
            "-m",
            "task_arithmetic",
            "-s",
            "scale=0.4",
            "--html",
            page,
            "--json",
        )
    )
    assert value["version"] == 2
    assert value["round"]["parameters"] == {"scale": 0.4}
    assert set(value["scores"]) == {"north", "east"}
    assert "Family tree" in page.read_text()
    run("accept", "copy", "-r", place, code=2)
    said = run("revert", "ben", "-r", place, "--why", "asked for", "--html", page)
    assert "main is at version 3" in said
    assert "without ben (asked for)" in run("registry", "log", "-r", place, "--line", "main")
    assert "taken back" in page.read_text()
    said = run("accept", "ben", "-r", place, "--force", "-t", tasks)
    assert "north" in said


def test_a_component_goes_with_a_certificate(world: World) -> None:
    from stockpot.tangent.component import Component

    place = world.root / "registry"
    run("registry", "init", place)
    run("registry", "add", world.root / "base", "-r", place, "--line", "main")
    for name, factor in (("one", 0.01), ("two", 0.02)):
        delta = {n: factor * t for n, t in world.base.items()}
        Component("delta", "b" * 64, "c" * 64, name, ("x",), 5, "d" * 64, delta).save(
            world.root / f"{name}.safetensors"
        )
        run("contribute", world.root / f"{name}.safetensors", "-r", place)
    run("contribute", world.tuned("tuned", 0), "-r", place)
    run("accept", "one", "two", "-r", place, "--method", "tangent", "--force")
    file = world.root / "one.json"
    run("revert", "tuned", "-r", place, "--certificate", file, code=2)
    said = run("revert", "one", "-r", place, "--certificate", file)
    assert "the sum has the bits of one of the 1 kept components" in said
    assert "holds" in run("tangent", "verify", file)
