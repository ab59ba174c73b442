"""Do other tools give the same numbers? Merge small float64 tensors with mergekit and fusion_bench.

    python -m venv oracle && oracle/bin/pip install mergekit==0.1.5 fusion_bench==0.2.33
    python benchmarks/merge_oracles.py oracle/bin/python

Prints, for each method, the largest difference and how many entries differ by more than 1e-8 (EMR's
factors are float32 in fusion_bench). Sizes are such that a density is a whole number of entries,
which the tools round differently. The script runs itself with the other Python (``--oracle``).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SHAPES = {"a.weight": (50, 32), "b.weight": (32, 50), "c.bias": (40,)}
MODELS = 3


def states() -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    rng = np.random.default_rng(0)
    base = {name: 0.02 * rng.standard_normal(shape) for name, shape in SHAPES.items()}
    shared = {name: 0.005 * rng.standard_normal(shape) for name, shape in SHAPES.items()}
    models = [
        {n: base[n] + shared[n] + 0.005 * rng.standard_normal(base[n].shape) for n in SHAPES}
        for _ in range(MODELS)
    ]
    return base, models


def oracle(path: Path) -> None:
    """Run by the Python that has mergekit and fusion_bench."""
    import typing

    import torch
    import typing_extensions

    typing.override = typing_extensions.override  # fusion_bench 0.2.33 wants Python 3.12
    from fusion_bench.method.emr_merging.utils import emr_merge
    from fusion_bench.method.isotropic_merging.iso_utils import iso_c, iso_cts
    from fusion_bench.method.task_singular_vector.utils.TSVM_utils import (
        compute_and_sum_svd_mem_reduction,
    )
    from fusion_bench.method.wudi.wudi import wudi_merging
    from mergekit.merge_methods.api import merge_tensors

    base, models = states()
    found: dict[str, np.ndarray] = {}

    def mergekit(label: str, method: str, parameters: dict, *, with_base: bool, k: int) -> None:
        for name in SHAPES:
            tensors = [torch.tensor(model[name]) for model in models[:k]]
            tensors = [torch.tensor(base[name]), *tensors] if with_base else tensors
            merged = merge_tensors(
                tensors,
                method,
                parameters=parameters,
                base_index=0 if with_base else None,
                dtype=torch.float64,
            )
            found[f"{label}|{name}"] = merged.numpy()

    def vectors() -> list[dict[str, torch.Tensor]]:
        return [{n: torch.tensor(model[n] - base[n]) for n in SHAPES} for model in models]

    def fusion_bench(label: str, vector: dict[str, torch.Tensor]) -> None:
        for name in SHAPES:
            found[f"{label}|{name}"] = base[name] + vector[name].detach().numpy()

    ties = {"density": 0.2, "weight": 1.0, "lambda": 1.0}
    crumbs = {"density": 0.3, "gamma": 0.05, "weight": 1.0, "normalize": False}
    mergekit("ties", "ties", ties, with_base=True, k=3)
    mergekit("sce", "sce", {"select_topk": 0.1}, with_base=True, k=3)
    mergekit("breadcrumbs", "breadcrumbs", crumbs, with_base=True, k=3)
    mergekit("stock", "model_stock", {}, with_base=True, k=3)
    mergekit("karcher", "karcher", {"tol": 1e-12, "max_iter": 1000}, with_base=False, k=3)
    mergekit("nuslerp", "nuslerp", {"weight": [3.0, 1.0]}, with_base=False, k=2)
    fusion_bench("iso_c", iso_c(vectors(), accelerator="cpu"))
    fusion_bench("iso_cts", iso_cts(vectors(), 0.8, accelerator="cpu"))
    fusion_bench("tsv", compute_and_sum_svd_mem_reduction(vectors(), accelerator="cpu"))
    fusion_bench("wudi", wudi_merging(vectors(), accelerator="cpu"))
    unified, masks, factors = emr_merge(vectors())
    for task in range(MODELS):
        own = {n: unified[n] * masks[n][task] * float(factors[task]) for n in SHAPES}
        fusion_bench(f"emr {task}", own)
    np.savez(path, **found)


def compare(python: str) -> None:
    from stockpot import merge
    from stockpot.merging.methods.packed import unpack

    base, models = states()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "oracle.npz"
        subprocess.run(
            [python, __file__, "--oracle", str(path)], check=True, capture_output=True, text=True
        )
        expected = dict(np.load(path))

    def show(label: str, state: dict[str, np.ndarray]) -> None:
        errors = np.concatenate(
            [np.abs(expected[f"{label}|{name}"] - state[name]).ravel() for name in SHAPES]
        )
        different = int((errors > 1e-8).sum())
        print(f"{label:12} largest difference {errors.max():.1e}, {different} of {errors.size}")

    def run(method: str, k: int = MODELS, *, with_base: bool = True, **values: object) -> dict:
        return merge(models[:k], method=method, base=base if with_base else None, **values).state

    show("ties", run("ties", density=0.2))
    show("sce", run("sce", density=0.1))
    show("breadcrumbs", run("breadcrumbs", density=0.3, gamma=0.05, scope="tensor"))
    show("stock", run("stock"))
    show("karcher", run("karcher", with_base=False))
    show("nuslerp", run("nuslerp", 2, with_base=False, weights=[3.0, 1.0]))
    show("iso_c", run("iso_c", scale=1.0))
    show("iso_cts", run("iso_cts", scale=1.0))
    show("tsv", run("tsv"))
    show("wudi", run("wudi"))
    packed = run("emr", rescale="means")
    for task in range(MODELS):
        show(f"emr {task}", unpack(packed, base, task))


if __name__ == "__main__":
    if sys.argv[1] == "--oracle":
        oracle(Path(sys.argv[2]))
    else:
        compare(sys.argv[1])
