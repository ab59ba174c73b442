"""Put the CPU build of torch into an environment, on a Linux machine without a GPU.

    .venv/bin/python tools/install_torch.py

On Linux the package index offers torch as a CUDA build of 5.5 GB; the CPU build (0.9 GB) is
somewhere else. uv knows where: ``uv pip install --torch-backend cpu``. Where a build for CPUs is
offered to pip already, by a local file or a mirror, that is taken. Where neither can be had nothing
is installed, and what comes later brings the large build, which runs on CPUs as well.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def main() -> None:
    if sys.platform != "linux" or shutil.which("nvidia-smi") or find_spec("torch"):
        return
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line.startswith(("torch==", "torchvision=="))]
    own = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    torch, vision = pins
    if _works([*own, f"{torch}+cpu", vision]):
        return
    if _works([*own, "uv"]):
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
        if _works([*uv, "--torch-backend", "cpu", *pins]):
            return
    print("no CPU build of torch can be reached: the default one of 5.5 GB is installed")


def _works(command: list[str]) -> bool:
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


if __name__ == "__main__":
    main()
