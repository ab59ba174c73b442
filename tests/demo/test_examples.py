"""The scripts that make example data: what they choose, and what they keep apart."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from stockpot.recycling.recipe import load_recipe
from stockpot.tasks import load_task

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    path = EXAMPLES / name
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, path.stem, module)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def emoji(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("emoji_styles.py", monkeypatch)


@pytest.fixture
def auxiliaries(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("pacs/auxiliaries.py", monkeypatch)


@pytest.mark.parametrize("name", ["sentiment/recipe.yaml", "emoji_recipe.yaml"])
def test_recipes_are_valid(name: str) -> None:
    assert load_recipe(EXAMPLES / name).auxiliaries


def test_emoji_classes(emoji: ModuleType) -> None:
    subgroups = {"0": "face-smiling", "1": "cat-face", "2": "animal-bug", "3": "country-flag"}
    emojis = [
        {"hexcode": "1F600", "subgroup": 0},
        {"hexcode": "1F638", "subgroup": 1},
        {"hexcode": "1F577-FE0F", "subgroup": 2},
        {"hexcode": "1F1E6", "subgroup": 3},
        {"hexcode": "1F1E7"},
    ]
    assert emoji.class_of_emoji(emojis, subgroups) == {"1f600": "face", "1f577": "animal"}


def test_no_emoji_is_on_both_sides(emoji: ModuleType, tmp_path: Path) -> None:
    classes = {f"{name}{i}": name for name in ("animal", "face") for i in range(10)}
    test = emoji.test_codes(classes, seed=0)
    assert sorted(classes[code] for code in test) == ["animal"] * 2 + ["face"] * 2
    for style in ("noto", "twemoji"):
        for code, label in classes.items():
            path = tmp_path / "all" / style / label / f"{code}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    emoji.link_held_out(tmp_path / "all", tmp_path / "split", "noto", test)
    held_out = {path.stem for path in (tmp_path / "split" / "noto").rglob("*.png")}
    trained = {path.stem for path in (tmp_path / "split" / "twemoji").rglob("*.png")}
    assert held_out == test
    assert trained == set(classes) - test


def test_auxiliaries_are_balanced_and_leave_out_what_pacs_has(
    auxiliaries: ModuleType, tmp_path: Path
) -> None:
    labels = np.arange(400) % 10
    rows = list(auxiliaries.balanced(labels, [0, 3, 4], 30, "x", 0))
    assert np.bincount(labels[rows]).tolist() == [10, 0, 0, 10, 10]
    assert rows == list(auxiliaries.balanced(labels, [0, 3, 4], 30, "x", 0))
    sheet = io.BytesIO()
    pixels = np.random.default_rng(0).integers(256, size=(100, 1024, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(sheet, "PNG")
    files = {
        "data_batch_1.png": sheet.getvalue(),
        "train_lables.json": str([i % 10 for i in range(500)]).encode(),
    }
    archive = tmp_path / "cifar.tgz"
    pack(archive, files)
    count = auxiliaries.write(auxiliaries.cifar10(archive, 40, 0), tmp_path / "cifar10", "cifar10")
    task = load_task({"kind": "images", "path": "cifar10", "size": 32}, root=tmp_path)
    assert count == len(task) == 40
    assert "deer" in task.classes
    assert not {"dog", "horse"} & set(task.classes)
    originals = {pixels[i].tobytes() for i in range(100) if i % 10 not in (5, 7)}
    assert all(image.tobytes() in originals for image in task.inputs)


def test_letters_from_fonts(auxiliaries: ModuleType, tmp_path: Path) -> None:
    fonts = Path("/usr/share/fonts")
    if not any(auxiliaries.has_letters(path) for path in fonts.rglob("*.ttf")):
        pytest.skip("this machine has no fonts")
    made = list(auxiliaries.glyphs(fonts, 27, 32, seed=0))
    assert [letter for letter, _ in made[:2]] == ["A", "B"]
    assert made[26][0] == "A"
    assert all(np.asarray(image).std() > 5 for _, image in made)
    with pytest.raises(SystemExit, match="no font"):
        next(auxiliaries.glyphs(tmp_path, 1, 32, 0))


def pack(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as opened:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            opened.addfile(entry, io.BytesIO(data))


def test_npm_archives_are_pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    npm = script("npm_packages.py", monkeypatch)
    archive = tmp_path / "scope-name-1.0.tgz"
    pack(archive, {"a.json": b"[1]"})
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    assert npm.pack("@scope/name", "1.0", f"sha512-{digest}", tmp_path) == archive
    assert npm.json_member(archive, "a.json") == [1]
    with pytest.raises(SystemExit, match="not the pinned package"):
        npm.pack("@scope/name", "1.0", "sha512-x", tmp_path)
    monkeypatch.setattr(npm.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="npm is needed"):
        npm.pack("other", "1.0", "sha512-x", tmp_path)
