"""Jobs on a Ray cluster: overhead of a job, throughput of 1, 2 and 3 workers, sleeping and merging.

    python benchmarks/many_machines.py [--sizes 1 2 3] [--megabytes 1000] [--json FILE]

Each cluster has one processor per node and lives on this machine, so that a node is a process, and
real merges share one disk and the machine's cores; sleeping jobs show what scheduling costs alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from stockpot.checkpoints import write_checkpoint
from stockpot.execution import Job, Local, Ray, Serial, run_jobs
from stockpot.merging.distributed import merge_with
from stockpot.merging.job import Spec
from stockpot.merging.merge import run_merge

SECONDS = 1.0
JOBS = 12
TRIVIAL = 300


def rest(out: Path, inputs: dict[str, Path], *, number: int, seconds: float) -> None:
    """A job that does nothing for a while."""
    time.sleep(seconds)
    (out / "number").write_text(str(number))


def timed(jobs: list[Job], backend) -> float:
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        run_jobs(jobs, Path(folder), backend)
        return time.perf_counter() - begun


def resting(count: int, seconds: float) -> list[Job]:
    module = Path(__file__).stem
    return [Job(f"{module}:rest", {"number": i, "seconds": seconds}) for i in range(count)]


@contextmanager
def nodes(count: int):
    """A cluster of ``count`` nodes with one processor each."""
    import ray
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 80_000_000}
    begun = time.perf_counter()
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    for _ in range(count - 1):
        cluster.add_node(**size)
    cluster.wait_for_nodes()
    ray.init(cluster.address, log_to_driver=False, logging_level="error")
    try:
        yield time.perf_counter() - begun
    finally:
        ray.shutdown()
        cluster.shutdown()


def parents(folder: Path, megabytes: int) -> list[Path]:
    """A base and three models, bfloat16 bits of 4 MB tensors."""
    rng = np.random.default_rng(0)
    base = {
        f"layers.{i}.weight": rng.standard_normal((1024, 2048)).astype(np.float32)
        for i in range(megabytes // 4)
    }
    paths = []
    for number in range(4):
        path = folder / f"model{number}.safetensors"
        state = base
        if number:
            noise = rng.standard_normal((1024, 2048)).astype(np.float32) * 0.01
            state = {name: value + noise for name, value in base.items()}
        write_checkpoint(path, state, dtypes=dict.fromkeys(state, "BF16"))
        paths.append(path)
    return paths


def merging(spec: Spec, folder: Path, backend, megabytes: int) -> float:
    output = folder / "out.safetensors"
    begun = time.perf_counter()
    if backend is None:
        run_merge(spec, output)
    else:
        merge_with(backend, spec, output, part=64_000_000)
    seconds = time.perf_counter() - begun
    output.unlink()
    return megabytes / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)

    rows = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        folder = Path(name)
        base, *models = parents(folder, arguments.megabytes)
        spec = Spec(models, "ties", base)

        def measure(words: str, make, start: float | None = None) -> None:
            timed(resting(make().workers if make().workers < 10 else 3, 0.0), make())  # warm up
            few = timed(resting(TRIVIAL, 0.0), make())
            slow = timed(resting(JOBS, SECONDS), make())
            row = {
                "backend": words,
                "start_s": start,
                "per_job_ms": 1000 * few / TRIVIAL,
                "jobs_per_s": JOBS / slow,
                "merge_MB_per_s": merging(spec, folder, make(), arguments.megabytes),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)

        merging(spec, folder, None, arguments.megabytes)
        threads = merging(spec, folder, None, arguments.megabytes)
        print(f"merge in this process: {threads:.0f} MB/s of output", flush=True)
        measure("serial", Serial)
        measure("local, 2", lambda: Local(2))
        for count in arguments.sizes:
            with nodes(count) as start:
                measure(f"ray, {count} nodes", Ray, start)

    print(f"\n| backend | start | each of {TRIVIAL} empty jobs | jobs of 1 s per s | merge |")
    print("|---|---|---|---|---|")
    for row in rows:
        start = "" if row["start_s"] is None else f"{row['start_s']:.1f} s"
        print(
            f"| {row['backend']} | {start} | {row['per_job_ms']:.1f} ms | {row['jobs_per_s']:.2f} "
            f"| {row['merge_MB_per_s']:.0f} MB/s |"
        )
    if arguments.json:
        found = {"merge_in_one_process_MB_per_s": threads, "rows": rows}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
