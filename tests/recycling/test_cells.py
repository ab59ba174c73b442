"""What is trained on and what is judged: held-out sets, test rows, fixed splits, groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stockpot.backbones import load_model
from stockpot.errors import InputError, RecipeError, TaskError
from stockpot.provenance import read_record
from stockpot.recycling import Recycled, plan_recipe, recycle
from stockpot.recycling.cells import cell_name, held_out_sets, split_arguments
from stockpot.recycling.recipe import parse_recipe
from stockpot.report import write_report
from stockpot.report.headline import headline
from stockpot.report.terminal import terminal_table
from stockpot.tasks import Task, load_task, split_task
from stockpot.training.rows import open_task
from tests.recycling.tiny import DOMAINS, recipe, write_arrays, write_images

ROOT = Path(__file__).parents[2]
PROTOCOLS = ["linear_probe", "single", "erm", "soup_uniform"]


def small(folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of few jobs; ``held_out`` only where it is given."""
    value = recipe(folder, auxiliaries=[], protocols=PROTOCOLS, runs=2)
    del value["held_out"]
    return {**value, **changes}


def run(folder: Path, value: dict[str, Any]) -> Recycled:
    return recycle(value, folder / "out", root=folder, backend="serial", quiet=True)


def rewrite(path: Path, **arrays: Any) -> None:
    """The same arrays with some more, or with None without some."""
    stored = {**np.load(path), **arrays}
    np.savez(path, **{name: value for name, value in stored.items() if value is not None})


def accuracy(done: Recycled, task: Task, rows: np.ndarray) -> float:
    """Of the kept model, computed anew."""
    model, _ = load_model(done.model, root=ROOT)
    with torch.no_grad():
        logits = model(model.backbone.prepare(np.asarray(task.inputs)[rows]))
    return float((logits.argmax(1).numpy() == task.labels[rows]).mean())


def kept_row(done: Recycled) -> dict[str, Any]:
    wanted = done.results.to_json()["final"]["protocol"]
    row: dict[str, Any] = next(
        r for r in done.results.to_json()["table"] if r["protocol"] == wanted
    )
    return row


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [("north",), ("east",), ("south",)]),
        ({"held_out": ["south", "north"]}, [("south",), ("north",)]),
        ({"held_out": [["south", "north"]]}, [("south", "north")]),
        ({"held_out": ["east", ["south", "north"]]}, [("east",), ("south", "north")]),
        ({"train_domains": ["north"]}, [("east", "south")]),
        ({"held_out": "none"}, [()]),
        ({"held_out": None}, [()]),
    ],
)
def test_held_out_sets(tmp_path: Path, changes: dict[str, Any], expected: Any) -> None:
    checked = parse_recipe(small(tmp_path, **changes))
    assert held_out_sets(checked, DOMAINS) == expected


def test_one_domain_is_judged_on_its_own_test_rows(tmp_path: Path) -> None:
    assert held_out_sets(parse_recipe(small(tmp_path)), ["only"]) == [()]
    assert cell_name(()) == "in-distribution"
    assert cell_name(("a", "b")) == "a + b"


def test_recipes_without_new_keys_divide_as_they_did(tmp_path: Path) -> None:
    """No new argument in the split of a held-out domain: same jobs, same rows."""
    split = split_arguments(parse_recipe(small(tmp_path)), ("south",), 1)
    assert split == {"held_out": ["south"], "seed": 459611150, "validation_fraction": 0.2}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"held_out": []}, RecipeError, "name at least one domain, 'all' or 'none'"),
        ({"held_out": [[]]}, RecipeError, "name at least one domain"),
        ({"held_out": ["east", "east"]}, RecipeError, "'east' names a domain twice"),
        ({"held_out": [["east", "east"]]}, RecipeError, "names a domain twice"),
        ({"held_out": [["east", "south"], ["south", "east"]]}, RecipeError, "stands twice"),
        ({"held_out": ["east"], "train_domains": ["north"]}, RecipeError, "give one of"),
        ({"held_out": [["east", "suoth"]]}, TaskError, r"unknown domain 'suoth'.*'south'\?"),
        ({"train_domains": ["nort"]}, TaskError, r"train_domains: unknown domain 'nort'"),
        ({"train_domains": list(DOMAINS)}, RecipeError, "none is left to judge on.*held_out: none"),
        ({"held_out": [list(DOMAINS)]}, TaskError, "none is left to train on"),
        ({"unseen_groups": True}, TaskError, "unseen_groups needs the groups"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[InputError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        plan_recipe(small(tmp_path, **changes), root=tmp_path)
    assert caught.value.exit_code == 2


def test_an_auxiliary_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    write_arrays(tmp_path / "few.npz", per_domain=60)
    few = {name: array[:61] for name, array in np.load(tmp_path / "few.npz").items()}
    np.savez(tmp_path / "few.npz", **few)
    task = {"kind": "arrays", "path": "few.npz", "allow_missing_classes": True}
    value = small(tmp_path, auxiliaries=[{"name": "few", "task": task}])
    value["protocols"] = [*PROTOCOLS, "ratatouille_uniform"]
    with pytest.raises(TaskError, match="domain 'east' has 1 example to train on"):
        plan_recipe(value, root=tmp_path)


def test_several_domains_held_out_together(tmp_path: Path) -> None:
    value = small(tmp_path, held_out=[["east", "south"]], final={"protocol": "soup_uniform"})
    done = run(tmp_path, value)
    (cell,) = done.results.to_json()["cells"]
    assert (cell["held_out"], cell["judged_on"]) == ("east + south", "held-out domains")
    assert cell["held_out_domains"] == ["east", "south"]
    assert cell["examples"]["test"] == {"east": 60, "south": 60}
    assert list(cell["examples"]["train"]) == ["north"]
    task = load_task(value["task"], root=tmp_path)
    row = kept_row(done)
    for name in ("east", "south"):
        expected = accuracy(done, task, task.rows(name))
        assert row["domains"][name]["mean"] == pytest.approx(expected)
    both = [row["domains"][name]["mean"] for name in ("east", "south")]
    assert row["mean"] == pytest.approx(np.mean(both))
    assert done.results.to_json()["final"]["trained_on"] == "all domains but east, south"
    assert done.results.to_json()["final"]["why_trained_on"].startswith(
        "It was trained without east and"
    )
    again = run(tmp_path / "other", small_in(tmp_path / "other", train_domains=["north"]))
    assert plain(again.results.to_json()["table"]) == plain(done.results.to_json()["table"])


def small_in(folder: Path, **changes: Any) -> dict[str, Any]:
    folder.mkdir()
    return small(folder, final={"protocol": "soup_uniform"}, **changes)


def plain(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in table]


def test_each_domain_alone_judged_on_all_others(tmp_path: Path) -> None:
    """Cells that test the same domain have columns of their own."""
    sets = [[name for name in DOMAINS if name != train] for train in DOMAINS]
    done = run(tmp_path, small(tmp_path, held_out=sets, final={"protocol": "soup_uniform"}))
    columns = kept_row(done)["domains"]
    assert len(columns) == 6
    assert "south (held out: east + south)" in columns
    assert "south (held out: north + south)" in columns


@pytest.fixture(scope="module")
def one_source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recycled]:
    folder = tmp_path_factory.mktemp("one")
    value = small(folder, trials=2, final={"protocol": "soup_uniform"}, test_fraction=0.25)
    value["protocols"] = [*PROTOCOLS, "soup_pooled"]
    rewrite(folder / "target.npz", domains=None)
    return folder, run(folder, value)


def test_data_without_domains(one_source: tuple[Path, Recycled]) -> None:
    folder, done = one_source
    task = load_task({"kind": "arrays", "path": "target.npz"}, root=folder)
    assert task.domains == ("target",)
    results = done.results.to_json()
    assert results["task"]["judged_on"] == "test rows"
    assert [cell["held_out"] for cell in results["cells"]] == ["in-distribution"] * 2
    for cell in results["cells"]:
        assert cell["judged_on"] == "test rows"
        assert cell["examples"] == {
            "train": {"target": 108},
            "validation": {"target": 27},
            "test": {"target": 45},
        }
    checked = parse_recipe(small(folder, trials=2, test_fraction=0.25))
    rewrite(folder / "target.npz", domains=None)
    splits = [split_task(task, **split_arguments(checked, (), trial)) for trial in (0, 1)]
    assert splits[0].test["target"].tolist() == splits[1].test["target"].tolist()
    assert splits[0].train["target"].tolist() != splits[1].train["target"].tolist()
    expected = accuracy(done, task, splits[0].test["target"])
    cell = results["cells"][0]
    kept = next(one for one in cell["models"] if one["protocol"] == "soup_uniform")
    assert kept["accuracy"] == pytest.approx(expected)
    assert read_record(done.model).metrics["test_accuracy"] == pytest.approx(expected)


def test_the_words_are_about_test_rows(one_source: tuple[Path, Recycled], tmp_path: Path) -> None:
    """Nothing that a reader sees says that a domain was held out."""
    _, done = one_source
    said = headline(done.results)
    page = write_report(done.results, tmp_path / "report.html").read_text()
    shown = page[: page.index('id="results"')] if 'id="results"' in page else page
    for text in (said.words, *said.details, terminal_table(done.results), shown):
        for lie in ("never seen", "never trained on", "held-out", "held out"):
            assert lie not in text.partition('<script type="application/json"')[0], lie


def test_fixed_splits(tmp_path: Path) -> None:
    """Test rows are the file's; train_on: all does not touch them either."""
    value = small(tmp_path, held_out="none", final={"protocol": "soup_uniform", "train_on": "all"})
    splits = np.array(["train"] * 6 + ["valid"] * 2 + ["test"] * 2).repeat(1)
    rewrite(tmp_path / "target.npz", splits=np.tile(splits, 18))
    done = run(tmp_path, value)
    task = load_task(value["task"], root=tmp_path)
    assert task.splits is not None
    (cell,) = done.results.to_json()["cells"]
    for part, count in (("train", 36), ("validation", 12), ("test", 12)):
        assert cell["examples"][part] == dict.fromkeys(sorted(DOMAINS), count)
    assert done.results.to_json()["task"]["splits"] == {"train": 108, "validation": 36, "test": 36}
    expected = np.mean(
        [accuracy(done, task, rows[task.splits[rows] == 2]) for rows in map(task.rows, DOMAINS)]
    )
    assert read_record(done.model).metrics["test_accuracy"] == pytest.approx(expected)
    assert kept_row(done)["mean"] == pytest.approx(expected)
    assert done.results.to_json()["final"]["train_on"] == "all"


def test_groups_stay_whole(tmp_path: Path) -> None:
    value = small(tmp_path, held_out=["south"], unseen_groups=True, test_fraction=0.3)
    people = np.array([f"person {row % 60 // 3}" for row in range(180)])
    rewrite(tmp_path / "target.npz", groups=people)
    done = run(tmp_path, {**value, "trials": 2})
    assert done.results.to_json()["task"]["groups"] == 20
    task = load_task(value["task"], root=tmp_path)
    checked = parse_recipe(value)
    for trial, cell in enumerate(done.results.to_json()["cells"]):
        split = split_task(task, **split_arguments(checked, ("south",), trial))
        sides = [
            {people[row] for rows in part.values() for row in rows}
            for part in (split.train, split.validation, split.test)
        ]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 20
        assert cell["examples"]["test"] == {"south": 3 * len(sides[2])}


def test_a_rotation_auxiliary_never_sees_test_rows(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    spec = {"kind": "images", "path": "images", "size": 16}
    task = load_task(spec, root=tmp_path)
    data = {
        "spec": spec,
        "content": task.fingerprint,
        "limit": None,
        "seed": 3,
        "skip_corrupt": False,
    }
    whole = open_task({**data, "rotation": {"exclude": []}}, str(tmp_path), str(tmp_path / "c"))
    assert len(whole) == len(task)
    test = {"test_fraction": 0.25, "test_seed": 9}
    split = split_task(task, seed=1, **test)
    left = open_task(
        {**data, "rotation": {"exclude": [], **test}}, str(tmp_path), str(tmp_path / "c")
    )
    seen = np.sort(np.concatenate([*split.train.values(), *split.validation.values()]))
    assert len(seen) == 45
    np.testing.assert_array_equal(left.inputs, np.asarray(whole.inputs)[seen])
    value = small(
        tmp_path,
        task=spec,
        held_out="none",
        backbone={"kind": "function", "name": "tests.recycling.tiny:image_net"},
        auxiliaries=[{"name": "r", "rotation": True, "training": {"limit_per_domain": 9}}],
    )
    with pytest.raises(RecipeError, match="'r': limit_per_domain 9 is not the target's"):
        plan_recipe(value, root=tmp_path)


def test_images_from_a_table_recycle_like_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    lines = ["image,label,domain"]
    for file in sorted((tmp_path / "images").rglob("*.png")):
        domain, label, name = file.parts[-3:]
        lines.append(f"images/{domain}/{label}/{name},{label},{domain}")
    (tmp_path / "images.csv").write_text("\n".join(lines))
    tables = []
    for path in ("images", "images.csv"):
        value = small(
            tmp_path,
            task={"kind": "images", "path": path, "size": 16},
            held_out=["south"],
            backbone={"kind": "function", "name": "tests.recycling.tiny:image_net"},
        )
        done = recycle(value, tmp_path / f"out-{path}", root=tmp_path, backend="serial", quiet=True)
        tables.append(plain(done.results.to_json()["table"]))
    assert tables[0] == tables[1]


def test_a_limit_applies_to_every_part(tmp_path: Path) -> None:
    write_arrays(tmp_path / "t.npz")
    rewrite(tmp_path / "t.npz", splits=np.tile(["train"] * 40 + ["dev"] * 12 + ["test"] * 8, 3))
    value = small(tmp_path, task={"kind": "arrays", "path": "t.npz"}, held_out=["south"])
    value["training"] = {**value["training"], "limit_per_domain": 10}
    (cell,) = run(tmp_path, value).results.to_json()["cells"]
    assert cell["examples"] == {
        "train": {"east": 10, "north": 10},
        "validation": {"east": 10, "north": 10},
        "test": {"south": 8},
    }
