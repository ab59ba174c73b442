"""The one door: rotation tasks, tasks from functions, data sets of Hugging Face, parsing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stockpot.errors import TaskError
from stockpot.tasks import load_task, parse_task_spec, rotation_task, take
from stockpot.tasks.specs import TextSpec
from tests.tasks.builders import image_folder, picture


def images(tmp_path: Path):
    root = tmp_path / "set"
    if not root.exists():
        image_folder(root)
    return load_task({"kind": "images", "path": str(root), "size": 8})


def test_rotation_turns_each_image_by_its_label(tmp_path: Path) -> None:
    task = images(tmp_path)
    turned = rotation_task(task, domains=["art", "sketch"])
    assert turned.domains == ("art", "sketch")
    assert turned.classes == ("0", "90", "180", "270")
    rows = np.concatenate([task.rows("art"), task.rows("sketch")])
    assert len(turned) == len(rows)
    for row, image, label in zip(rows, turned.inputs, turned.labels, strict=True):
        np.testing.assert_array_equal(np.rot90(image, -label), task.inputs[row])
    assert set(turned.labels.tolist()) == {0, 1, 2, 3}


def test_rotation_depends_on_seed_and_domain(tmp_path: Path) -> None:
    task = images(tmp_path)
    both, one = rotation_task(task), rotation_task(task, domains=["sketch"])
    np.testing.assert_array_equal(both.labels[both.rows("sketch")], one.labels)
    assert rotation_task(task, seed=1).fingerprint != both.fingerprint
    cached = rotation_task(task, cache=tmp_path / "cache")
    again = rotation_task(task, cache=tmp_path / "cache")
    assert isinstance(again.inputs, np.memmap)
    np.testing.assert_array_equal(cached.inputs, both.inputs)


def test_rotation_from_a_spec(tmp_path: Path) -> None:
    task = images(tmp_path)
    made = load_task({"kind": "rotation", "domains": ["art"]}, target=task, seed=2)
    assert made.fingerprint == rotation_task(task, domains=["art"], seed=2).fingerprint
    source = {"kind": "images", "path": "set", "size": 8}
    other = load_task({"kind": "rotation", "source": source, "name": "r"}, root=tmp_path)
    assert (other.name, len(other)) == ("r", 30)
    with pytest.raises(TaskError, match="needs images"):
        load_task({"kind": "rotation"})
    with pytest.raises(TaskError, match="no domain 'x'"):
        rotation_task(task, domains=["x"])


def test_rotation_needs_square_images(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 6, 3), dtype=np.uint8)
    arrays = {"labels": np.array([0, 1, 0, 1]), "domains": np.array(["a", "a", "b", "b"])}
    np.savez(tmp_path / "t.npz", inputs=pixels, **arrays)
    spec = {"kind": "arrays", "path": "t.npz", "duplicates": "keep"}
    with pytest.raises(TaskError, match=r"square images, got \(8, 6\)"):
        rotation_task(load_task(spec, root=tmp_path))
    np.savez(tmp_path / "t.npz", inputs=np.zeros((4, 3)), **arrays)
    with pytest.raises(TaskError, match="needs images, it has array inputs"):
        rotation_task(load_task(spec, root=tmp_path))


SOURCE = """
import numpy as np
from stockpot.tasks import build_task

def texts(count=2, word="a"):
    return build_task(
        name="made", kind="classification", modality="text", domains=["x", "y"],
        classes=["even", "odd"], inputs=[word] * 4 * count, where="made", fingerprint="0",
        labels=np.arange(4 * count) % 2, domain_ids=np.repeat([0, 1], 2 * count),
    )

def nothing():
    return 3

VALUE = 1
"""


def test_function_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(SOURCE)
    spec = {"kind": "function", "function": "data.py:texts", "arguments": {"word": "b"}}
    task = load_task(spec, root=tmp_path)
    assert (task.name, task.inputs) == ("made", ["b"] * 8)
    assert load_task({**spec, "name": "mine", "domains": ["y"]}, root=tmp_path).counts() == {"y": 4}


def test_function_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_user_data.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(load_task({"kind": "function", "function": "some_user_data:texts"})) == 8


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        ("data.py:nothing", {}, "returned int, expected stockpot.tasks.Task"),
        ("data.py:absent", {}, "'data.py' has no function 'absent'"),
        ("data.py:VALUE", {}, "has no function 'VALUE'"),
        ("data.py:texts", {"size": 3}, "unexpected keyword argument 'size'"),
        ("missing.py:texts", {}, "missing.py"),
        ("no.such.package:texts", {}, "No module named 'no'"),
    ],
)
def test_bad_functions(tmp_path: Path, function: str, arguments: dict, words: str) -> None:
    (tmp_path / "data.py").write_text(SOURCE)
    spec = {"kind": "function", "function": function, "arguments": arguments}
    with pytest.raises(TaskError, match=words):
        load_task(spec, root=tmp_path)


def test_parsing() -> None:
    spec = parse_task_spec({"kind": "text", "path": "a.csv"})
    assert spec == TextSpec(path="a.csv")
    assert parse_task_spec(spec.model_dump(mode="json")) == spec
    with pytest.raises(TaskError, match="task: Unable to extract tag using discriminator 'kind'"):
        parse_task_spec({"path": "a.csv"})
    with pytest.raises(TaskError, match=r"text\.path: Field required; text\.margin: Input should"):
        parse_task_spec({"kind": "text", "margin": -1})


def test_take_keeps_the_kind() -> None:
    assert take(["a", "b", "c"], np.array([2, 0])) == ["c", "a"]
    np.testing.assert_array_equal(take(np.arange(3), np.array([2, 0])), [2, 0])


class TestDatasets:
    """Hugging Face data sets; an extra."""

    @pytest.fixture(autouse=True)
    def _datasets(self) -> None:
        self.library = pytest.importorskip("datasets")

    def save(self, folder: Path, columns: dict, features=None, split: str | None = None) -> dict:
        data = self.library.Dataset.from_dict(columns, features=features)
        if split:
            data = self.library.DatasetDict({split: data})
        data.save_to_disk(str(folder / "data"))
        return {"kind": "datasets", "path": "data"}

    TEXTS = {  # noqa: RUF012
        "text": ["a", "b", "c", "d"],
        "label": [0, 1, 1, 0],
        "domain": ["x", "x", "y", "y"],
    }

    def test_text_with_class_names(self, tmp_path: Path) -> None:
        features = self.library.Features(
            text=self.library.Value("string"),
            label=self.library.ClassLabel(names=["no", "yes"]),
            domain=self.library.ClassLabel(names=["web", "print"]),
        )
        columns = self.TEXTS | {"domain": [1, 1, 0, 0]}
        spec = self.save(tmp_path, columns, features, split="train")
        task = load_task(spec, root=tmp_path)
        assert (task.classes, task.domains) == (("no", "yes"), ("print", "web"))
        assert (task.inputs, task.labels.tolist()) == (["a", "b", "c", "d"], [0, 1, 1, 0])
        assert task.domain_ids.tolist() == [0, 0, 1, 1]
        assert load_task({**spec, "domains": ["web"]}, root=tmp_path).inputs == ["c", "d"]
        with pytest.raises(TaskError, match="split 'test': no such split; it has 'train'"):
            load_task({**spec, "split": "test"}, root=tmp_path)

    def test_regression_and_one_domain(self, tmp_path: Path) -> None:
        spec = self.save(tmp_path, self.TEXTS | {"label": [0.5, 1, 2, 3]})
        task = load_task({**spec, "target": "regression", "domain": None}, root=tmp_path)
        assert (task.kind, task.domains, task.labels[0]) == ("regression", ("data",), 0.5)

    def test_images(self, tmp_path: Path) -> None:
        pictures = [picture(i) for i in range(4)]
        features = self.library.Features(
            image=self.library.Image(),
            label=self.library.Value("int64"),
            domain=self.library.Value("string"),
        )
        columns = {"image": pictures, "label": [0, 1, 1, 0], "domain": self.TEXTS["domain"]}
        spec = self.save(tmp_path, columns, features) | {"input": "image", "size": 8}
        task = load_task(spec, root=tmp_path)
        assert task.inputs.shape == (4, 8, 8, 3)
        np.testing.assert_array_equal(task.inputs[1], np.asarray(pictures[1].resize((8, 8), 2)))
        columns["image"] = [{"bytes": b"no image", "path": None}, *pictures[1:]]
        self.save(tmp_path / "bad", columns, features)
        with pytest.raises(TaskError, match="1 corrupt image: data set data, split 'train', row 0"):
            load_task(spec, root=tmp_path / "bad")
        kept = load_task(
            spec | {"allow_missing_classes": True}, root=tmp_path / "bad", skip_corrupt=True
        )
        assert (len(kept), len(kept.skipped), kept.labels.tolist()) == (3, 1, [1, 1, 0])

    def test_refusals(self, tmp_path: Path) -> None:
        spec = self.save(tmp_path, self.TEXTS | {"text": ["a", " ", "c", "d"]})
        with pytest.raises(TaskError, match="row 1: column 'text' holds no text"):
            load_task(spec, root=tmp_path)
        with pytest.raises(TaskError, match="no column 'stars'; it has 'text', 'label'"):
            load_task({**spec, "label": "stars"}, root=tmp_path)
        with pytest.raises(TaskError, match="no domain 'z'"):
            load_task({**spec, "domains": ["z"]}, root=tmp_path)
        (tmp_path / "plain").mkdir()
        with pytest.raises(TaskError, match="data set plain, split 'train': "):
            load_task({**spec, "path": "plain"}, root=tmp_path)
