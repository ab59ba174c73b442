"""Images of a table, of one domain, and in folders of splits."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockpot.errors import TaskError
from stockpot.tasks import Task
from tests.tasks.builders import image_folder, picture
from tests.tasks.test_images import load

NAMES = ("image", "label", "domain", "split", "who")


def listed(root: Path, path: Path, columns: tuple[str, ...] = NAMES[:3], **extra: Any) -> Path:
    """A table beside ``root`` of all its images, in the order of the folders."""
    rows = []
    for file in sorted(root.rglob("*.png")):
        domain, label, _ = file.relative_to(root).parts[-3:]
        known = {"image": str(file.relative_to(path.parent)), "label": label, "domain": domain}
        rows.append({**known, **{name: make(file) for name, make in extra.items()}})
    if path.suffix == ".csv":
        with path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, [*columns, *extra], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


def same(one: Task, other: Task) -> None:
    np.testing.assert_array_equal(one.inputs, other.inputs)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.domain_ids, other.domain_ids)
    assert (one.domains, one.classes) == (other.domains, other.classes)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_images_of_a_table_are_those_of_the_folders(tmp_path: Path, ending: str) -> None:
    root = image_folder(tmp_path / "set")
    whole = load(root)
    found = load(listed(root, tmp_path / f"t.{ending}"), cache=tmp_path / "cache")
    same(found, whole)
    assert (found.name, found.fingerprint) == ("t", whole.fingerprint)
    chosen = load(tmp_path / f"t.{ending}", domains=["sketch", "art"])
    same(chosen, load(root, domains=["sketch", "art"]))


def test_columns_of_a_table(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", domains=("art",), each=6)
    part = {"0": "train", "1": "train", "2": "train", "3": "train", "4": "dev", "5": "test"}
    table = listed(
        root,
        tmp_path / "t.csv",
        NAMES[:2],
        split=lambda file: part[file.stem],
        who=lambda file: file.stem,
    )
    found = load(table, group="who")
    assert found.domains == ("t",)
    assert found.splits is not None
    assert found.groups is not None
    assert found.splits.tolist() == [0, 0, 0, 0, 1, 2] * 2
    assert found.groups.tolist() == list("012345") * 2
    (root / "art" / "cat" / "3.png").write_bytes(b"no image")
    with pytest.raises(TaskError, match=r"1 corrupt image: .*t\.csv, line 5: set/art/cat/3\.png"):
        load(table)
    kept = load(table, group="who", skip_corrupt=True)
    assert kept.splits is not None
    assert kept.splits.tolist() == [0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 2]
    (root / "art" / "dog" / "5.png").unlink()
    with pytest.raises(TaskError, match=r"no such image: .*t\.csv, line 13: set/art/dog/5\.png"):
        load(table)


def test_bad_tables(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", each=1)
    table = listed(root, tmp_path / "t.csv")
    with pytest.raises(TaskError, match=r"line 2: no column 'file'; the columns are 'image'"):
        load(table, image="file")
    with pytest.raises(TaskError, match="must all be folders, or all be tables"):
        load(table, test="set")
    with pytest.raises(TaskError, match=r"set is a folder of images; 'group: who' names a column"):
        load(root, group="who")
    same_file = "image,label,split\nset/art/cat/0.png,cat,{}\nset/art/cat/0.png,{},{}\n"
    more = "set/art/dog/0.png,dog,train\n"
    (tmp_path / "u.csv").write_text(same_file.format("train", "dog", "train") + more)
    with pytest.raises(TaskError, match=r"line 2: \S+ \(train/u/cat\) and .*\(train/u/dog\)"):
        load(tmp_path / "u.csv")
    (tmp_path / "u.csv").write_text(same_file.format("train", "cat", "test") + more)
    with pytest.raises(TaskError, match=r"line 2: \S+ \(train/u/cat\) and .*\(test/u/cat\)"):
        load(tmp_path / "u.csv")


def test_folders_of_classes_are_one_domain(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", domains=("art",))
    found = load(root / "art")
    assert (found.domains, found.classes) == (("art",), ("cat", "dog"))
    assert len(found) == 10
    vehicles = image_folder(tmp_path / "v", domains=("a",), classes=("bus", "train")) / "a"
    assert load(vehicles).classes == ("bus", "train")
    assert load(tmp_path / "v").classes == ("bus", "train")


def test_folders_of_splits_are_no_domains(tmp_path: Path) -> None:
    """Split/class, split/domain/class and domain/split/class."""
    flat = image_folder(tmp_path / "flat", domains=("train", "valid", "test"))
    found = load(flat)
    assert (found.domains, found.classes) == (("flat",), ("cat", "dog"))
    assert found.splits is not None
    assert np.bincount(found.splits).tolist() == [10, 10, 10]
    whole = load(flat, split=None)
    assert whole.domains == ("test", "train", "valid")
    assert whole.splits is None

    deep = tmp_path / "deep"
    other = tmp_path / "other"
    for number, part in enumerate(("train", "test")):
        for d, domain in enumerate(("art", "photo")):
            for c, label in enumerate(("cat", "dog")):
                for place in (deep / part / domain / label, other / domain / part / label):
                    place.mkdir(parents=True)
                    picture(1000 * number + 100 * d + c).save(place / "0.png")
    for task in (load(deep), load(other)):
        assert task.domains == ("art", "photo")
        assert task.splits is not None
        assert task.counts() == {"art": 4, "photo": 4}
        assert np.bincount(task.splits).tolist() == [4, 0, 4]
    assert load(deep, domains=["photo"]).counts() == {"photo": 4}


def test_files_of_their_own(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "sets", domains=("train", "valid", "test"))
    apart = load(root / "train", validation="valid", test="test")
    whole = load(root)
    np.testing.assert_array_equal(apart.inputs, whole.inputs)
    assert apart.splits is not None
    assert whole.splits is not None
    assert apart.splits.tolist() == whole.splits.tolist()
    with pytest.raises(TaskError, match="splits are fixed twice"):
        load(root, validation="sets")


def test_splits_beside_domains_are_refused(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", domains=("art", "test"))
    with pytest.raises(TaskError, match=r"'test' are names of splits, 'art' are not.*split: null"):
        load(root)
    assert load(root, split=None).domains == ("art", "test")
    mixed = image_folder(tmp_path / "mixed" / "art", domains=("train", "test")).parent
    image_folder(mixed, domains=("photo",), each=3)
    with pytest.raises(TaskError, match="domain 'photo' has no folders of splits"):
        load(mixed, duplicates="keep")
