"""The whole protocol on points: what comes out, resuming, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stockpot.continual import compare, plan_recipe
from stockpot.continual.methods import METHODS
from stockpot.errors import OutputError
from stockpot.report.continual import markdown_tables, render, terminal_tables
from tests.continual.tiny import recipe

SETTINGS = [
    {"mode": "data", "parts": 3},
    {"mode": "class", "classes": 2, "published": {"tmc": 14.6, "soup": 63.7}},
    {"mode": "task", "classes": 2},
]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("continual")
    return compare(recipe(settings=SETTINGS), folder / "out", backend="serial", quiet=True)


def methods(done, setting: str) -> dict:
    found = next(s for s in done.results.settings if s.name == setting)
    return {m.method: m for m in found.methods}


def test_every_method_has_its_measures(done) -> None:
    for name in ("data-3", "class-2", "task-2"):
        found = methods(done, name)
        assert list(found) == list(METHODS)
        for method, row in found.items():
            assert 0 <= row.final.low <= row.final.mean <= row.final.high <= 1
            assert (row.incremental is None) == (METHODS[method].combine == "joint")
            assert (row.difference is None) == (method == "tmc")
    assert methods(done, "class-2")["sequential"].forgetting.mean > 0.5
    assert methods(done, "task-2")["tmc"].forward is not None


def test_statistics_of_tasks_are_joint_training(done) -> None:
    """However the examples came: the same accuracy in every setting that asks the same question."""
    for setting in ("data-3", "class-2", "task-2"):
        for method in ("statistics", "ranpac", "ridge"):
            notes = methods(done, setting)[method].notes
            assert notes.gap_to_joint <= 1e-9
            assert notes.gap_to_retrained <= 1e-9
    for method in ("statistics", "ridge", "simplecil"):
        one, two = (methods(done, name)[method].finals for name in ("data-3", "class-2"))
        assert one == two


def test_the_order_of_difficulty_is_the_expected_one(done) -> None:
    found = methods(done, "class-2")
    final = {name: row.final.mean for name, row in found.items()}
    assert final["statistics"] > final["tmc"] > final["sequential"]
    assert final["joint"] > final["soup"]


def test_predictions_are_those_of_the_composed_components(done) -> None:
    """One cell again by hand: components from disk, composed, argmax among the classes seen."""
    from stockpot.backbones import BackboneSpec, Model, load_backbone
    from stockpot.continual.recipe import Data, Setting
    from stockpot.continual.splits import deal
    from stockpot.tangent import AverageComposer, Component, TangentModel
    from stockpot.tangent.head import load_head
    from tests.continual.tiny import points

    jobs = done.folder / "work" / "jobs"
    task = points()
    stream = deal(task, Data(test_per_class=10), Setting(mode="class", classes=2), 0)
    model = Model(load_backbone(BackboneSpec(kind="function", name="tests.recycling.tiny:net")), 6)
    by_task = {}
    for file in jobs.glob("*/component.safetensors"):
        component = Component.load(file)
        names = tuple(task.classes.index(name) for name in component.classes)
        if component.seed == 0 and component.task.startswith("task-") and len(names) == 2:
            by_task[component.task] = component
    heads = {}
    for file in jobs.glob("*/head.safetensors"):
        load_head(file, model)
        heads[TangentModel(model).head_digest] = file
    load_head(heads[by_task["task-1"].head_digest], model)
    tangent = TangentModel(model)
    composed = AverageComposer(tangent).compose([by_task[f"task-{i}"] for i in (1, 2, 3)])
    import torch

    outputs = composed.predict(torch.from_numpy(task.inputs[stream.test])).numpy()
    accuracy = float((outputs.argmax(1) == task.labels[stream.test]).mean())
    assert accuracy == pytest.approx(methods(done, "class-2")["tmc"].finals[0])


def test_a_second_call_does_no_job_again(done) -> None:
    before = {p: p.stat().st_mtime_ns for p in (done.folder / "work" / "jobs").glob("*/done.json")}
    again = compare(recipe(settings=SETTINGS), done.folder, backend="serial", quiet=True)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert again.results == done.results
    assert json.loads((done.folder / "results.json").read_text()) == done.results.to_json()


def test_settings_share_what_they_have_in_common() -> None:
    one = plan_recipe(recipe(methods=["tmc", "joint"], trials=1))
    two = plan_recipe(recipe(methods=["tmc", "joint"], trials=1, settings=[*SETTINGS[1:]]))
    # The task-incremental setting adds evaluations only: it asks the same models another question.
    assert len(two) == len(one) + 2


def test_single_class_components_are_warned_about(tmp_path: Path) -> None:
    value = recipe(
        methods=["tmc", "ridge"],
        settings=[{"mode": "class", "classes": 1}],
        trials=1,
        tangent={"epochs": 1},
    )
    found = compare(value, tmp_path / "out", backend="serial", quiet=True).results
    assert "TMC collapses" in found.settings[0].warnings[0]
    assert "TMC collapses" in terminal_tables(found)
    assert "TMC collapses" in markdown_tables(found)
    assert "TMC collapses" in render(found)


def test_a_file_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        compare(recipe(), tmp_path / "file")


def test_published_points_stand_beside_ours(done) -> None:
    """Below joint training of the same kind: linearised for components, else not."""
    final = {name: row.final.mean for name, row in methods(done, "class-2").items()}
    words = [
        f"TMC, uniform: {100 * (final['joint_tangent'] - final['tmc']):.1f} points below "
        "Joint, tangent (published: 14.6)",
        f"Soup: {100 * (final['joint'] - final['soup']):.1f} points below "
        "Joint, non-linear (published: 63.7)",
    ]
    for made in (markdown_tables(done.results), render(done.results)):
        assert all(line in made for line in words)
        assert made.count("(published:") == 2


def test_tables_and_page_say_the_same(done) -> None:
    text, markdown, page = (f(done.results) for f in (terminal_tables, markdown_tables, render))
    assert max(map(len, text.splitlines())) <= 80
    for row in methods(done, "class-2").values():
        value = f"{100 * row.final.mean:.1f}"
        assert value in text
        assert value in markdown
        assert value in page
        assert row.label in page
    assert page.count("<svg") >= 3
    assert "http" not in page.replace("http://www.w3.org", "")
    values = np.array([m.final.mean for m in methods(done, "data-3").values()])
    assert np.isfinite(values).all()
