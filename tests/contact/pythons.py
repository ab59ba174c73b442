"""Python processes with something put on their path, as a stranger's machine would have it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CUSTOM = Path(__file__).parent


def stockpot(
    words: Sequence[object],
    folder: Path,
    *,
    site: str | None = None,
    settings: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command in ``folder``; ``site``: the file beside this one that is loaded first."""
    command = ["-m", "stockpot", *map(str, words)]
    return python(command, folder, site=site, settings=settings, stdin=stdin)


def python(
    words: Sequence[str],
    folder: Path,
    *,
    site: str | None = None,
    settings: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run Python in ``folder`` with the tests and their ``sitecustomize`` on its path."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if site is not None:
        own = folder / f".site-{site}"
        own.mkdir(exist_ok=True)
        (own / "sitecustomize.py").write_text((CUSTOM / f"{site}.py").read_text())
        path.insert(0, str(own))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    environment.update(settings or {})
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
