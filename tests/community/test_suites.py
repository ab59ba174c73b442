"""A rule by an evaluator: what it refuses, and what it lets in."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stockpot.community import Meter, accept, contribute, load_tasks, review
from stockpot.errors import InputError, RecipeError
from tests.community.conftest import World, save

EVAL = """
import json, sys
from safetensors.torch import load_file
base = load_file({base!r})
state = load_file(sys.argv[1] + "/model.safetensors")
away = sum(float(((state[n] - base[n]) ** 2).sum()) for n in base) ** 0.5
right = 180 if away < {far} else 120
print(json.dumps({{"scores": [1] * right + [0] * (200 - right)}}))
"""


def suite(world: World, far: float, **more: object) -> Path:
    """An evaluator that falls from 90 % to 60 % where a model is far from the base."""
    base = str(world.root / "base/model.safetensors")
    (world.root / "eval.py").write_text(EVAL.format(base=base, far=far))
    (world.root / "eval.yaml").write_text("command: python eval.py {model}\n")
    task = {"name": "suite", "evaluate": "eval.yaml", **more}
    (world.root / "tasks.yaml").write_text(yaml.safe_dump({"tasks": [task]}))
    return world.root / "tasks.yaml"


def test_a_suite_may_not_drop(world: World) -> None:
    meter = Meter(load_tasks(suite(world, 0.01, lose_at_most=0.02)))
    with world.registry() as registry:
        contribute(registry, world.tuned("m", 0))
        done = review(registry, "m", meter=meter)
        failed = {check.name: check.words for check in done.checks if not check.passed}
        assert "task suite" in failed
        assert "averaged with the current version 60.0%: -30.0%" in failed["task suite"]
        assert "2.0% may be lost with 95 % confidence" in failed["task suite"]
        review(registry, "m")
        with pytest.raises(InputError, match=r"loses 30\.0% on the task 'suite'"):
            accept(registry, ["m"], meter=meter)
        assert len(registry.line("main")) == 1


def test_a_suite_that_holds_lets_it_in(world: World) -> None:
    meter = Meter(load_tasks(suite(world, 1e6)))
    with world.registry() as registry:
        contribute(registry, world.tuned("m", 0))
        assert review(registry, "m", meter=meter).accepted
        done = accept(registry, ["m"], meter=meter)
        assert done.scores["suite"]["mean"] == pytest.approx(0.9)
        assert len(registry.line("main")) == 2


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ({"score": 0.5}, "one number a model has no interval"),
        ({"scores": [0.5, 3.0]}, "a score of 3, expected scores between 0 and 1"),
    ],
)
def test_scores_that_make_no_rule_are_refused(world: World, printed: dict, message: str) -> None:
    path = suite(world, 1.0)
    (world.root / "eval.py").write_text(f"import json\nprint(json.dumps({printed!r}))\n")
    (task,) = load_tasks(path)
    with pytest.raises(InputError, match=f"task 'suite': {message}"):
        task.scores(world.root / "base")


def test_evaluators_are_checked_before_anything_is_measured(world: World) -> None:
    path = suite(world, 1.0)
    (world.root / "eval.yaml").write_text("comand: python eval.py {model}\n")
    with pytest.raises(RecipeError, match="comand"):
        load_tasks(path)
    (world.root / "eval.yaml").write_text("command: python nothing.py {model}\n")
    with pytest.raises(InputError, match=r"nothing\.py"):
        load_tasks(path)
    with pytest.raises(InputError, match="lose_at_most"):
        load_tasks(suite(world, 1.0, lose_at_most=2.0))
    with pytest.raises(InputError, match="tolerance"):
        load_tasks(suite(world, 1.0, tolerance=0.1))


def test_a_sum_of_components_has_no_weights_to_score(world: World) -> None:
    (task,) = load_tasks(suite(world, 1.0))
    folder = save(world.root / "sum", world.base)
    from stockpot.community.components import SUM

    (folder / SUM).parent.mkdir(parents=True, exist_ok=True)
    (folder / SUM).write_bytes(b"x")
    with pytest.raises(InputError, match="this is a sum of components"):
        task.scores(folder)
