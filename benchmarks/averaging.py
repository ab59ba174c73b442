"""Average of many checkpoints against reading them: ``python benchmarks/averaging.py``.

Writes 20 safetensors files of 100 MB (float32) and compares, in turn, the time to read all bytes
with the time to average them into one file that is flushed to the disk. Warm cache; medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import stockpot
from stockpot.checkpoints import write_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [folder / f"model-{i}.safetensors" for i in range(arguments.models)]
        rng = np.random.default_rng(0)
        rows = arguments.megabytes * 10**6 // (4 * 512 * 20)
        base = {f"layer.{i}": rng.normal(size=(rows, 512)).astype(np.float32) for i in range(20)}
        for index, file in enumerate(files):
            write_checkpoint(file, {key: value + index for key, value in base.items()})
        buffer = bytearray(16 << 20)

        def read() -> None:
            for file in files:
                with file.open("rb", buffering=0) as handle:
                    while handle.readinto(buffer):
                        pass

        def average() -> None:
            output = folder / "average.safetensors"
            output.unlink(missing_ok=True)
            stockpot.merge([str(file) for file in files], output=output)

        reading, averaging = take_turns(read, average, arguments.rounds)
        total = sum(file.stat().st_size for file in files) / 1e9
    print(f"{arguments.models} models, {total:.2f} GB")
    print(f"read     {reading:.2f} s   {total / reading:.1f} GB/s")
    print(f"average  {averaging:.2f} s   {total / averaging:.1f} GB/s")
    print(f"ratio    {averaging / reading:.2f}")


def take_turns(
    first: Callable[[], None], second: Callable[[], None], rounds: int
) -> tuple[float, float]:
    """Median seconds of each, measured in turn after one round that does not count."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for call, kept in zip((first, second), times, strict=True):
            start = time.perf_counter()
            call()
            kept.append(time.perf_counter() - start)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


if __name__ == "__main__":
    main()
