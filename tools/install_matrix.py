"""Fresh environments, one for each extra: do README's commands for it work in them?

    python tools/install_matrix.py                        # newest packages, this Python
    python tools/install_matrix.py --lowest light web     # the lowest versions allowed
    python tools/install_matrix.py --python python3.12 --python python3.13 light registry
    python tools/install_matrix.py --package dist/*.whl light            # what will be released

Installs with uv where it is on the path, else with pip; the lowest versions need uv. torch comes as
constraints.txt says, which is a CPU build where one is offered. Nothing outside a temporary folder
is written. Exit code 1 where something failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIGHT = """
    inspect a b --base base
    merge --method stock --base base a b -o merged
    merge --list-methods
    recycle recipe.yaml -o refused
    doctor --json
    rank -h
"""
REGISTRY = """
    registry init
    registry add base --line main
    registry add a --parent base
    registry checkout a -o again
    registry verify
    contribute b --line main
"""
TORCH = """
    recycle recipe.yaml -o recycled -j 2
    tangent train recipe-tangent.yaml -o tangent
    tangent forget recipe-tangent.yaml tangent north --retrain
"""
RANK = """
    rank task.yaml --zoo zoo.yaml -o ranked
    history add store.db m t 0.5
    history show store.db
"""
COMMANDS = {
    "light": LIGHT,
    "registry": REGISTRY,
    "web": "serve --token-file short",
    "soup": "soup a b --base base --evaluate eval.yaml --budget 12 -o souped",
    "data": "history add store.db one t 0.5",
    "torch": TORCH,
    "text": TORCH,
    "vision": TORCH + "recycle images.yaml -o pictures -j 2",
    "rank": TORCH + RANK,
}
"""What has to work with an extra, besides what works without."""

EXPECTED = {"recycle recipe.yaml -o refused": 2, "serve --token-file short": 2}
"""Exit codes other than 0: what is refused, and in one line."""

WORLD = """
import json, numpy as np, sys
from pathlib import Path
from stockpot.checkpoints import write_checkpoint
rng = np.random.default_rng(0)
base = {"layer.weight": rng.normal(size=(64, 32)).astype(np.float32)}
for name, scale in (("base", 0), ("a", 1e-3), ("b", 1e-3)):
    moved = base["layer.weight"] + np.float32(scale) * rng.normal(size=(64, 32)).astype(np.float32)
    write_checkpoint(Path(name) / "model.safetensors", {"layer.weight": moved})
labels, domains = rng.integers(0, 3, 120), np.array(["north", "east", "south"])[np.arange(120) % 3]
inputs = rng.normal(size=(120, 5)).astype(np.float32)
inputs[np.arange(120), labels] += 2
np.savez("data.npz", inputs=inputs, labels=labels, domains=domains)
Path("net.py").write_text('''
from torch import manual_seed, nn
def net(seed=0):
    manual_seed(seed)
    layers = nn.Sequential(nn.Linear(5, 12), nn.Tanh())
    layers.feature_dim, layers.input_shape = 12, (5,)
    return layers
''')
Path("score.py").write_text('''
import json, sys
from stockpot.checkpoints import open_checkpoint
with open_checkpoint(sys.argv[1]) as model:
    weights = model.read("layer.weight")
print(json.dumps({"scores": weights[:, 0].tolist()}))
''')
Path("eval.yaml").write_text(json.dumps({"command": f"{sys.executable} score.py {{model}}"}))
Path("short").write_text("short\\n")
Path("short").chmod(0o600)
task = {"kind": "arrays", "path": "data.npz"}
net = {"kind": "function", "name": "net.py:net"}
quick = {"steps": 4, "batch_size": 8, "evaluate_every": 2, "learning_rate": 0.01}
files = {
    "recipe": {"task": task, "backbone": net, "training": quick, "runs": 2, "held_out": ["north"]},
    "recipe-tangent": {"task": task, "backbone": net},
    "task": {"task": task, "sample": {"first": 40, "most": 40}, "training": {"steps": 2}},
    "zoo": {"models": [{**net, "id": f"m{i}", "options": {"seed": i}} for i in range(2)]},
    "images": {
        "task": {"kind": "images", "path": "images", "size": 32}, "runs": 2, "training": quick,
        "held_out": ["north"],
        "backbone": {"kind": "timm", "name": "resnet10t", "weights": "resnet.safetensors"},
    },
}
for name, value in files.items():
    Path(f"{name}.yaml").write_text(json.dumps(value))
"""

PICTURES = """
import numpy as np
from stockpot.compat import ensure_torchvision
ensure_torchvision()
import timm
from pathlib import Path
from PIL import Image
from safetensors.torch import save_file
save_file(timm.create_model("resnet10t", num_classes=0).state_dict(), "resnet.safetensors")
rng = np.random.default_rng(0)
for domain in ("north", "east"):
    for kind, light in (("dark", 0), ("bright", 100)):
        folder = Path("images") / domain / kind
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(light, light + 100, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("extras", nargs="*", help=f"{', '.join(COMMANDS)} [default: all]")
    parser.add_argument("--python", action="append", help="repeatable [default: this one]")
    parser.add_argument("--lowest", action="store_true", help="lowest versions that are allowed")
    parser.add_argument("--package", type=Path, default=ROOT, help="a wheel [default: the source]")
    arguments = parser.parse_args()
    if unknown := set(arguments.extras) - set(COMMANDS):
        parser.error(f"no extra {', '.join(sorted(unknown))}; there are {', '.join(COMMANDS)}")
    failures, source = 0, arguments.package.resolve()
    for python in arguments.python or [sys.executable]:
        for extra in arguments.extras or COMMANDS:
            with tempfile.TemporaryDirectory(prefix="stockpot-install-") as scratch:
                begun = time.monotonic()
                problem = check(Path(scratch), python, extra, source, lowest=arguments.lowest)
            failures += problem is not None
            versions = "lowest" if arguments.lowest else "newest"
            result = "ok" if problem is None else f"FAILED {problem}"
            seconds = time.monotonic() - begun
            print(f"{python} {extra} {versions}: {result} ({seconds:.0f} s)", flush=True)
    return int(failures > 0)


def check(scratch: Path, python: str, extra: str, source: Path, *, lowest: bool) -> str | None:
    """Install and run everything; what went wrong first, None where nothing did."""
    home, world = scratch / "venv", scratch / "world"
    world.mkdir()
    for command in installation(home, python, extra, source, lowest=lowest):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{' '.join(command)}\n{done.stderr}"
    binaries = home / ("Scripts" if os.name == "nt" else "bin")
    programs = [WORLD, PICTURES] if extra == "vision" else [WORLD]
    lines = [line.strip() for name in ("light", extra) for line in COMMANDS[name].splitlines()]
    if extra in ("torch", "text", "vision", "rank"):
        lines = [line for line in lines if line not in EXPECTED]
    everything = [[str(binaries / "python"), "-c", program] for program in programs]
    everything += [[str(binaries / "stockpot"), *line.split()] for line in dict.fromkeys(lines)]
    for command in everything:
        if len(command) == 1:  # an empty line
            continue
        done = subprocess.run(command, cwd=world, capture_output=True, text=True, check=False)
        expected = EXPECTED.get(" ".join(command[1:]), 0)
        if done.returncode != expected or "Traceback" in done.stderr:
            return f"{' '.join(command[1:])} ended with {done.returncode}\n{done.stderr}"
    return None


def installation(
    home: Path, python: str, extra: str, source: Path, *, lowest: bool
) -> list[list[str]]:
    """The commands that make an environment with stockpot (``source``) and one extra."""
    package = str(source) if extra == "light" else f"{source}[{extra}]"
    uv = shutil.which("uv")
    if uv is None:
        if lowest:
            raise SystemExit("the lowest versions need uv on the path: pip install uv")
        pip = [python, "-m", "pip", "--python", str(home), "install", "--quiet"]
        constraints = ["-c", str(ROOT / "constraints.txt")]
        return [[python, "-m", "venv", str(home)], [*pip, *constraints, package]]
    how = ["--resolution", "lowest-direct"] if lowest else ["-c", str(ROOT / "constraints.txt")]
    return [
        [uv, "venv", "--quiet", "--python", python, str(home)],
        [uv, "pip", "install", "--quiet", "--python", str(home), *how, package],
    ]


if __name__ == "__main__":
    sys.exit(main())
