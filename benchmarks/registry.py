"""Storage and latencies of the registry: ``python benchmarks/registry.py``.

``storage``: real fine-tunings of all-MiniLM-L6-v2 in float32, bfloat16 and float16, against the
plain file, zstd, zipnn and git-theta's way of storing a sparse or dense update. ``--zipnn PYTHON``
names an interpreter that has zipnn (it is not a dependency).
``effect``: what approximate storage does to a linear probe on texts.
``scale``: a registry of 10,000 models: add, open, tree, ancestors, descendants, search.
Times are medians of one thread; sizes are shares of the plain file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints import TensorInfo, open_checkpoint, write_checkpoint
from stockpot.checkpoints.dtypes import is_float
from stockpot.files import cache_folder
from stockpot.registry import Link, Manifest, Registry, add, blobs, checkout, codec, init_registry
from stockpot.registry.parents import find_parents
from stockpot.registry.registry import blob_key
from stockpot.registry.sketch import matrices, sketch
from stockpot.registry.tree import family, text

_ZIPNN = """
import json, sys, time, numpy as np
from zipnn import ZipNN
path, dtype, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = open(path, "rb").read()[-size:]
pack = ZipNN(input_format="byte", bytearray_dtype=dtype, threads=1)
best = [9e9, 9e9]
for _ in range(3):
    mine = bytearray(data)  # it works in its input
    start = time.process_time(); small = pack.compress(mine)
    best[0] = min(best[0], time.process_time() - start)
    start = time.process_time(); back = pack.decompress(small)
    best[1] = min(best[1], time.process_time() - start)
assert bytes(back) == data
print(json.dumps([len(small), *best]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    storage = commands.add_parser("storage")
    storage.add_argument("--zipnn", help="python with zipnn installed")
    storage.add_argument("--models", type=Path, help="folder of fine-tunings; made where missing")
    storage.add_argument("--only", help="one of base, sre, a10, a60, hot30, or registry")
    storage.add_argument("--rounds", type=int, default=3)
    effect = commands.add_parser("effect")
    effect.add_argument("--models", type=Path, required=True, help="as for storage")
    scale = commands.add_parser("scale")
    scale.add_argument("--models", type=int, default=10_000)
    arguments = parser.parse_args()
    if arguments.what == "storage":
        measure_storage(arguments)
    elif arguments.what == "effect":
        measure_effect(arguments.models)
    else:
        measure_scale(arguments.models)


def fine_tunings(folder: Path) -> dict[str, Path]:
    """Fine-tunings of MiniLM on the demo's sentiment texts, each in three types; made where they
    are missing: 10 and 60 steps at the usual learning rate, 30 at fifty times that.
    """
    kinds = ("F32", "BF16", "F16")
    names = {"base": None, "sre": None, "a10": (10, 2e-5), "a60": (60, 2e-5), "hot30": (30, 1e-3)}
    paths = {f"{n} {code}": folder / f"{n}-{code}.safetensors" for n in names for code in kinds}
    folder.mkdir(parents=True, exist_ok=True)
    for name, how in names.items():
        if not all(paths[f"{name} {code}"].exists() for code in kinds):
            write_types(name, fine_tune(name, how), paths)
    return paths


def write_types(name: str, state: dict[str, Any], paths: dict[str, Path]) -> None:
    import torch

    from stockpot.checkpoints.torch_io import save_state

    for code, kind in (("F32", torch.float32), ("BF16", torch.bfloat16), ("F16", torch.float16)):
        rounded = {k: v.to(kind) if v.is_floating_point() else v for k, v in state.items()}
        save_state(paths[f"{name} {code}"], rounded)


def fine_tune(name: str, how: tuple[int, float] | None) -> dict[str, Any]:
    """AdamW with weight decay 0.01 on batches of 8 texts of 32 tokens."""
    import csv

    import torch

    from stockpot.checkpoints.torch_io import load_state
    from stockpot.compat import ensure_torchvision

    assets = cache_folder() / "assets"
    if how is None:
        return dict(load_state(assets / ("minilm" if name == "base" else name)))
    ensure_torchvision(quiet=True)
    from transformers import AutoModel, AutoTokenizer

    base = load_state(assets / "minilm")
    with (assets / "sentiment" / "sentiment.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    steps, rate = how
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(assets / "minilm")
    model = AutoModel.from_pretrained(assets / "minilm")
    head = torch.nn.Linear(384, 1)
    trained = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        batch = [rows[i] for i in torch.randint(len(rows), (8,), generator=draw)]
        tokens = tokenizer(
            [row["text"] for row in batch],
            padding="max_length",
            truncation=True,
            max_length=32,
            return_tensors="pt",
        )
        hidden, mask = model(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
        features = (hidden * mask).sum(1) / mask.sum(1)
        labels = torch.tensor([float(float(row["label"]) > 0) for row in batch])
        logits = head(features)[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tuned = model.state_dict()
    return {key: tuned.get(key, value) for key, value in base.items()}


def measure_storage(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        paths = fine_tunings(arguments.models or Path(scratch) / "models")
        print(
            "| model | plain MB | zstd-3 | zipnn | theta | planes | **difference** "
            "| encode MB/s | decode MB/s |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for name, path in paths.items():
            if arguments.only not in (None, name.split()[0]):
                continue
            model, code = name.rsplit(" ", 1)
            base = None if model == "base" else paths[f"base {code}"]
            print(storage_row(name, path, base, code, arguments))
        if arguments.only not in (None, "registry"):
            return
        print()
        print(registry_rows(paths, Path(scratch)))


def storage_row(
    name: str, path: Path, base: Path | None, code: str, arguments: argparse.Namespace
) -> str:
    import zstandard

    with open_checkpoint(path) as own, open_checkpoint(base or path) as origin:
        names = [n for n in own.names if n in origin and own.info(n) == origin.info(n)]
        tensors = [bits(own.raw(n)) for n in names]
        others = [bits(origin.raw(n)) for n in names]
        floats = [is_float(own.info(n).dtype) for n in names]
        total = sum(each.nbytes for each in tensors)
        whole = b"".join(each.tobytes() for each in tensors)
        plain = len(zstandard.ZstdCompressor(level=3).compress(whole)) / total
        planes = coded(tensors, [None] * len(tensors), floats, arguments.rounds)
        chosen = planes if base is None else coded(tensors, others, floats, arguments.rounds)
        theta = "" if base is None else f"{theta_share(tensors, others, total):.1%}"
    zipped = zipnn(arguments.zipnn, path, code, total) if arguments.zipnn else None
    return (
        f"| {name} | {total / 1e6:.1f} | {plain:.1%} | {'' if zipped is None else f'{zipped:.1%}'} "
        f"| {theta} | {planes[0] / total:.1%} | **{chosen[0] / total:.1%}** "
        f"| {total / chosen[1] / 1e6:.0f} | {total / chosen[2] / 1e6:.0f} |"
    )


def bits(stored: np.ndarray) -> np.ndarray:
    return stored.view(f"u{stored.itemsize}")


def coded(
    tensors: list[np.ndarray], bases: list[Any], floats: list[bool], rounds: int
) -> tuple[int, float, float]:
    """Bytes, and the least CPU seconds of one thread to encode and to decode."""
    encode, decode = [], []
    size = 0
    for _ in range(rounds):
        start = time.process_time()
        bodies = [
            b"".join(codec.encode(data, floating=floating, base=base))
            for data, base, floating in zip(tensors, bases, floats, strict=True)
        ]
        encode.append(time.process_time() - start)
        size = sum(map(len, bodies))
        found = [np.empty_like(each) for each in tensors]
        start = time.process_time()
        for body, out, base, floating in zip(bodies, found, bases, floats, strict=True):
            codec.decode(memoryview(body), out, floating=floating, base=base)
        decode.append(time.process_time() - start)
        assert all(np.array_equal(a, b) for a, b in zip(found, tensors, strict=True))
    return size, min(encode), min(decode)


def theta_share(tensors: list[np.ndarray], bases: list[np.ndarray], total: int) -> float:
    """git-theta's choice for a parameter group: nothing where equal, a sparse update (values and
    int32 indices) where that is smaller, else the dense tensor; its store compresses with zlib.

    Written from its description (arXiv 2306.04529, section 3); the package itself needs git-lfs.
    """
    stored = 0
    for data, base in zip(tensors, bases, strict=True):
        moved = np.flatnonzero(data != base)
        if not moved.size:
            continue
        dense = len(zlib.compress(data.tobytes(), 1))
        sparse = dense
        if moved.size < data.size // 2:
            update = data[moved].tobytes() + moved.astype(np.int32).tobytes()
            sparse = len(zlib.compress(update, 1))
        stored += min(dense, sparse)
    return stored / total


def zipnn(python: str, path: Path, code: str, size: int) -> float | None:
    dtype = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}[code]
    done = subprocess.run(
        [python, "-c", _ZIPNN, str(path), dtype, str(size)], capture_output=True, text=True
    )
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
        return None
    return float(json.loads(done.stdout.splitlines()[-1])[0]) / size


def registry_rows(paths: dict[str, Path], scratch: Path) -> str:
    """Whole commands on float32: reading, hashing, coding, flushing; a thread a core."""
    lines = [
        "| registry, float32 | stored | error of the difference | add s | checkout s |",
        "|---|---|---|---|---|",
    ]
    with init_registry(scratch / "registry") as registry:
        add(registry, paths["base F32"], name="base")
        choices: list[tuple[str, str, str | None]] = [
            (name, name, None) for name in paths if name.endswith("F32") and "base" not in name
        ]
        choices += [
            (f"a60, {option}", "a60 F32", option)
            for option in ("int8", "sign", "low-rank:16", "low-rank:64")
        ]
        for label, model, option in choices:
            start = time.perf_counter()
            done = add(registry, paths[model], parents=["base"], name=label, lossy=option)
            middle = time.perf_counter()
            checkout(registry, done.id, scratch / "out.safetensors", overwrite=True)
            end = time.perf_counter()
            if option is None:
                assert (scratch / "out.safetensors").read_bytes() == paths[model].read_bytes()
            error = "0" if done.manifest.lossy is None else f"{done.manifest.lossy['error']:.2%}"
            lines.append(
                f"| {label} | {done.stored / done.bytes:.1%} | {error} "
                f"| {middle - start:.2f} | {end - middle:.2f} |"
            )
    return "\n".join(lines)


def measure_effect(models: Path) -> None:
    """Accuracy of a linear probe on the features of a60 as it is stored, on the demo's texts."""
    from stockpot.community import MaintainerTask

    assets = cache_folder() / "assets"
    paths = fine_tunings(models)
    task = MaintainerTask(
        name="sentiment",
        task={
            "kind": "text",
            "path": str(assets / "sentiment" / "sentiment.csv"),
            "target": "sign",
            "margin": 0.5,
        },
        backbone={"kind": "transformers", "name": str(assets / "minilm"), "max_length": 32},
        held_out=("movies",),
        limit_per_domain=300,
    )
    print("| a60 stored as | error of the difference | accuracy | rows that change |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        exact = None
        with init_registry(place / "registry") as registry:
            add(registry, assets / "minilm", name="base")
            for option in (None, "int8", "low-rank:16", "sign", "base alone"):
                if option == "base alone":
                    chosen, error = "base", ""
                else:
                    done = add(
                        registry,
                        paths["a60 F32"],
                        parents=["base"],
                        name=str(option),
                        lossy=option,
                    )
                    lossy = done.manifest.lossy
                    chosen, error = done.id, f"{lossy['error']:.2%}" if lossy else "0"
                folder = place / "model"
                checkout(registry, "base", folder, overwrite=True)
                if chosen != "base":
                    checkout(registry, chosen, folder / "new.safetensors")
                    (folder / "new.safetensors").replace(folder / "model.safetensors")
                scores = task.scores(folder)
                exact = scores if exact is None else exact
                moved = int((scores != exact).sum())
                print(
                    f"| {option or 'exact difference'} | {error} | {scores.mean():.1%} "
                    f"| {moved} of {len(scores)} |",
                    flush=True,
                )


def measure_scale(count: int) -> None:
    """Small models (three matrices), fine-tunings of each other and every fifth a merge of three.

    Manifests and sketches are written directly (a blob of a tensor plays no part in any of these
    questions but ``add``, which is measured on a hundred real models at the end).
    """
    draw = np.random.default_rng(0)
    shapes = {f"layer.{i}.weight": (24, 24) for i in range(3)}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        model = place / "model.safetensors"
        base = {name: draw.normal(size=shape).astype("f4") for name, shape in shapes.items()}
        write_checkpoint(model, base)
        with init_registry(place / "registry") as registry:
            first = add(registry, model, name="m0").manifest
            parts = [(first, np.concatenate([v.ravel() for v in base.values()]))]
            taken = matrices({name: each.info for name, each in first.tensors().items()})
            for number in range(1, count):
                parts.append(_descendant(registry, number, parts, taken, draw))
                if number >= 400:
                    parts[number - 400] = (parts[number - 400][0], np.zeros(0, "f4"))
            registry.store.flush()
        print(f"| {count} models | CPU ms |\n|---|---|")
        start = time.process_time()
        with Registry(place / "registry") as registry:
            show("make the index from the manifests", time.process_time() - start)
        show("open", clock(lambda: Registry(place / "registry").close()))
        with Registry(place / "registry") as registry:
            index = registry.index
            middle, end = f"m{count // 2}", f"m{count - 1}"
            root, last = registry.row("m0").num, registry.row(end).num
            above, below = len(index.ancestors(last)), len(index.descendants(root))
            show(f"find {middle} by name", clock(lambda: registry.find(middle)))
            show(f"ancestors of the last ({above})", clock(lambda: index.ancestors(last)))
            show(f"descendants of the first ({below})", clock(lambda: index.descendants(root)))
            show(f"ancestors with all they say ({above})", clock(lambda: registry.ancestors(end)))
            show("tree of the newest 500, text", clock(lambda: text(*family(registry))))
            show("log, newest 20", clock(lambda: index.newest(20)))
            values = sketch(taken, lambda name: base[name].ravel() + np.float32(0.01))
            infos = {info.name: info for info in taken}
            search = clock(lambda: find_parents(registry, infos, values, None), 3)
            show("parents of a foreign model", search)
            times = []
            for number in range(100):
                state = {n: v + draw.normal(size=v.shape).astype("f4") for n, v in base.items()}
                write_checkpoint(model, state)
                start = time.process_time()
                add(registry, model, name=f"new{number}", parents=["m0"], threads=1)
                times.append(time.process_time() - start)
            show("add a model whose parent is named, median of 100", statistics.median(times))


def _descendant(
    registry: Registry,
    number: int,
    parts: list[tuple[Manifest, np.ndarray]],
    taken: list[TensorInfo],
    draw: np.random.Generator,
) -> tuple[Manifest, np.ndarray]:
    """Write the manifest and the sketch of model ``number``; returns it with its weights."""
    among = draw.integers(max(0, number - 399), number, 3 if number % 5 == 0 else 1)
    parents = sorted(set(among.tolist()))
    weights = np.mean([parts[each][1] for each in parents], axis=0, dtype="f4")
    weights = weights + draw.normal(size=weights.size).astype("f4") * np.float32(0.01)
    pieces = dict(zip([info.name for info in taken], np.split(weights, len(taken)), strict=True))
    kept = sketch(taken, pieces.__getitem__).astype("<f4").tobytes()
    name = blobs.name_of(kept)
    registry.store.write(blob_key(name), blobs.pack_raw(kept))
    chosen = [parts[each][0] for each in parents]
    made = replace(
        parts[0][0],
        name=f"m{number}",
        digest=hashlib.sha256(weights.tobytes()).hexdigest(),
        parents=tuple(Link(each.name, each.digest, "base", None, each.id) for each in chosen),
        sketch=name,
    )
    registry.store.write(f"models/{made.id}.json", [made.to_bytes()])
    return made, weights


def clock(work: Callable[[], object], rounds: int = 7) -> float:
    """Median CPU time: the same on a busy machine."""
    found = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return statistics.median(found)


def show(what: str, seconds: float) -> None:
    print(f"| {what} | {1000 * seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
