"""A registry with a line, and fine-tunings of a small network that really trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from stockpot.checkpoints.torch_io import save_state  # noqa: E402
from stockpot.community import MaintainerTask  # noqa: E402
from stockpot.registry import Registry, add, init_registry  # noqa: E402
from tests.recycling.tiny import DOMAINS, net, write_arrays  # noqa: E402

State = dict[str, torch.Tensor]


def train(state: State, data: Path, domain: str, seed: int, steps: int = 60) -> State:
    """Fine-tune ``tiny.net`` on one domain under a fresh head."""
    loaded = np.load(data)
    rows = np.flatnonzero(loaded["domains"] == domain)
    x, y = torch.from_numpy(loaded["inputs"][rows]), torch.from_numpy(loaded["labels"][rows])
    body = net()
    body.load_state_dict(state)
    torch.manual_seed(seed)
    head = torch.nn.Linear(12, 3)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.003)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(head(body(x)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in body.state_dict().items()}


def save(folder: Path, state: State) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_state(folder / "model.safetensors", state)
    return folder


class World:
    """Where the tests live: data, a base, and a registry whose line "main" starts with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = write_arrays(root / "data.npz", per_domain=90)
        self.base = net().state_dict()
        save(root / "base", self.base)
        self.tasks = [
            MaintainerTask(
                name=domain,
                task={"kind": "arrays", "path": str(self.data)},
                backbone={"kind": "function", "name": "tests.recycling.tiny:net"},
                held_out=(domain,),
                tolerance=0.25,
            )
            for domain in DOMAINS[:2]
        ]

    def registry(self, name: str = "registry") -> Registry:
        registry = init_registry(self.root / name)
        add(registry, self.root / "base")
        registry.advance("main", "base", {"what": "start"})
        return registry

    def tuned(self, name: str, seed: int, start: State | None = None) -> Path:
        """A model folder with a fine-tuning of the base or of ``start``."""
        domain = DOMAINS[seed % len(DOMAINS)]
        state = train(start or self.base, self.data, domain, seed)
        return save(self.root / "models" / name, state)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
