"""git-theta itself on real fine-tunings: ``python benchmarks/git_theta.py --bin DIR --models DIR``.

``--bin`` is the folder of the programs of an environment with git-theta (``pip install git-theta``;
it needs git-lfs on the machine), ``--models`` the fine-tunings that ``benchmarks/registry.py
storage --models DIR`` made. For each one a new repository gets the base and then the fine-tuning as
an update of one type; what ``.git`` grows by is its size. The commit is checked out again and
compared bit by bit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from stockpot.checkpoints import open_checkpoint, write_checkpoint

UPDATES = ("dense", "sparse", "low-rank")
_FILE = "model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=Path, required=True, help="folder with git-theta")
    parser.add_argument("--models", type=Path, required=True, help="folder of fine-tunings")
    parser.add_argument("--names", nargs="*", default=["a10", "a60", "sre", "hot30"])
    parser.add_argument("--types", nargs="*", default=["F32", "BF16", "F16"])
    arguments = parser.parse_args()
    print("| model | update | plain MB | git-theta | tensors back bit by bit |")
    print("|---|---|---|---|---|")
    for name in arguments.names:
        for code in arguments.types:
            for update in UPDATES:
                print(row(arguments.bin, arguments.models, name, code, update), flush=True)


def row(programs: Path, models: Path, name: str, code: str, update: str) -> str:
    base, tuned = models / f"base-{code}.safetensors", models / f"{name}-{code}.safetensors"
    plain = tuned.stat().st_size
    with tempfile.TemporaryDirectory() as scratch:
        try:
            grown, same = one_update(programs.absolute(), Path(scratch), base, tuned, update)
        except subprocess.CalledProcessError as error:
            said = [line for line in error.stderr.strip().splitlines() if "Error" in line]
            return f"| {name} {code} | {update} | {plain / 1e6:.1f} | fails: {said[-1:]} | |"
    return f"| {name} {code} | {update} | {plain / 1e6:.1f} | {grown / plain:.1%} | {same} |"


def one_update(
    programs: Path, folder: Path, base: Path, tuned: Path, update: str
) -> tuple[int, str]:
    """Bytes that ``.git`` grows by, and how many tensors come back as they were."""
    names = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "benchmark")
    names |= dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "benchmark@localhost")
    environment = {
        **os.environ,
        **names,
        "HOME": str(folder),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "GIT_THETA_CHECKPOINT_TYPE": "safetensors",
        # It insists on a file of ready updates; with none in it they are computed.
        "GIT_THETA_UPDATE_DATA_PATH": str(folder / "none.safetensors"),
    }

    def git(*words: str, **more: str) -> None:
        subprocess.run(
            ["git", *words],
            cwd=folder / "repository",
            env={**environment, **more},
            check=True,
            capture_output=True,
            text=True,
        )

    repository = folder / "repository"
    repository.mkdir()
    write_checkpoint(folder / "none.safetensors", {})
    git("init", "-q")
    git("lfs", "install")
    git("theta", "install")
    git("theta", "track", _FILE)
    # A model in a repository's first commit cannot be updated sparsely.
    git("add", "-A")
    git("commit", "-q", "-m", "start")
    sizes = []
    for source, kind in ((base, "dense"), (tuned, update)):
        shutil.copyfile(source, repository / _FILE)
        git("add", "-A", GIT_THETA_UPDATE_TYPE=kind)
        git("commit", "-q", "-m", kind, GIT_THETA_UPDATE_TYPE=kind)
        git("gc", "-q")
        sizes.append(sum(f.stat().st_size for f in (repository / ".git").rglob("*") if f.is_file()))
    (repository / _FILE).unlink()
    git("checkout", "--", _FILE)
    with open_checkpoint(repository / _FILE) as back, open_checkpoint(tuned) as own:
        same = sum(np.array_equal(_bits(back.raw(n)), _bits(own.raw(n))) for n in own.names)
        return sizes[1] - sizes[0], f"{same} of {len(own.names)}"


def _bits(stored: np.ndarray) -> np.ndarray:
    return stored.view(f"u{stored.itemsize}")


if __name__ == "__main__":
    main()
