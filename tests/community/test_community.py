"""Contribute, review, accept, revert: what comes in, what does not and why, and exact reverts."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from stockpot.bounded import GIGABYTE  # noqa: E402
from stockpot.checkpoints.torch_io import load_state  # noqa: E402
from stockpot.community import (  # noqa: E402
    accept,
    contribute,
    contributions,
    history,
    load_tasks,
    replay,
    revert,
    review,
)
from stockpot.community.measuring import Meter  # noqa: E402
from stockpot.community.tasks import MaintainerTask  # noqa: E402
from stockpot.errors import InputError, NonFiniteError, StockpotError  # noqa: E402
from stockpot.registry import checkout  # noqa: E402
from stockpot.registry.checking import verify  # noqa: E402
from stockpot.report.community import page  # noqa: E402
from stockpot.tangent.forgetting.run import verify as check_certificate  # noqa: E402
from tests.community.conftest import State, World, save, train  # noqa: E402
from tests.recycling.tiny import net  # noqa: E402
from tests.registry.models import files  # noqa: E402


class Blind:
    """Worse for all weights but those of the base."""

    name, tolerance = "seen", 0.05
    holds, limit = MaintainerTask.holds, MaintainerTask.limit

    def __init__(self, base: State) -> None:
        self.base = base

    def scores(self, folder: Path) -> np.ndarray:
        state = load_state(folder)
        moved = any(not torch.equal(state[n], self.base[n]) for n in state)
        return np.zeros(200) + (np.arange(200) % 4 > (2 if moved else 0))


class Hill:
    """Good at both ends, bad in between."""

    name, tolerance = "hill", 1.0
    holds, limit = MaintainerTask.holds, MaintainerTask.limit

    def __init__(self, *ends: float) -> None:
        self.ends = ends

    def scores(self, folder: Path) -> np.ndarray:
        value = float(load_state(folder)["2.bias"][0])
        inside = min(abs(value - end) for end in self.ends) > 1e-6
        return np.full(50, 0.2 if inside else 0.9)


class Greedy:
    """Takes what it can get."""

    name, tolerance = "greedy", 1.0

    def __init__(self, what: str) -> None:
        self.what = what

    def scores(self, folder: Path) -> np.ndarray:
        if self.what == "memory":
            return np.ones(2**33)
        while True:
            time.sleep(1)


def test_two_rounds_one_refused_one_taken_back(world: World) -> None:
    """The story: five contributors, two rounds; after the revert every byte is as if never seen."""
    meter = Meter(world.tasks)
    names = ["ada", "ben", "cleo", "dora"]
    with world.registry() as registry:
        for seed, name in enumerate(names):
            contribute(registry, world.tuned(f"{name}-1", seed), author=name)
        bad = load_state(world.tuned("eve-1", 4))
        bad["2.weight"] = bad["2.weight"] * 40
        contribute(registry, save(world.root / "models" / "eve-1", bad), author="eve")
        first = contributions(registry)
        reviews = {each.name: review(registry, each, meter=meter, barrier=0.3) for each in first}
        assert [name for name, done in reviews.items() if not done.accepted] == ["eve-1"]
        assert "'2.weight' moved by" in reviews["eve-1"].reason
        with pytest.raises(InputError, match="eve-1 was refused: layers"):
            accept(registry, ["eve-1"])
        good = [each for each in first if each.name != "eve-1"]
        done = accept(registry, good, meter=meter)
        assert (done.version, set(done.scores)) == (2, {"north", "east"})
        # The soup of the paper: the plain mean of the contributions.
        checkout(registry, "main", world.root / "one")
        states = [load_state(world.root / "models" / each.name) for each in good]
        for name, tensor in load_state(world.root / "one").items():
            mean = np.mean([state[name].double().numpy() for state in states], axis=0)
            assert np.allclose(tensor.numpy(), mean, atol=1e-6)

        start = load_state(world.root / "one")
        for seed, name in enumerate([*names, "eve"]):
            contribute(registry, world.tuned(f"{name}-2", 10 + seed, start), author=name)
        second = [each for each in contributions(registry) if each.name.endswith("-2")]
        for each in second:
            review(registry, each, meter=meter, barrier=0.3)
        accept(registry, second, method="stock", meter=meter)
        assert replay(registry, "main") == registry.find("main")
        with_ben = registry.find("main")

        gone = revert(registry, "ben-2", why="asked for", meter=meter)
        assert (gone.version, gone.dropped) == (4, ())
        assert replay(registry, "main") == registry.find("main") != with_ben
        checkout(registry, "main", world.root / "after")
        assert [
            each.name
            for each in contributions(registry)
            if each.id in history(registry, "main").accepted
        ] == ["ada-1", "ada-2", "ben-1", "cleo-1", "cleo-2", "dora-1", "dora-2", "eve-2"]
        html = page(registry, "main")
        assert verify(registry).problems == ()
        events = [version["event"]["what"] for version in registry.line("main")]
        assert events == ["start", "accept", "accept", "revert"]

        with world.registry("never") as never:
            for each in good:
                contribute(never, world.root / "models" / each.name, author=each.author)
            accept(never, contributions(never), force=True)
            rest = [
                contribute(never, world.root / "models" / each.name, author=each.author)
                for each in second
                if each.name != "ben-2"
            ]
            # In another order: it does not matter.
            accept(never, rest[::-1], method="stock", force=True)
            checkout(never, "main", world.root / "never-saw")
            assert never.find("main") == registry.find("main")
    assert files(world.root / "after") == files(world.root / "never-saw")
    for words in ("Scores by version", "1 refused", "1 taken back", "without ben-2 (asked for)"):
        assert words in html
    assert "http" not in html.replace("http://www.w3.org", "")


def test_taking_back_an_early_contribution_takes_what_had_seen_it(world: World) -> None:
    with world.registry() as registry:
        for seed, name in enumerate(("ada", "ben")):
            contribute(registry, world.tuned(name, seed))
        accept(registry, ["ada", "ben"], force=True)
        checkout(registry, "main", world.root / "one")
        later = world.tuned("cleo", 5, load_state(world.root / "one"))
        contribute(registry, later)
        aside = contribute(registry, world.tuned("dora", 6), base="main~1")
        accept(registry, ["cleo", "dora"], force=True)
        gone = revert(registry, "ben")
        names = {each.id: each.name for each in contributions(registry)}
        assert [names[each] for each in gone.dropped] == ["cleo"]
        assert aside.id in history(registry, "main").accepted
        assert "had seen it" in registry.line("main")[-1]["event"]["words"]
        # Everything taken back: the very base.
        revert(registry, "ada")
        revert(registry, "dora")
        assert registry.find("main") == registry.find("base")
        with pytest.raises(InputError, match="is not in the newest version"):
            revert(registry, "dora")
        accept(registry, ["dora"], force=True)  # and it can come again
        assert replay(registry, "main") == registry.find("main")


def test_reverted_from_several_rounds_equals_never_seen(world: World) -> None:
    """By task arithmetic in three rounds, each on the version before; the last one goes."""
    with world.registry() as registry, world.registry("never") as never:
        for turn in range(3):
            for home in (registry, never):
                checkout(home, "main", world.root / "start", overwrite=True)
                start = load_state(world.root / "start")
                model = world.tuned(f"m{turn}", turn, start)
                if home is never and turn == 2:
                    continue
                contribute(home, model)
                accept(
                    home,
                    [f"m{turn}"],
                    method="task_arithmetic",
                    parameters={"scale": 0.5},
                    force=True,
                )
        revert(registry, "m2")
        assert registry.find("main") == never.find("main")


def test_what_is_refused_and_why(world: World) -> None:
    with world.registry() as registry:
        meter = Meter(world.tasks)
        broken = load_state(world.tuned("nan", 0))
        broken["0.bias"][3] = float("nan")
        with pytest.raises(NonFiniteError, match=r"'0.bias' holds NaN or infinity at \[3\]"):
            contribute(registry, save(world.root / "models" / "nan", broken))
        torch.manual_seed(3)
        stranger = {name: torch.randn_like(tensor) for name, tensor in world.base.items()}
        part = {name: tensor for name, tensor in world.base.items() if name != "2.bias"}
        scrambled = {name: tensor.flip(0) for name, tensor in world.base.items()}
        cases = {
            "stranger": (stranger, "lineage"),
            "copy": (world.base, "nothing is new"),
            "part": (part, "lacks '2.bias'"),
            "scrambled": (scrambled, "lineage"),
        }
        for name, (state, reason) in cases.items():
            contribute(registry, save(world.root / "models" / name, state))
            done = review(registry, name, meter=meter)
            assert not done.accepted, name
            assert reason in done.reason, (name, done.reason)
            with pytest.raises(InputError, match="was refused"):
                accept(registry, [name])
        contribute(registry, world.tuned("good", 1))
        with pytest.raises(InputError, match="has not been reviewed"):
            accept(registry, ["good"])
        with pytest.raises(InputError, match="no contribution is called"):
            accept(registry, ["nobody"])
        with pytest.raises(InputError, match="given twice"):
            accept(registry, ["good", "good"], force=True)
        with pytest.raises(InputError, match="no line 'other'"):
            contribute(registry, world.root / "base", line="other")
        with pytest.raises(InputError, match="is no version of the line"):
            contribute(registry, world.root / "base", base="good")
        accept(registry, ["good"], force=True)
        with pytest.raises(InputError, match="in the line 'main' already"):
            accept(registry, ["good"], force=True)
        contribute(registry, world.tuned("late", 2), base="main~1")
        with pytest.raises(InputError, match="needs the difference to this very version"):
            accept(registry, ["late"], method="stock", force=True)


def test_a_version_that_loses_on_a_task_does_not_come(world: World) -> None:
    """A backdoor too small for the eye of the layers: features that say nothing about the task."""

    meter = Meter([Blind(world.base)])  # type: ignore[list-item]
    with world.registry() as registry:
        contribute(registry, world.tuned("m", 0))
        done = review(registry, "m", meter=meter)
        failed = [check.name for check in done.checks if not check.passed]
        assert failed == ["connectivity seen", "task seen"]
        assert "tolerance 5.0%" in done.reason
        review(registry, "m")  # without tasks nothing speaks against it
        with pytest.raises(InputError, match=r"loses 50\.0% on the task 'seen'"):
            accept(registry, ["m"], meter=meter)
        assert len(registry.line("main")) == 1


@pytest.mark.parametrize("what", ["memory", "time"])
def test_what_takes_more_than_the_limit_is_refused(world: World, what: str) -> None:
    """The review names the limit, and the process of the maintainer goes on."""
    meter = Meter([Greedy(what)], 2 * GIGABYTE, 30.0 if what == "memory" else 0.5)  # type: ignore[list-item]
    with world.registry() as registry:
        contribute(registry, world.tuned("m", 0))
        done = review(registry, "m", meter=meter)
        failed = next(check for check in done.checks if not check.passed)
        assert failed.name == "task greedy"
        limit = "2 GiB of memory, the limit" if what == "memory" else "s, the limit"
        assert limit in failed.words


def test_a_barrier_on_the_way_is_seen(world: World) -> None:
    with world.registry() as registry:
        model = world.tuned("m", 0)
        task = Hill(float(world.base["2.bias"][0]), float(load_state(model)["2.bias"][0]))
        contribute(registry, model)
        done = review(registry, "m", meter=Meter([task]), points=5)  # type: ignore[list-item]
        (check,) = [each for each in done.checks if each.name == "connectivity hill"]
        assert not check.passed
        assert check.numbers["barrier"] == pytest.approx(0.7)
        assert len(check.numbers["values"]) == 5


def test_a_changed_version_is_found_by_replay(world: World) -> None:
    with world.registry() as registry:
        contribute(registry, world.tuned("m", 0))
        done = accept(registry, ["m"], force=True)
        event = registry.line("main")[-1]["event"]
        other = contribute(registry, world.tuned("n", 1), base="main~1")
        event["contributions"] = [other.id]
        registry.advance("main", done.model, event)
        with pytest.raises(StockpotError, match=r"round 2 of 'main' gives"):
            replay(registry, "main")


def test_the_same_contribution_twice_is_one(world: World) -> None:
    with world.registry() as registry:
        model = world.tuned("m", 0)
        assert contribute(registry, model).id == contribute(registry, model).id
        assert len(contributions(registry)) == 1
        contribute(registry, model, author="somebody else")
        with pytest.raises(InputError, match="several contributions"):
            review(registry, "m")


def test_tangent_components_come_in_and_out_exactly(world: World) -> None:
    from stockpot.tangent.component import Component

    def component(name: str, seed: int, base: str = "b" * 64) -> Path:
        torch.manual_seed(seed)
        delta = {n: 0.01 * torch.randn_like(t) for n, t in world.base.items()}
        made = Component("delta", base, "c" * 64, name, ("x", "y"), 10 + seed, "d" * 64, delta)
        (world.root / "models").mkdir(exist_ok=True)
        return made.save(world.root / "models" / f"{name}.safetensors")

    with world.registry() as registry, world.registry("never") as never:
        for seed, name in enumerate(("a", "b", "c")):
            found = contribute(registry, component(name, seed))
            assert found.kind == "component"
            assert review(registry, name).accepted
        accept(registry, ["a", "b"], method="tangent")
        accept(registry, ["c"], method="tangent")
        before = registry.manifest("main")
        gone = revert(registry, "a")
        assert gone.dropped == ()
        assert gone.certificate is not None
        said = gone.certificate.to_json()
        assert registry.line("main")[-1]["event"]["certificate"] == said
        assert [each["name"] for each in said["removed"]] == ["a"]
        assert sorted(each["name"] for each in said["kept"]) == ["b", "c"]
        assert said["against_composed"] == {"weights": 0.0, "outputs": None, "equal_bits": True}
        assert said["residue_of_subtracting"]["largest"] > 0.0
        assert said["models"] == {"before": before.id, "after": gone.model}
        path = world.root / "certificate.json"
        path.write_text(json.dumps(said))
        assert check_certificate(path).holds
        path.write_text(json.dumps({**said, "after": "0" * 64}))
        assert not check_certificate(path).holds
        for name in ("b", "c"):
            contribute(never, world.root / "models" / f"{name}.safetensors")
        for name in ("b", "c"):
            accept(never, [name], method="tangent", force=True)
        assert registry.find("main") == never.find("main")
        checkout(registry, "main", world.root / "sum")
        total = load_state(world.root / "sum" / "tangent.safetensors")
        parts = [Component.load(world.root / "models" / f"{n}.safetensors").tensors for n in "bc"]
        for name, tensor in total.items():
            mean = (parts[0][name].double() + parts[1][name].double()) / 2
            assert torch.allclose(tensor.double(), mean, atol=1e-9)
        contribute(registry, component("other", 9, base="e" * 64))
        assert "do not add up" in review(registry, "other").reason
        for name in ("b", "c"):
            last = revert(registry, name)
        assert last.model == registry.find("base")
        assert last.certificate is not None
        assert last.certificate.kept == ()
        contribute(registry, world.tuned("tuned", 0), base="base")
        with pytest.raises(InputError, match="does not come in by 'tangent'"):
            accept(registry, ["tuned"], method="tangent", force=True)


def test_files_of_tasks_are_checked(tmp_path: Path) -> None:
    good = {"name": "t", "task": {"kind": "arrays"}, "backbone": {"kind": "function"}}
    path = tmp_path / "tasks.yaml"
    path.write_text(json.dumps({"tasks": [good]}))
    (task,) = load_tasks(path)
    assert task.root == str(tmp_path)
    for value, words in (
        ({}, "a list 'tasks'"),
        ({"tasks": [{**good, "name": "a b"}]}, "task 'a b': name"),
        ({"tasks": [{**good, "extra": 1}]}, "extra"),
        ({"tasks": [good, good]}, "same name"),
        ({"tasks": ["x"]}, r"task '\?'"),
    ):
        with pytest.raises(InputError, match=words):
            load_tasks(value)
    with pytest.raises(InputError, match="cannot read the file of tasks"):
        load_tasks(tmp_path / "none.yaml")


def trained_component(world: World, name: str, domain: str, *, change: float = 1.0) -> Path:
    """A delta of the body that was really trained on a domain, the head's left out."""
    from stockpot.tangent.component import Component

    state = train(world.base, world.data, domain, seed=1)
    delta = {n: change * (state[n] - t) for n, t in world.base.items()}
    made = Component("delta", "b" * 64, "c" * 64, name, ("x", "y"), 90, "d" * 64, delta)
    (world.root / "models").mkdir(exist_ok=True)
    return made.save(world.root / "models" / f"{name}.safetensors")


def test_components_are_measured_on_the_tasks_like_others(world: World) -> None:
    meter = Meter(world.tasks)
    with world.registry() as registry:
        contribute(registry, trained_component(world, "good", "north"))
        done = review(registry, "good", meter=meter, barrier=0.5)
        assert [check.name for check in done.checks] == [
            "component",
            "layers",
            "connectivity north",
            "task north",
            "connectivity east",
            "task east",
        ]
        assert done.accepted, done.reason
        assert "summed with those in the current version" in done.checks[3].words
        # The share 0 of it is the base: the way starts at the base's own score.
        scores = done.checks[2].numbers["values"]
        checkout(registry, "base", world.root / "start")
        assert scores[0] == pytest.approx(world.tasks[0].scores(world.root / "start").mean())
        first = accept(registry, ["good"], method="tangent", meter=meter)
        # A version whose weights are the base's, and whose sum is not, has scores of its own.
        assert registry.manifest(first.model).digest == registry.manifest("base").digest
        assert first.scores["north"]["mean"] == pytest.approx(scores[-1])
        # Harm: twenty times the way back.
        contribute(registry, trained_component(world, "harm", "north", change=-3.0))
        refused = review(registry, "harm", meter=meter)
        assert not refused.accepted
        contribute(registry, trained_component(world, "huge", "north", change=1e4))
        assert "made to overrule" in review(registry, "huge", meter=meter).reason


def test_linear_features_are_the_first_terms_of_taylor(world: World) -> None:
    """float64 central differences of the features, in the direction of the component."""
    from stockpot.backbones import BackboneSpec, load_backbone
    from stockpot.community.components import linear_features
    from stockpot.tasks import load_task
    from stockpot.training import build_feed, extract_features

    spec = BackboneSpec(kind="function", name="tests.recycling.tiny:net")
    task = load_task(world.tasks[0].task, root=".")
    state = train(world.base, world.data, "east", seed=3)
    delta = {n: state[n] - t for n, t in world.base.items()}
    body, rows = load_backbone(spec), np.arange(40)
    feed = build_feed(task, body, folder=world.root / "feed", views=0, augmentation=False)
    found = linear_features(body, feed, rows, {**delta, "head.weight": torch.zeros(3, 12)})
    base = extract_features(body, feed, rows)

    def at(share: float) -> np.ndarray:
        moved = net().double()
        moved.load_state_dict({n: t.double() + share * delta[n] for n, t in world.base.items()})
        with torch.no_grad():
            inputs = torch.from_numpy(np.load(world.data)["inputs"][rows]).double()
            return np.asarray(moved(inputs).numpy())

    slope = (at(1e-4) - at(-1e-4)) / 2e-4
    np.testing.assert_allclose(found, base + slope, atol=2e-5)
    assert np.abs(slope).max() > 0.05
    with pytest.raises(InputError, match="another architecture"):
        linear_features(body, feed, rows, {"elsewhere": torch.zeros(3)})


def test_a_component_of_another_base_by_its_own_record(world: World) -> None:
    from stockpot.provenance import Parent, Record
    from stockpot.tangent.component import Component

    path = trained_component(world, "stray", "north")
    with world.registry() as registry:
        for digest, words in ((registry.manifest("base").digest, ""), ("e" * 64, "it was made on")):
            record = Record("component", "stray", (Parent("base", digest, "base"),))
            Component.load(path).save(path, record)
            found = contribute(registry, path, note=words)
            assert (words in review(registry, found).reason) is True
