"""The examples of "Data and splits" in docs/recipes.md divide data as the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from stockpot.recycling.cells import check_splits, held_out_sets, split_arguments
from stockpot.recycling.recipe import parse_recipe
from stockpot.tasks import load_task, split_task
from tests.tasks.builders import image_folder
from tests.tasks.test_image_files import listed

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Data and splits\n")[2].partition("\n## ")[0]
EXAMPLES = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", SECTION, re.S)]


def write(path: Path, *columns: str) -> None:
    """A table of 120 texts: labels and domains in turn, two notes a patient."""
    lines = [",".join(("text", "label", *columns))]
    for row in range(120):
        known = {
            "domain": ["north", "movies", "products", "tweets"][row // 2 % 4],
            "patient": f"p{row // 3}",
        }
        lines.append(",".join([f"note {row}", ["yes", "no"][row % 2], *map(known.get, columns)]))
    path.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder / "reviews.csv", "domain")
    write(folder / "notes.csv", "domain", "patient")
    for name in ("shop", "train", "valid", "test"):
        write(folder / f"{name}.csv")
    photos = image_folder(folder / "photos", domains=("train", "valid", "test"))
    listed(photos, folder / "photos.csv", ("image", "label"), photographer=lambda file: file.stem)
    return folder


def cells(folder: Path, example: dict[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    recipe = parse_recipe({**example, "backbone": {"kind": "timm", "name": "any"}})
    task = load_task(recipe.task, root=folder)
    check_splits(recipe, task)
    return [
        (held_out, split_task(task, **split_arguments(recipe, held_out, 0)))
        for held_out in held_out_sets(recipe, task.domains)
    ]


def sizes(split: Any) -> list[int]:
    return [sum(map(len, part.values())) for part in (split.train, split.validation, split.test)]


def test_every_example_is_a_recipe(folder: Path) -> None:
    assert len(EXAMPLES) == 7
    for example in EXAMPLES:
        assert all(min(sizes(split)) > 0 for _, split in cells(folder, example))


def test_domains_in_turn_or_together(folder: Path) -> None:
    names = [held_out for held_out, _ in cells(folder, EXAMPLES[0])]
    assert names == [("tweets",), ("movies", "products")]
    ((held_out, split),) = cells(folder, EXAMPLES[1])
    assert list(split.train) == ["movies"]
    assert set(split.test) == set(held_out) == {"north", "products", "tweets"}


def test_one_source_and_fixed_splits(folder: Path) -> None:
    ((held_out, split),) = cells(folder, EXAMPLES[2])
    assert held_out == ()
    assert sizes(split) == [72, 18, 30]
    assert sizes(cells(folder, EXAMPLES[3])[0][1]) == [120, 120, 120]
    ((_, split),) = cells(folder, EXAMPLES[4])
    assert sizes(split) == [10, 10, 10]
    assert list(split.train) == ["photos"]


def test_groups(folder: Path) -> None:
    ((held_out, split),) = cells(folder, EXAMPLES[5])
    assert held_out == ("north",)
    seen = {
        row // 3 for part in (split.train, split.validation) for r in part.values() for row in r
    }
    assert not seen & {row // 3 for row in split.test["north"]}
    ((_, split),) = cells(folder, EXAMPLES[6])
    assert sum(sizes(split)) == 30
