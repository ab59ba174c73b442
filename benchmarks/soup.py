"""What a candidate costs beyond its evaluation: ``python benchmarks/soup.py``.

Twenty models near MiniLM (the real base, differences of the size of a fine-tuning). Seconds to make
a candidate, by the ways it is handed over, and the usual way: a new folder that is loaded. Beside
them an evaluation of ``ROWS`` texts. Needs `stockpot demo --fetch-only`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from stockpot.checkpoints import open_checkpoint
from stockpot.compat import import_transformers
from stockpot.evaluators.contract import changing
from stockpot.evaluators.function import load_in_place
from stockpot.evaluators.scratch import ScratchFolder
from stockpot.files import cache_folder
from stockpot.merging import merge
from stockpot.soups.blend import Blends
from stockpot.soups.engine import SoupEngine

ROWS = 256
STEP = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    folder = cache_folder() / "assets" / "minilm"
    base = open_checkpoint(folder)
    states = [near(base, seed) for seed in range(arguments.models)]
    started = time.perf_counter()
    engine = SoupEngine([open_checkpoint(state) for state in states], base)
    print(f"differences of {arguments.models} models: {time.perf_counter() - started:.2f} s, once")
    blends = Blends([str(i) for i in range(engine.count)], len(engine.changes), has_base=True)
    draws = np.random.default_rng(0)

    def candidate():
        share = draws.dirichlet(np.ones(engine.count))
        return engine.checkpoint(blends.blend("x", "x", share))

    transformers = import_transformers()
    network = transformers.AutoModel.from_pretrained(folder).eval()
    series: list[object] = [None]

    def in_place() -> None:
        model = candidate()
        load_in_place(network, model, changing(model, series[0]))
        series[0] = model.series

    scratch = ScratchFolder()
    batch = {"input_ids": torch.randint(0, 30000, (ROWS, 48))}

    def evaluate() -> None:
        with torch.no_grad():
            network(**batch)

    def usual() -> None:
        share = draws.dirichlet(np.ones(engine.count)).tolist()
        with tempfile.TemporaryDirectory() as place:
            output = Path(place) / "model"
            merge([folder, *paths], weights=[0.0, *share], output=output, hash_parents=False)
            transformers.AutoModel.from_pretrained(output)

    with tempfile.TemporaryDirectory() as place:
        paths = [write(state, Path(place), i) for i, state in enumerate(states)]
        evaluation = timed(evaluate, arguments.repeats)
        print(f"evaluation of {ROWS} texts of 48 tokens: {evaluation:.2f} s")
        for label, work in (
            ("into a live module, in place", in_place),
            ("into the scratch folder", lambda: scratch.write(candidate())),
            ("merged into a new folder and loaded", usual),
        ):
            seconds = timed(work, arguments.repeats)
            print(f"{label}: {seconds:.3f} s, {100 * seconds / evaluation:.1f} % of the evaluation")
    scratch.close()


def near(base, seed: int) -> dict[str, np.ndarray]:
    """The base plus noise in every matrix, of ``STEP`` of its norm."""
    draws = np.random.default_rng(seed)
    state = {}
    for name in base.names:
        value = base.read(name)
        if value.dtype.kind == "f" and value.ndim > 1:
            noise = draws.standard_normal(value.shape, dtype=np.float32)
            value = value + STEP * np.float32(value.std()) * noise
        state[name] = value
    return state


def write(state: dict[str, np.ndarray], folder: Path, number: int) -> Path:
    from stockpot.checkpoints import write_checkpoint

    path = folder / f"{number}.safetensors"
    write_checkpoint(path, state)
    return path


def timed(work: Callable[[], object], repeats: int) -> float:
    """Median seconds, after one run that does not count."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
