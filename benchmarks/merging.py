"""Side by side with mergekit: the same recipe files, the same inputs, one process each.

    python benchmarks/merging.py                 # small models, two minutes
    python benchmarks/merging.py --full          # 3 checkpoints of 0.88 GB, half an hour

Runs A B A B (stockpot, mergekit) and prints medians: wall time from process start to exit,
processor seconds, peak of anonymous memory and of all resident memory (which counts mapped files).
mergekit gets its own environment under ``build/``. Nothing is downloaded but that; the weights are
random, in the shape of a Llama.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from history import record
from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.checkpoints.dtypes import narrow

MERGEKIT = ("mergekit==0.1.5", "torch==2.13.0")
FUSION_BENCH = ("linear", "task_arithmetic", "ties")
METHODS = ("linear", "task_arithmetic", "model_stock", "ties", "dare_ties", "breadcrumbs")


@dataclass(frozen=True)
class Shape:
    """A Llama."""

    hidden: int
    inner: int
    layers: int
    vocabulary: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        h, inner = self.hidden, self.inner
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, h)}
        for i in range(self.layers):
            at = f"model.layers.{i}."
            shapes |= {f"{at}self_attn.{p}_proj.weight": (h, h) for p in "qkvo"}
            shapes |= {f"{at}mlp.{p}_proj.weight": (inner, h) for p in ("gate", "up")}
            shapes[f"{at}mlp.down_proj.weight"] = (h, inner)
            shapes |= {f"{at}{n}_layernorm.weight": (h,) for n in ("input", "post_attention")}
        return shapes | {"model.norm.weight": (h,), "lm_head.weight": (self.vocabulary, h)}

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": self.vocabulary,
            "torch_dtype": "bfloat16",
        }


SHAPES = {
    "small": Shape(512, 1408, 8, 16_000),
    "full": Shape(1536, 4096, 12, 32_000),
    "tiny tensors": Shape(16, 40, 800, 2_000),
}


@dataclass(frozen=True)
class Run:
    """One process: seconds and megabytes."""

    wall: float
    cpu: float
    anonymous: float
    resident: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="checkpoints of 0.88 GB")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("build/bench-merge"))
    parser.add_argument("--only", choices=["stockpot", "mergekit"], help="one side only")
    parser.add_argument("--fusion-bench", metavar="PYTHON", help="a Python that has it: run it too")
    parser.add_argument("--skip-tiny", action="store_true", help="without the 7,203 tensors")
    parser.add_argument("--skip-cold", action="store_true", help="without the cold cache")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/history")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    tools = {"stockpot": [str(Path(sys.executable).parent / "stockpot"), "merge"]}
    if arguments.only != "stockpot":
        tools["mergekit"] = [str(mergekit(folder.parent / "mergekit-venv"))]
    if arguments.only == "mergekit":
        del tools["stockpot"]
    if arguments.fusion_bench:
        driver = Path(__file__).with_name("fusion_bench_merge.py")
        tools["fusion_bench"] = [arguments.fusion_bench, str(driver)]
    size = "full" if arguments.full else "small"
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"load average {os.getloadavg()[0]:.1f}\n")
    cases = [(size, method) for method in arguments.methods]
    if not arguments.skip_tiny:
        cases.append(("tiny tensors", "linear"))
    print(
        "| case | tool | wall s | CPU s | anonymous MB | resident MB | wrong bf16 | times faster |"
    )
    print("|---|---|---|---|---|---|---|---|")
    faster = {}
    for which, method in cases:
        name = f"{method}, {which}"
        faster[name] = compare(folder, which, method, tools, arguments.rounds).get("mergekit")
    if arguments.record:
        known = {name: ratio for name, ratio in faster.items() if ratio is not None}
        record("merging", "times as fast as mergekit, medians of a run's rounds", known)
    if not arguments.skip_cold:
        cold(folder, size, tools["stockpot"])


def compare(
    folder: Path, which: str, method: str, tools: dict[str, list[str]], rounds: int
) -> dict[str, float]:
    """Print the rows of one case; returns how many times as long other tools take."""
    inputs = models(folder, which)
    recipe = write_recipe(folder, inputs, method)
    out = folder / "out"
    runs: dict[str, list[Run]] = {tool: [] for tool in tools}
    wrong: dict[str, str] = {}
    for _ in range(rounds):
        for tool, command in tools.items():
            if tool == "fusion_bench" and method not in FUSION_BENCH:
                continue
            shutil.rmtree(out, ignore_errors=True)
            warm(inputs)
            os.sync()  # what the run before has left to be written is not this one's
            runs[tool].append(measure(arguments_of(tool, command, recipe, out)))
            wrong[tool] = wrong_share(inputs, out, method)
    case = f"{method}, {'7,203 tensors' if which == 'tiny tensors' else which}"
    ours = statistics.median(run.wall for run in runs.get("stockpot", []) or [Run(1, 1, 1, 1)])
    ratios = {}
    for tool, measured in runs.items():
        if not measured:
            continue
        middle = {
            name: statistics.median(getattr(run, name) for run in measured)
            for name in ("wall", "cpu", "anonymous", "resident")
        }
        ratios[tool] = middle["wall"] / ours
        ratio = f"{ratios[tool]:.1f}" if tool != "stockpot" else ""
        print(
            f"| {case} | {tool} | {middle['wall']:.2f} | {middle['cpu']:.2f} | "
            f"{middle['anonymous']:.0f} | {middle['resident']:.0f} | {wrong[tool]} | {ratio} |",
            flush=True,
        )
    return ratios


def arguments_of(tool: str, command: list[str], recipe: Path, out: Path) -> list[str]:
    if tool == "mergekit":
        return [*command, str(recipe), str(out), "--no-copy-tokenizer", "--quiet"]
    if tool == "fusion_bench":
        return [*command, str(recipe), str(out)]
    return [*command, str(recipe), "-o", str(out), "--quiet"]


def measure(command: list[str]) -> Run:
    """Run a process and watch its memory. Raises where it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    # Where this is set, an editable installation is compiled again at every start.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    memory: list[tuple[int, int]] = []
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(process.pid, ended, memory))
    watcher.start()
    _, code, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    ended.set()
    watcher.join()
    assert process.stderr is not None
    words = process.stderr.read().decode()
    process.stderr.close()
    process.returncode = code
    if code:
        raise SystemExit(f"{' '.join(command)} failed:\n{words[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    anonymous, resident = (max(each) for each in zip((0, 0), *memory, strict=True))
    return Run(wall, cpu, anonymous / 1000, resident / 1000)


def watch(pid: int, ended: threading.Event, memory: list[tuple[int, int]]) -> None:
    """Kilobytes of a process and those that it has started: anonymous, and with shared files."""
    while not ended.wait(0.05):  # looking costs time, too
        now = [used for each in tree(pid) if (used := memory_of(each))]
        own = sum(anonymous for anonymous, _ in now)
        memory.append((own, own + max([mapped for _, mapped in now], default=0)))


def tree(pid: int) -> list[int]:
    """A process and those that it has started."""
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        words = []
    return [pid, *(each for word in words for each in tree(int(word)))]


def memory_of(pid: int) -> tuple[int, int] | None:
    """Kilobytes of a process: its own, and those of files that it shares with others."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    words = dict(line.split(":", 1) for line in lines)
    if "RssAnon" not in words:
        return None
    return int(words["RssAnon"].split()[0]), int(words["RssFile"].split()[0])


def wrong_share(inputs: list[Path], out: Path, method: str) -> str:
    """Share of outputs that are not the correctly rounded float64 result, where that is known."""
    if method not in ("linear", "task_arithmetic", "model_stock"):
        return "-"
    wrong = total = 0
    sources = [open_checkpoint(path) for path in inputs]
    with open_checkpoint(out) as result:
        names = [n for n in result.names if n in sources[0]][:40]
        for name in names:
            values = [source.read(name).astype(np.float64).reshape(-1) for source in sources]
            exact = narrow(oracle(values, method), "BF16")
            found = narrow(result.read(name).reshape(-1), "BF16")
            wrong += int(np.count_nonzero(exact != found))
            total += exact.size
    for source in sources:
        source.close()
    return f"{wrong / total:.1e}" if wrong else "0"


def oracle(values: list[np.ndarray], method: str) -> np.ndarray:
    """The formula in float64; the first of ``values`` is the base where the method has one."""
    if method == "linear":
        return sum(values) / len(values)
    deltas = [value - values[0] for value in values[1:]]
    if method == "task_arithmetic":
        return values[0] + 0.5 * sum(deltas)
    a, b = deltas
    cosine = float(a @ b / np.sqrt((a @ a) * (b @ b))) if a.any() and b.any() else 0.0
    ratio = max(2 * cosine / (1 + cosine), 0.0)
    return values[0] + ratio * (a + b) / 2


def models(folder: Path, which: str) -> list[Path]:
    """A base and two models near it (made once)."""
    shape = SHAPES[which]
    paths = [folder / f"{which.replace(' ', '-')}-{i}" for i in range(3)]
    for number, path in enumerate(paths):
        if (path / "model.safetensors").is_file():
            continue
        path.mkdir(exist_ok=True)
        common, own = np.random.default_rng(0), np.random.default_rng(100 + number)
        shared = np.random.default_rng(50)
        state = {}
        for name, size in shape.tensors().items():
            values = 0.02 * common.standard_normal(size, dtype=np.float32)
            if number:
                values += 4e-4 * shared.standard_normal(size, dtype=np.float32)
                values += 4e-4 * own.standard_normal(size, dtype=np.float32)
            state[name] = narrow(values, "BF16")
        write_checkpoint(path / "model.safetensors", state, dtypes=dict.fromkeys(state, "BF16"))
        (path / "config.json").write_text(json.dumps(shape.config()))
    return paths


def write_recipe(folder: Path, inputs: list[Path], method: str) -> Path:
    """A mergekit file that both tools read."""
    own = {"linear": "weight: 1.0", "model_stock": ""}.get(method, "weight: 0.5")
    if method in ("ties", "dare_ties", "breadcrumbs"):
        own += ", density: 0.2"
    listed = inputs if method == "linear" else inputs[1:]
    lines = [f"merge_method: {method}"]
    if method != "linear":
        lines.append(f"base_model: {inputs[0]}")
    lines.append("models:")
    lines += [f"  - {{model: {path}, parameters: {{{own}}}}}" for path in listed]
    if method in ("ties", "dare_ties"):
        lines.append("parameters: {normalize: true}")
    lines.append("dtype: bfloat16")
    recipe = folder / "recipe.yaml"
    recipe.write_text("\n".join(lines) + "\n")
    return recipe


def cold(folder: Path, which: str, command: list[str]) -> None:
    """The disk's own time for the same bytes, against a linear merge with an empty cache."""
    inputs = models(folder, which)
    recipe = write_recipe(folder, inputs, "linear")
    files = [path / "model.safetensors" for path in inputs]
    size = files[0].stat().st_size
    out, plain = folder / "out", folder / "plain"
    disk, ours = [], []
    for _ in range(3):
        forget(files)
        started = time.perf_counter()
        for file in files:
            subprocess.run(["cat", str(file)], stdout=subprocess.DEVNULL, check=True)
        block = os.urandom(1 << 22)
        with plain.open("wb") as handle:
            for _ in range(-(-size // len(block))):
                handle.write(block)
            handle.flush()
            os.fsync(handle.fileno())
        disk.append(time.perf_counter() - started)
        plain.unlink()
        forget(files)
        shutil.rmtree(out, ignore_errors=True)
        ours.append(measure(arguments_of("stockpot", command, recipe, out)).wall)
    a, b = statistics.median(disk), statistics.median(ours)
    print(
        f"\ncold cache, {4 * size / 1e9:.2f} GB in and out: cat, write and fsync {a:.2f} s, "
        f"linear merge {b:.2f} s ({b / a:.2f} times)"
    )


def warm(folders: list[Path]) -> None:
    """Read the weights, so that they are in the page cache."""
    for folder in folders:
        with (folder / "model.safetensors").open("rb", buffering=0) as handle:
            while handle.read(1 << 24):
                pass


def forget(files: list[Path]) -> None:
    """Drop files from the page cache."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def mergekit(environment: Path) -> Path:
    """mergekit-yaml in an environment of its own, made at the first run."""
    script = environment / "bin" / "mergekit-yaml"
    if not script.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([str(environment / "bin/pip"), "install", "-q", *MERGEKIT], check=True)
    return script


if __name__ == "__main__":
    main()
