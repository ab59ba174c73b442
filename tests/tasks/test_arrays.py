"""Arrays in .npz files, and what must be refused about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stockpot.errors import TaskError
from stockpot.tasks import Task, load_task

GOOD = {
    "inputs": np.arange(12.0).reshape(4, 3),
    "labels": np.array([0, 1, 1, 0]),
    "domains": np.array(["lab", "field", "lab", "field"]),
}


def load(path: Path, arrays: dict, **options) -> Task:
    np.savez(path / "t.npz", **arrays)
    return load_task({"kind": "arrays", "path": "t.npz", **options}, root=path)


def test_arrays(tmp_path: Path) -> None:
    task = load(tmp_path, GOOD)
    assert (task.modality, task.kind, task.name) == ("array", "classification", "t")
    assert (task.domains, task.classes) == (("field", "lab"), ("0", "1"))
    assert task.inputs.dtype == np.float32
    np.testing.assert_array_equal(task.inputs, GOOD["inputs"])
    assert task.labels.tolist() == [0, 1, 1, 0]
    assert task.domain_ids.tolist() == [1, 0, 1, 0]


def test_choices(tmp_path: Path) -> None:
    lab = load(tmp_path, GOOD, domains=["lab"])
    np.testing.assert_array_equal(lab.inputs, GOOD["inputs"][[0, 2]])
    named = load(tmp_path, GOOD | {"classes": np.array(["no", "yes"])})
    assert named.classes == ("no", "yes")
    strings = load(tmp_path, GOOD | {"labels": np.array(["b", "a", "a", "b"])})
    assert (strings.classes, strings.labels.tolist()) == (("a", "b"), [1, 0, 0, 1])
    numbers = load(tmp_path, GOOD | {"labels": np.array([0.5, 1, 2, 3])}, target="regression")
    assert (numbers.kind, numbers.labels.tolist()) == ("regression", [0.5, 1, 2, 3])
    numbered = load(tmp_path, GOOD | {"domains": np.array([10, 9, 10, 9])})
    assert numbered.domains == ("9", "10")


def test_uint8_of_rank_four_is_images(tmp_path: Path) -> None:
    pixels = np.arange(4 * 8 * 8 * 3, dtype=np.uint16).reshape(4, 8, 8, 3).astype(np.uint8)
    pixels[:, 0, 0, 0] = range(4)
    task = load(tmp_path, GOOD | {"inputs": pixels})
    assert (task.modality, task.inputs.dtype) == ("image", np.uint8)
    assert load(tmp_path, GOOD | {"inputs": pixels[..., :1]}).modality == "array"


def test_fingerprint_follows_every_part(tmp_path: Path) -> None:
    changed = [
        GOOD,
        GOOD | {"inputs": GOOD["inputs"] + 1},
        GOOD | {"labels": 1 - GOOD["labels"]},
        GOOD | {"domains": np.array(["lab", "field", "field", "lab"])},
        GOOD | {"domains": np.array(["lab", "street", "lab", "street"])},
        GOOD | {"classes": np.array(["a", "b"])},
    ]
    prints = [load(tmp_path, arrays, allow_missing_classes=True).fingerprint for arrays in changed]
    assert len(set(prints)) == len(changed)


ROW = GOOD["inputs"].copy()
ROW[2, 1] = np.nan


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"inputs": ROW}, {}, "'inputs' row 2 is not finite"),
        ({"inputs": GOOD["inputs"] * 1e300}, {}, "'inputs' row 0 is not finite in float32"),
        ({"inputs": np.arange(4.0)}, {}, r"'inputs' has shape \(4,\)"),
        ({"inputs": np.array([["a"] * 3] * 4)}, {}, "'inputs' has shape .* dtype <U1"),
        ({"labels": np.array([0, 1, 2])}, {}, r"'labels' has shape \(3,\), expected \(4,\)"),
        ({"domains": np.array([["a"]] * 4)}, {}, r"'domains' has shape \(4, 1\)"),
        ({"labels": np.array([0, 1, -1, 0])}, {}, "'labels' row 2 is -1, outside 0 to 1"),
        (
            {"labels": np.array([0, 1, 2, 0]), "classes": np.array(["a", "b"])},
            {},
            "'labels' row 2 is 2, outside 0 to 1",
        ),
        ({"labels": np.array([0, 2, 2, 0])}, {}, "class '1' has no examples"),
        ({"labels": np.array([0.5, 1, 1, 0])}, {}, "dtype float64, expected whole.*regression"),
        (
            {"labels": np.array(["a", "b", "c", "a"]), "classes": np.array(["a", "b"])},
            {},
            "'labels' row 2: 'c' is not a class",
        ),
        ({"labels": np.array([1, np.inf, 2, 3])}, {"target": "regression"}, "row 1 is not finite"),
        ({"labels": np.array(["x"] * 4)}, {"target": "regression"}, "dtype <U1, expected numbers"),
        ({}, {"domains": ["street"]}, "no domain 'street'"),
        ({"labels": np.array([0, 1, 0, 1])}, {}, "domain 'field' has no examples of class '0'"),
    ],
)
def test_bad_arrays(tmp_path: Path, change: dict, options: dict, words: str) -> None:
    with pytest.raises(TaskError, match=words) as caught:
        load(tmp_path, GOOD | change, **options)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    spec = {"kind": "arrays", "path": "t.npz"}
    with pytest.raises(TaskError, match="no such file"):
        load_task(spec, root=tmp_path)
    (tmp_path / "t.npz").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(TaskError, match=r"not an \.npz file"):
        load_task(spec, root=tmp_path)
    with (tmp_path / "t.npz").open("wb") as handle:
        np.save(handle, np.zeros(3))
    with pytest.raises(TaskError, match="one array"):
        load_task(spec, root=tmp_path)
    np.savez(tmp_path / "t.npz", inputs=np.zeros((2, 2)), domains=np.array(["a", "b"]))
    with pytest.raises(TaskError, match="no array 'labels'; it must have 'inputs', 'labels', 'do"):
        load_task(spec, root=tmp_path)


def test_pickled_objects_are_not_read(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    np.savez(tmp_path / "t.npz", **(GOOD | {"labels": np.array([Bomb()] * 4, dtype=object)}))
    with pytest.raises(TaskError, match="plain arrays"):
        load_task({"kind": "arrays", "path": "t.npz"}, root=tmp_path)
    assert not (tmp_path / "executed").exists()
