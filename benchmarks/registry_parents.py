"""How sure is ``registry add`` of the parents it finds: ``python benchmarks/registry_parents.py``.

Family trees of small networks that really train: fine-tunings of fine-tunings (10 to 100 steps on
one of 40 tasks, two learning rates) and uniform soups. Each new model is added as a foreign one,
its guess is compared with the truth, and then the truth is recorded.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from stockpot.checkpoints.torch_io import save_state
from stockpot.registry import add, init_registry

State = dict[str, torch.Tensor]
BINS = ((0.0, 0.3), (0.3, 0.5), (0.5, 0.85), (0.85, 1.01))


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    sizes = (32, 64, 64, 64, 10)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def task(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten classes by a linear rule; ten neighbouring tasks share half of theirs."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(2048, 32, generator=draw)
    shared = torch.randn(32, 10, generator=torch.Generator().manual_seed(seed // 10))
    return x, (x @ (shared + 0.5 * torch.randn(32, 10, generator=draw))).argmax(1)


def train(state: State, seed: int, steps: int, rate: float) -> State:
    model = network(0)
    model.load_state_dict(state)
    x, y = task(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    draw = torch.Generator().manual_seed(7 * seed + 1)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=draw)
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def grow(trial: int, place: Path) -> list[tuple[float, bool, bool]]:
    """One tree; per model the stated probability, whether it was right, and if it is a soup."""
    rng = np.random.default_rng(trial)
    base = train(network(100 + trial).state_dict(), 1000 + trial, 2500, 1e-3)
    models = {"base": base}
    found = []
    with init_registry(place / f"registry-{trial}") as registry:
        save_state(place / "base.safetensors", base)
        add(registry, place / "base.safetensors")
        for number in range(14):
            names = list(models)
            if rng.random() < 0.15 and len(names) > 3:
                true = set(rng.choice(names[1:], int(rng.integers(2, 4)), replace=False).tolist())
                state = {n: sum(models[p][n] for p in true) / len(true) for n in base}
            else:
                parent = str(rng.choice(names))
                true = {parent}
                seed = int(rng.integers(1, 40)) * 10 + int(rng.integers(3))
                steps, rate = int(rng.choice([10, 30, 100])), float(rng.choice([3e-4, 1e-3]))
                state = train(models[parent], seed, steps, rate)
            path = place / f"m{number}.safetensors"
            save_state(path, state)
            guess = add(registry, path).guess
            assert guess is not None
            members = [link for link in guess.links if len(guess.links) == 1 or link.role != "base"]
            right = {link.name for link in members} == true
            found.append((guess.confidence, right, len(true) > 1))
            registry.remove(path.stem)
            add(registry, path, parents=sorted(true))
            models[path.stem] = state
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        found = [each for trial in range(arguments.trees) for each in grow(trial, Path(scratch))]
    print("| said to be sure | models | mean of what was said | right |\n|---|---|---|---|")
    for low, high in BINS:
        some = [(said, right) for said, right, _ in found if low <= said < high]
        if some:
            said, right = np.mean(some, axis=0)
            print(f"| {low:.0%} to {min(high, 1):.0%} | {len(some)} | {said:.0%} | {right:.0%} |")
    said, right = np.mean([each[:2] for each in found], axis=0)
    print(f"| all | {len(found)} | {said:.0%} | {right:.0%} |")
    soups = [right for _, right, soup in found if soup]
    print(f"\nsoups taken apart: {sum(soups)} of {len(soups)}")


if __name__ == "__main__":
    main()
