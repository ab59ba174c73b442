"""The Flower example: sites train, the server sums, and no wire changes a byte.

Flower itself is no dependency; a stand-in has the few classes that the example uses.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stockpot.errors import InputError
from stockpot.tangent import Component
from stockpot.tangent.run import train
from tests.tangent.core.world import write_world

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "tangent" / "flower.py"


class ArrayRecord:
    def __init__(self, *, numpy_ndarrays: list[np.ndarray]) -> None:
        self.stored = [array.tobytes() for array in numpy_ndarrays]
        self.shapes = [(array.dtype, array.shape) for array in numpy_ndarrays]

    def to_numpy_ndarrays(self) -> list[np.ndarray]:
        pairs = zip(self.stored, self.shapes, strict=True)
        return [np.frombuffer(raw, dtype).reshape(shape) for raw, (dtype, shape) in pairs]


class Message:
    def __init__(self, *, content: dict[str, Any], reply_to: Any = None) -> None:
        self.content = content


class App:
    def __init__(self) -> None:
        self.registered: Any = None

    def train(self) -> Any:
        return self._take

    main = train

    def _take(self, function: Any) -> Any:
        self.registered = function
        return function


class FedAvg:
    def __init__(self, **options: Any) -> None:
        self.options = options

    def _check_and_log_replies(self, replies: Any, *, is_train: bool, validate: bool) -> Any:
        return replies, []

    def start(self, *, grid: Any, initial_arrays: ArrayRecord, num_rounds: int) -> None:
        assert num_rounds == 1
        assert self.options["min_train_nodes"] == len(grid)
        replies = [
            client(Message(content={}), SimpleNamespace(node_config={"partition-id": index}))
            for index, client in reversed(list(enumerate(grid)))
        ]
        self.result = self.aggregate_train(1, replies)


def run_simulation(*, server_app: App, client_app: App, num_supernodes: int) -> None:
    server_app.registered([client_app.registered] * num_supernodes, None)


@pytest.fixture
def example(monkeypatch):
    stand_in = {
        "flwr": {},
        "flwr.app": {
            "ArrayRecord": ArrayRecord,
            "ConfigRecord": dict,
            "Context": object,
            "Message": Message,
            "MetricRecord": dict,
            "RecordDict": dict,
        },
        "flwr.clientapp": {"ClientApp": App},
        "flwr.serverapp": {"ServerApp": App, "Grid": object},
        "flwr.serverapp.strategy": {"FedAvg": FedAvg},
        "flwr.simulation": {"run_simulation": run_simulation},
    }
    for name, content in stand_in.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    specification = importlib.util.spec_from_file_location("flower_example", EXAMPLE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def run(example, monkeypatch, *arguments: object) -> Component:
    monkeypatch.setattr(sys, "argv", ["flower.py", *map(str, arguments)])
    example.main()
    return Component.load(Path(arguments[2]) / "composed.safetensors")


def test_flower_gives_the_bytes_of_one_process(example, tmp_path, monkeypatch, capsys) -> None:
    recipe = write_world(tmp_path, training={"epochs": 1})
    alone = run(example, monkeypatch, recipe, "-o", tmp_path / "alone")
    flower = run(example, monkeypatch, recipe, "-o", tmp_path / "flower", "--flower")
    assert flower.digest == alone.digest
    assert alone.digest[:12] in capsys.readouterr().out
    together = train(recipe, tmp_path / "together", backend="serial", quiet=True)
    trained = {Component.load(path).digest for path in together.components}
    assert {term["digest"] for term in alone.settings["composed"]} == trained
    shares = [term["weight"] for term in alone.settings["composed"]]
    assert sum(shares) == pytest.approx(1)


def test_a_changed_component_does_not_get_into_the_sum(example, tmp_path) -> None:
    recipe = write_world(tmp_path, training={"epochs": 1})
    arrays, about = example.site(recipe, "north", tmp_path)
    about = json.loads(json.dumps(about))
    assert example.server([(arrays, about)]).examples == about["examples"]
    with pytest.raises(InputError, match="changed on the way"):
        example.server([([arrays[0] * 1.01, *arrays[1:]], about)])
