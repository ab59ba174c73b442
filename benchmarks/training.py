"""Training speed: stockpot against a plain DomainBed-style loop, in one run.

    python benchmarks/training.py [--images FOLDER] [--weights FILE] [--threads 2] [--record]

Both train EfficientNet-Lite0 with frozen BatchNorm and Adam, on the same 128-pixel images of three
domains, 32 of each per step. The plain loop reads JPEG files through one DataLoader per domain,
with the per-image transforms of DomainBed (torchvision on PIL images). Each side has its own
process; they take turns, and medians over the rounds are compared. Two settings: the whole network
trained, and only what lies above ``_blocks.11`` (the plain loop then computes the frozen blocks in
every step, stockpot once before training).

Without ``--images`` (a folder ``domain/class/file``) images are made up, without ``--weights`` the
network is random: neither changes the time of a step.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from history import record

ROOT = Path(__file__).resolve().parent.parent
BATCH, SIZE, CLASSES = 32, 128, 7
DOMAINS = ("one", "two", "three")
SETTINGS = {"whole network": None, "above _blocks.11": "_blocks.11"}


def main() -> None:
    """Run, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="per round")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/history")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        images = options.images or make_images(Path(scratch) / "images")
        for name, below in SETTINGS.items():
            place = Path(scratch) / name.replace(" ", "-")
            results.append(compare(name, below, images, place, options))
    if options.record:
        ratios = {row["setting"]: row["ratio"] for row in results}
        record("training", "times as many images a second as a plain loop", ratios)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(f"images per second, {options.threads} threads, medians of {options.rounds} rounds")
    for row in results:
        print(
            f"{row['setting']:18} plain loop {row['plain']:6.1f}   stockpot {row['stockpot']:6.1f}"
            f"   {row['ratio']:.1f} x   (once before: {row['preparation_seconds']:.0f} s)"
        )


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    pass


def compare(
    name: str, below: str | None, images: Path, scratch: Path, options: Any
) -> dict[str, Any]:
    """Both sides in turns; samples per second of each round."""
    context = multiprocessing.get_context("spawn")
    sides: dict[str, Connection] = {}
    processes, preparation = [], {}
    for side, worker in (("plain", plain_loop), ("stockpot", stockpot_loop)):
        ours, theirs = context.Pipe()
        arguments = (theirs, str(images), below, str(options.weights or ""), str(scratch))
        process = context.Process(target=worker, args=(*arguments, options.threads))
        process.start()
        theirs.close()  # so that a side that fails is noticed and not waited for
        processes.append(process)
        sides[side], preparation[side] = ours, ours.recv()
    speeds: dict[str, list[float]] = {"plain": [], "stockpot": []}
    for _ in range(options.rounds):
        for side, pipe in sides.items():
            pipe.send(options.steps)
            speeds[side].append(BATCH * len(DOMAINS) * options.steps / pipe.recv())
    for pipe in sides.values():
        pipe.send(0)
    for process in processes:
        process.join()
    medians = {side: statistics.median(values) for side, values in speeds.items()}
    return {
        "setting": name,
        **medians,
        "ratio": medians["stockpot"] / medians["plain"],
        "preparation_seconds": preparation["stockpot"],
        "rounds": speeds,
    }


def answer(pipe: Connection, prepared: float, step: Callable[[], object]) -> None:
    """Warm up, then time as many steps as are asked for, until none are."""
    step()
    step()
    pipe.send(prepared)
    while count := pipe.recv():
        begun = time.perf_counter()
        for _ in range(count):
            step()
        pipe.send(time.perf_counter() - begun)


def stockpot_loop(
    pipe: Connection, images: str, below: str | None, weights: str, scratch: str, threads: int
) -> None:
    """The library as a recipe uses it."""
    import torch

    from stockpot.backbones import BackboneSpec, load_backbone
    from stockpot.tasks import load_task, parse_task_spec, split_task
    from stockpot.training import HyperParameters, Model, Trainer, build_feed

    torch.set_num_threads(threads)
    begun = time.perf_counter()
    spec = parse_task_spec({"kind": "images", "path": images, "size": SIZE})
    task = load_task(spec, cache=Path(scratch) / "decoded")
    task_domains = task.domains[: len(DOMAINS)]
    backbone = load_backbone(
        BackboneSpec(
            kind="function",
            name=str(ROOT / "examples/pacs/lite0.py") + ":efficientnet_lite0",
            weights=weights or None,
            image_size=SIZE,
            freeze_below=below,
        )
    )
    feed = build_feed(task, backbone, folder=Path(scratch) / "cache", views=2)
    prepared = time.perf_counter() - begun
    train = split_task(task, held_out=list(task.domains[len(task_domains) :])).train
    settings = HyperParameters(steps=10**6, evaluate_every=10**6, batch_size=BATCH)
    model = Model(backbone, max(len(task.classes), CLASSES))
    trainer = Trainer(model, feed, task.labels, train, {}, settings, seed=0, kind=task.kind)
    answer(pipe, prepared, lambda: trainer.advance(1))


def plain_loop(
    pipe: Connection, images: str, below: str | None, weights: str, scratch: str, threads: int
) -> None:
    """The usual loop: files, PIL, torchvision, DataLoader, contiguous tensors, float32."""
    import torch
    from PIL import Image
    from torch import nn

    from stockpot.compat import ensure_torchvision

    ensure_torchvision()
    from torchvision import transforms

    torch.set_num_threads(threads)
    sys.path.insert(0, str(ROOT / "examples" / "pacs"))
    from lite0 import efficientnet_lite0

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, scale=(0.7, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.3, 0.3, 0.3, 0.3),
            transforms.RandomGrayscale(),
            transforms.ToTensor(),
            transforms.Normalize((127 / 255,) * 3, (128 / 255,) * 3),
        ]
    )

    class Files(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self, domain: Path) -> None:
            classes = sorted(path for path in domain.iterdir() if path.is_dir())
            self.items = [(f, i) for i, c in enumerate(classes) for f in sorted(c.iterdir())]

        def __len__(self) -> int:
            return len(self.items)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            path, label = self.items[index]
            with Image.open(path) as image:
                return transform(image.convert("RGB")), label

    def forever(domain: Path) -> Iterator[Any]:
        files = Files(domain)
        sampler = torch.utils.data.RandomSampler(files, replacement=True, num_samples=10**7)
        return iter(
            torch.utils.data.DataLoader(
                files, BATCH, sampler=sampler, num_workers=1, multiprocessing_context="fork"
            )
        )

    domains = sorted(path for path in Path(images).iterdir() if path.is_dir())[: len(DOMAINS)]
    loaders = [forever(domain) for domain in domains]
    network = efficientnet_lite0()
    model = nn.Sequential(network, nn.Linear(1280, CLASSES))
    model.train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    if below is not None:
        first = int(below.rpartition(".")[2])
        for part in (network._conv_stem, network._bn0, *list(network._blocks)[:first]):
            part.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=5e-5)

    def step() -> None:
        batches = [next(loader) for loader in loaders]
        x = torch.cat([images for images, _ in batches])
        y = torch.cat([labels for _, labels in batches])
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    answer(pipe, 0.0, step)


def make_images(folder: Path, per_class: int = 24) -> Path:
    """Smooth random JPEG images, ``domain/class/file``."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for domain in DOMAINS:
        for label in range(CLASSES):
            place = folder / domain / f"class{label}"
            place.mkdir(parents=True)
            for index in range(per_class):
                small = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
                small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(place / f"{index}.jpg")
    return folder


if __name__ == "__main__":
    main()
