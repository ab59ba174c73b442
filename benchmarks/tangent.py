"""What a linearised model costs: forward and training, against the module itself and ensembles.

    python benchmarks/tangent.py [--threads 1] [--rounds 9] [--json] [--device cuda]
    python benchmarks/tangent.py --check

Times are medians over rounds in which all sides take turns, so that a busy machine slows all of
them alike; on a CPU they are processor time. Weights are random: they do not change the time.

* forward: f(x), the linearised model with everything or the last block, K components summed before
  (K = 1, 5, 20; and these three beside each other in twelve times as many rounds), the
  statistics composer (one direction, 1,024 numbers), an ensemble of K fine-tunings, and one that
  shares the trunk below the last block;
* training: one step (forward, backward, AdamW) of everything and of the last block, linearised or
  not, on raw inputs or on activations that were kept.

``--check`` exits with 1 unless a composition of the last block costs at most 1.6 forwards of the
module, one of 20 components within 3 % of one, a step on kept activations at most half a normal
full step, and a full linearised step at most twice one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stockpot.compat import ensure_torchvision
from stockpot.tangent import AverageComposer, Component, TangentModel
from stockpot.tangent.statistics.sketch import TangentSketch

COMPONENTS = (1, 5, 20)
INFERENCE = 1.6
Times = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A network, a batch of its inputs, and the block from which the cheap variant starts."""

    name: str
    network: nn.Module
    batch: Any
    block: str


def main() -> None:
    """Measure, print, check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", help="one of resnet18, vit, minilm")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = []
    for make in (resnet18, vit, minilm):
        if options.only in (None, make.__name__):
            results.append(measure(make(options.device), options.rounds, options.device))
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        for result in results:
            print(table(result))
    if options.check:
        problems = [problem for result in results for problem in broken(result)]
        print("\n".join(problems) or "all promises hold", file=sys.stderr)
        sys.exit(bool(problems))


def resnet18(device: str) -> Case:
    """timm's ResNet-18, 16 images of 64 pixels."""
    ensure_torchvision(quiet=True)
    import timm

    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=10).eval().to(device)
    return Case("ResNet-18, 16 x 64 px", network, torch.randn(16, 3, 64, 64).to(device), "layer4.1")


def vit(device: str) -> Case:
    """timm's ViT with 192 channels and 6 blocks, 16 images of 64 pixels."""
    ensure_torchvision(quiet=True)
    import timm

    torch.manual_seed(0)
    network = timm.create_model(
        "vit_tiny_patch16_224", num_classes=10, img_size=64, patch_size=8, depth=6
    )
    batch = torch.randn(16, 3, 64, 64).to(device)
    return Case("ViT-Ti/8, 6 blocks, 16 x 64 px", network.eval().to(device), batch, "blocks.5")


def minilm(device: str) -> Case:
    """BERT of MiniLM's size (6 layers, 384 channels), 32 texts of 16 tokens."""
    ensure_torchvision(quiet=True)
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=1000,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=10,
    )
    network = transformers.BertForSequenceClassification(config).eval().to(device)
    batch = {
        "input_ids": torch.randint(5, 1000, (32, 16)).to(device),
        "attention_mask": torch.ones(32, 16, dtype=torch.int64).to(device),
    }
    return Case("MiniLM size, 32 x 16 tokens", network, batch, "bert.encoder.layer.5")


def measure(case: Case, rounds: int, device: str) -> dict[str, Any]:
    """Times of all sides, in units of a native forward and of a native full training step."""
    full = TangentModel(case.network)
    last = TangentModel(case.network, from_block=case.block, example=case.batch)
    kept = last.trunk(case.batch)
    forward = _forward_sides(case, full, last, kept)
    training = _training_sides(case, full, last, kept)
    forward_times = take_turns(forward, rounds, device)
    training_times = take_turns(training, rounds, device)
    return {
        "case": case.name,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "parameters": sum(weights.numel() for weights in full.weights.values()),
        "last_block_parameters": sum(weights.numel() for weights in last.weights.values()),
        "forward_ms": 1000 * forward_times["native"],
        "step_ms": 1000 * training_times["full, native"],
        "forward": _relative(forward_times, "native"),
        "composed": {
            "full": composed_ratios(full, case.batch, 12 * rounds, device),
            "last block": composed_ratios(last, case.batch, 12 * rounds, device),
        },
        "training": _relative(training_times, "full, native"),
    }


def composed_ratios(model: TangentModel, batch: Any, rounds: int, device: str) -> list[float]:
    """Forward of K = 1, 5, 20 components against one: medians of ratios within a round.

    All of them compute the same; where their weights happen to lie in memory makes a few percent,
    so every round copies them to another place, and begins with another of them.
    """
    composer = AverageComposer(model)
    deltas = [composer.compose(_components(model, count)).state() for count in COMPONENTS]
    ratios: list[list[float]] = [[] for _ in COMPONENTS]
    for round_ in range(rounds):
        placed = [{name: t.clone() for name, t in delta.items()} for delta in deltas]
        seconds = [0.0] * len(placed)
        for turn in range(len(placed)):
            which = (round_ + turn) % len(placed)
            with torch.no_grad():
                seconds[which] = timed(lambda d=placed[which]: model.forward(batch, d), device)
        for kept, own in zip(ratios, seconds, strict=True):
            kept.append(own / seconds[0])
    return [statistics.median(kept) for kept in ratios]


def _forward_sides(
    case: Case, full: TangentModel, last: TangentModel, kept: Any
) -> dict[str, Callable[[], Any]]:
    def native() -> Tensor:
        with torch.no_grad():
            return full.native(case.batch)

    def ensemble(count: int) -> Callable[[], Any]:
        return lambda: [native() for _ in range(count)]

    def sharing(count: int) -> Callable[[], Any]:
        def run() -> None:
            crossing = last.trunk(case.batch)
            for _ in range(count):
                last.native(crossing)

        return run

    sides: dict[str, Callable[[], Any]] = {"native": native}
    for count in COMPONENTS:
        composed = AverageComposer(full).compose(_components(full, count))
        sides[f"full, K={count}"] = lambda composed=composed: composed.predict(case.batch)
    for count in COMPONENTS:
        composed = AverageComposer(last).compose(_components(last, count))
        sides[f"last block, K={count}"] = lambda composed=composed: composed.predict(case.batch)
    sides["last block, kept trunk"] = lambda: composed.predict(kept)
    sides["last block, statistics"] = _statistics(case, last)
    sides["ensemble of 5"] = ensemble(5)
    sides["ensemble of 5, shared trunk"] = sharing(5)
    sides["ensemble of 20, shared trunk"] = sharing(20)
    return sides


def _statistics(case: Case, last: TangentModel) -> Callable[[], Any]:
    """The statistics composer's forward: per-example gradients of the last block along one
    direction, sketched to 1,024 numbers, times the solution; again the same for any K."""
    classes = 10
    moved = {weights.data_ptr() for weights in last.weights.values()}
    for parameter in last.upper.parameters():
        parameter.requires_grad_(parameter.data_ptr() in moved)
    sketch = TangentSketch(
        last.upper, classes, dimension=1024, directions=1, seed=0, device=last.device
    )
    solution = torch.zeros(1024, classes, dtype=torch.float64, device=last.device)
    return lambda: sketch(last.trunk(case.batch)) @ solution


def _training_sides(
    case: Case, full: TangentModel, last: TangentModel, kept: Any
) -> dict[str, Callable[[], Any]]:
    return {
        "full, native": _step(lambda p: full.functional(p, case.batch), _copies(full)),
        "full, linearised": _step(lambda p: full(case.batch, p), full.zeros()),
        "last block, native": _step(lambda p: last.functional(p, case.batch), _copies(last)),
        "last block, linearised": _step(lambda p: last(case.batch, p), last.zeros()),
        "last block, native, kept trunk": _step(lambda p: last.functional(p, kept), _copies(last)),
        "last block, linearised, kept trunk": _step(lambda p: last(kept, p), last.zeros()),
    }


def _copies(model: TangentModel) -> dict[str, Tensor]:
    return {name: weights.clone() for name, weights in model.weights.items()}


def _step(
    function: Callable[[dict[str, Tensor]], Tensor], parameters: dict[str, Tensor]
) -> Callable[[], None]:
    for parameter in parameters.values():
        parameter.requires_grad_()
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=1e-4, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        function(parameters).square().mean().backward()
        optimizer.step()

    return run


def _components(model: TangentModel, count: int) -> list[Component]:
    made = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            name: 1e-3 * torch.randn(zeros.shape, generator=generator)
            for name, zeros in model.zeros().items()
        }
        made.append(
            Component(
                kind="delta",
                base_digest=model.base_digest,
                head_digest=model.head_digest,
                task=f"part-{seed}",
                classes=(),
                examples=1,
                data_fingerprint="",
                tensors=tensors,
            )
        )
    return made


def take_turns(sides: dict[str, Callable[[], Any]], rounds: int, device: str) -> Times:
    """Median seconds of each side; every round runs each once, in an order that turns."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    names = list(sides)
    for round_ in range(rounds):
        start_at = round_ % len(names)
        for name in names[start_at:] + names[:start_at]:
            found[name].append(timed(sides[name], device))
    return {name: statistics.median(times) for name, times in found.items()}


def timed(side: Callable[[], Any], device: str) -> float:
    """Seconds of one call: of the processor, or by the clock on a GPU."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    side()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def _relative(times: Times, unit: str) -> Times:
    return {name: seconds / times[unit] for name, seconds in times.items()}


def table(result: dict[str, Any]) -> str:
    """The result of one case for a terminal."""
    rows = [
        f"{result['case']}, {result['device']}, {result['threads']} thread(s), "
        f"{result['parameters'] / 1e6:.1f} M parameters "
        f"({result['last_block_parameters'] / 1e6:.1f} M from the last block on)"
    ]
    for what, unit in (("forward", "forward_ms"), ("training", "step_ms")):
        rows.append(f"  {what} (1.00 = {result[unit]:.1f} ms)")
        rows += [f"    {name:36} {value:5.2f}" for name, value in result[what].items()]
    for kind, ratios in result["composed"].items():
        words = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        rows.append(f"  {kind}: K = 1, 5, 20 against one component: {words}")
    return "\n".join(rows)


def broken(result: dict[str, Any]) -> list[str]:
    """Promises that this result does not keep."""
    training = result["training"]
    problems = [
        f"{result['case']}: last block, K={count} costs {cost:.2f} forwards, limit {INFERENCE}"
        for count in COMPONENTS
        if (cost := result["forward"][f"last block, K={count}"]) > INFERENCE
    ]
    for kind, ratios in result["composed"].items():
        if max(ratios) > 1.03:
            problems.append(f"{result['case']}: {kind}, K = 1, 5, 20 cost {ratios}")
    for name, limit in (("full, linearised", 2.0), ("last block, linearised, kept trunk", 0.5)):
        if training[name] > limit:
            problems.append(f"{result['case']}: {name} costs {training[name]:.2f} x, limit {limit}")
    return problems


if __name__ == "__main__":
    main()
