"""How long the dashboard's pages take over a registry of many models.

    python benchmarks/dashboard.py --models 10000

Models have the family tree of a busy community (every fifth is a merge of three, the others are
fine-tunings of one of the latest 400) and share their weights, which pages do not read. Times are
medians from the request to the last byte, over a real server on this machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import uvicorn

from stockpot.checkpoints import write_checkpoint
from stockpot.registry import Link, Registry, add, init_registry
from stockpot.web import ServerSettings, make_app
from stockpot.web.app import listen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        ids = make_registry(place, arguments.models)
        with listen("127.0.0.1", 0) as listener:
            config = uvicorn.Config(
                make_app(ServerSettings(str(place / "registry"))), log_level="error", lifespan="off"
            )
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            print(f"| {arguments.models} models | ms | KB |\n|---|---|---|")
            for words, path in {
                "family tree": "/",
                "search": "/?q=model-12",
                "page 100 of the table": "/?page=100",
                "the first model, ancestor of all": f"/models/{ids[0]}",
                "the last model": f"/models/{ids[-1]}",
                "form to compare": "/compare",
            }.items():
                times, size = measure(address + path, arguments.rounds)
                print(f"| {words} | {1000 * statistics.median(times):.0f} | {size / 1000:.0f} |")
            server.should_exit = True
            thread.join()


def make_registry(place: Path, count: int) -> list[str]:
    """A registry at ``place/registry``; ids of its models, oldest first."""
    draw = np.random.default_rng(0)
    weights = place / "model.safetensors"
    write_checkpoint(weights, {"layer.weight": draw.normal(size=(24, 24)).astype("f4")})
    with init_registry(place / "registry") as registry:
        first = registry.manifest(add(registry, weights, name="model-0").id)
        made = [first]
        for number in range(1, count):
            width = 3 if number % 5 == 0 else 1
            parents = {int(each) for each in draw.integers(max(0, number - 400), number, width)}
            links = tuple(
                Link(made[each].name, made[each].digest, "model", 1 / width, made[each].id)
                for each in sorted(parents)
            )
            kind = "merge" if width > 1 else "finetune"
            manifest = replace(first, name=f"model-{number}", kind=kind, parents=links)
            registry.store.write(f"models/{manifest.id}.json", [manifest.to_bytes()])
            made.append(manifest)
    Registry(place / "registry").close()  # takes them into the index
    return [manifest.id for manifest in made]


def measure(address: str, rounds: int) -> tuple[list[float], int]:
    """Seconds of each of several requests after one, and the size of the page."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with urllib.request.urlopen(address) as answer:
            size = len(answer.read())
        times.append(time.perf_counter() - start)
    return times[1:], size


if __name__ == "__main__":
    main()
