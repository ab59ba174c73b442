"""Get pinned packages of the npm registry with ``npm pack``: archives, nothing installed or run."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any


def pack(name: str, version: str, integrity: str, folder: Path) -> Path:
    """The archive of ``name`` in ``folder``, downloaded once, checked against ``integrity``.

    ``integrity`` is npm's own form: ``sha512-`` and the digest in base64.
    """
    archive = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not archive.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit(f"npm is needed to get {name} {version}; install it, or put {archive}")
        folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", "--silent", "--ignore-scripts", f"{name}@{version}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not archive.is_file():
            raise SystemExit(f"npm could not get {name} {version}: {done.stderr.strip()[-300:]}")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != integrity:
        raise SystemExit(f"{archive}: not the pinned package (sha512-{digest}); remove it")
    return archive


def member(archive: Path, name: str) -> bytes:
    """The bytes of one file of the archive."""
    with tarfile.open(archive) as opened:
        source = opened.extractfile(f"package/{name}")
        if source is None:
            raise SystemExit(f"{archive}: no file {name}")
        return source.read()


def json_member(archive: Path, name: str) -> Any:
    """One JSON file of the archive."""
    return json.loads(member(archive, name))
