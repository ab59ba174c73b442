"""What other commands write about their models is read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import yaml  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import stockpot  # noqa: E402
from stockpot.checkpoints import open_checkpoint  # noqa: E402
from stockpot.checkpoints.torch_io import save_state  # noqa: E402
from stockpot.cli.main import app  # noqa: E402
from stockpot.registry import Registry, add, init_registry, land  # noqa: E402
from stockpot.registry.checking import verify  # noqa: E402
from stockpot.registry.tree import family  # noqa: E402
from stockpot.tangent.component import Component  # noqa: E402
from tests.ranking.rank.tiny import net as ranked_net  # noqa: E402
from tests.ranking.rank.tiny import write_task, zoo  # noqa: E402
from tests.recycling.tiny import net, recipe  # noqa: E402
from tests.tangent.core.world import write_world  # noqa: E402

# What each protocol's model comes from; the numbers of runs are left out.
_RATATOUILLE = {
    ("net", "Tiny: other"),
    ("net", "wild"),
    ("net", "Tiny: base"),
    ("Tiny: other", "Tiny: other"),
    ("wild", "Tiny: wild"),
    ("Tiny: base", "Tiny"),
    ("Tiny: other", "Tiny"),
    ("Tiny: wild", "Tiny"),
    ("net", "Tiny"),
    ("wild", "Tiny"),
}
_MIXTURE = {("net", "Tiny: mixture"), ("Tiny: other", "Tiny: mixture"), ("wild", "Tiny: mixture")}
EDGES = {
    "ratatouille_uniform": _RATATOUILLE,
    "soup_uniform": {("net", "Tiny: base"), ("Tiny: base", "Tiny"), ("net", "Tiny")},
    "linear_probe": {("net", "Tiny")},
    "stock_periodic": {("net", "Tiny: periodic"), ("Tiny: periodic", "Tiny"), ("net", "Tiny")},
    "fusing": _MIXTURE
    | {("net", "Tiny: other"), ("net", "wild"), ("net", "Tiny"), ("Tiny: mixture", "Tiny")}
    | {("Tiny: other", "Tiny"), ("wild", "Tiny")},
}


@pytest.mark.slow
def test_a_recycled_model_finds_its_base(tmp_path: Path) -> None:
    done = stockpot.recycle(
        recipe(tmp_path, protocols=["erm", "soup_uniform"], runs=2, auxiliaries=[]),
        root=tmp_path,
        output=tmp_path / "out",
    )
    (tmp_path / "base").mkdir()
    save_state(tmp_path / "base" / "model.safetensors", net().state_dict())
    with init_registry(tmp_path / "registry") as registry:
        add(registry, tmp_path / "base")
        found = add(registry, done.model).manifest
        assert {row.name for row in registry.ancestors(found.id)} == {"base"}
        assert [link.role for link in found.parents if link.model] == ["base"]
        assert found.recipe["title"] == "Tiny"
        assert found.data is not None
        assert 0.0 <= found.metrics["id_accuracy"] <= 1.0
        assert registry.checkpoint(found.id).digest() == found.digest


@pytest.mark.slow
def test_a_recycled_model_lands_with_all_it_came_from(tmp_path: Path) -> None:
    """base -> auxiliary -> fine-tuning -> average, each edge by content."""
    wild = {name: tensor + 0.01 for name, tensor in net().state_dict().items()}
    (tmp_path / "wild").mkdir()
    save_state(tmp_path / "wild" / "model.safetensors", wild)
    changes = {
        "auxiliaries": [
            {"name": "other", "task": {"kind": "arrays", "path": "other.npz"}},
            {"name": "wild", "weights": "wild/model.safetensors"},
        ],
        "protocols": ["erm", *EDGES],
        "runs": 3,
    }
    value = recipe(tmp_path, **changes)
    for protocol, edges in EDGES.items():
        value["final"] = {"protocol": protocol}
        stockpot.recycle(
            value,
            root=tmp_path,
            output=tmp_path / "out",
            backend="serial",
            quiet=True,
            overwrite=True,
        )
        with init_registry(tmp_path / protocol) as registry:
            done = land(registry, tmp_path / "out")
            assert done.left_out == ()
            assert _edges(registry) == edges
            assert not verify(registry).problems
            assert {
                link.model is None for each in done.models for link in each.manifest.parents
            } <= {False}
            assert not any(each.new for each in land(registry, tmp_path / "out").models)


@pytest.mark.slow
def test_weights_on_the_way_of_a_run_are_parents_too(tmp_path: Path) -> None:
    value = recipe(tmp_path, protocols=["erm", "trajectory_uniform"], auxiliaries=[])
    value["final"] = {"protocol": "trajectory_uniform"}
    stockpot.recycle(value, root=tmp_path, output=tmp_path / "out", backend="serial", quiet=True)
    with init_registry(tmp_path / "r") as registry:
        assert land(registry, tmp_path / "out").left_out == ()
        assert _edges(registry) >= {
            ("net", "Tiny: step 4"),
            ("Tiny: step 4", "Tiny: step-4"),
            ("Tiny: step-4", "Tiny"),
        }


def _edges(registry: Registry) -> set[tuple[str, str]]:
    rows, edges = family(registry)
    names = {row.num: row.name for row in rows}
    names = {number: re.sub(r"-\d+$", "", name) for number, name in names.items()}
    return {(names[edge.parent], names[edge.child]) for edge in edges if edge.parent is not None}


@pytest.mark.slow
def test_components_and_their_sum_find_their_base(tmp_path: Path) -> None:
    write_world(tmp_path, title="Sums")
    out = tmp_path / "out"
    with init_registry(tmp_path / "r"):
        pass

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(app, [*map(str, arguments), "-r", str(tmp_path / "r")])
        assert done.exit_code == 0, done.output
        return done.stdout

    run("tangent", "train", tmp_path / "recipe.yaml", "-o", out, "--backend", "serial")
    total = tmp_path / "sum.safetensors"
    run("tangent", "compose", out / "components" / "east.safetensors", "-o", total)
    run("tangent", "compose", out, "-o", total)
    with Registry(tmp_path / "r") as registry:
        components = {f"Sums: {name}" for name in ("east", "north", "south")}
        assert _edges(registry) == {
            ("net", "Sums: head"),
            *(("net", name) for name in components),
            *(("Sums: head", name) for name in components),
            *((name, "sum") for name in components),
            ("Sums: east", "sum"),
        }
        east = registry.manifest("Sums: east")
        assert east.metrics["validation_accuracy"] > 0.7
        assert east.kind == "component"
    # The file alone knows its base too, and is the component that it was.
    with init_registry(tmp_path / "alone") as registry:
        read = add(registry, out / "components" / "east.safetensors").manifest
        assert (read.name, read.parents[0].role) == ("east", "base")
    written = next((out / "work").glob("base-*.safetensors"))
    with open_checkpoint(written) as base:
        assert read.parents[0].digest == base.digest()
    loaded = Component.load(out / "components" / "east.safetensors")
    loaded.save(tmp_path / "old.safetensors")
    assert Component.load(tmp_path / "old.safetensors").digest == loaded.digest


@pytest.mark.slow
def test_the_winner_of_a_ranking_lands(tmp_path: Path) -> None:
    """The model itself; of one that a function makes it is said that there is no file."""
    task = write_task(tmp_path)
    save_state(tmp_path / "good.safetensors", ranked_net(0.95).state_dict())
    value = zoo()
    good = next(each for each in value["models"] if each["id"] == "good")
    good["weights"] = "good.safetensors"
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(value))
    with init_registry(tmp_path / "r"):
        pass
    arguments = ["rank", task, "--zoo", tmp_path / "zoo.yaml", "-o", tmp_path / "out"]
    arguments += ["--backend", "serial", "-r", tmp_path / "r", "--json", "--overwrite"]
    for without, names in ((), ["good"]), (("good",), []):
        more = [word for name in without for word in ("--without", name)]
        done = CliRunner().invoke(app, [*map(str, arguments), *more])
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)["registry"]
        assert [each["name"] for each in found["models"]] == names
        assert bool(found["left_out"]) is bool(without)
    with (
        open_checkpoint(tmp_path / "good.safetensors") as own,
        Registry(tmp_path / "r") as registry,
    ):
        assert registry.manifest("good").digest == own.digest()


@pytest.mark.slow
@pytest.mark.parametrize("select", ["gain", "halving"])
def test_the_fine_tunings_of_a_ranking_land_on_their_bases(tmp_path: Path, select: str) -> None:
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(zoo()))
    with init_registry(tmp_path / "r"):
        pass
    words = ["rank", write_task(tmp_path), "--zoo", tmp_path / "zoo.yaml", "-o", tmp_path / "out"]
    words += ["--budget", "1m", "--select", select, "--backend", "serial", "-r", tmp_path / "r"]
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    whole = [each for each in value["models"] if each["tuned"] and each["tuned"]["steps"] == 8]
    assert whole
    with Registry(tmp_path / "r") as registry:
        assert _edges(registry) == {(each["name"], f"Tiny: {each['name']}") for each in whole}
        for each in whole:
            found = registry.manifest(f"Tiny: {each['name']}")
            assert found.metrics["value"] == each["tuned"]["value"]
            assert found.recipe["hyperparameters"]["steps"] == 8
    assert value["registry"]["models"][-1]["name"] == f"Tiny: {whole[0]['name']}"
