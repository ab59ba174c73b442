"""From recipe to jobs: what starts where, what is shared, what depends on what."""

from __future__ import annotations

from pathlib import Path

import pytest

from stockpot.execution import Job, in_order
from stockpot.recycling.plan import BASE, Facts, Plan, add_final, fusing_coefficients, make_plan
from stockpot.recycling.recipe import parse_recipe
from tests.recycling.tiny import DOMAINS, recipe


def facts(**changes: object) -> Facts:
    values = {
        "domains": DOMAINS,
        "task": "t" * 8,
        "backbone": "b" * 8,
        "auxiliaries": {"other": "o", "wild": "w"},
        "root": "/data",
        "cache": "/cache",
        **changes,
    }
    return Facts(**values)  # type: ignore[arg-type]


def plan(tmp_path: Path, **changes: object) -> Plan:
    return make_plan(parse_recipe(recipe(tmp_path, **changes)), facts())


WILD = {"name": "wild", "weights": "wild.safetensors"}
OTHER = {"name": "other", "task": {"kind": "arrays", "path": "other.npz"}}


def test_inits_are_taken_in_turn_and_the_base_comes_first(tmp_path: Path) -> None:
    cell = plan(tmp_path, auxiliaries=[OTHER, WILD], runs=7).cells[0]
    inits = [run.init for run in cell.runs["auxiliary"]]
    assert inits == [BASE, "other", "wild", BASE, "other", "wild", BASE]
    assert [run.init for run in cell.runs["plain"]] == [BASE] * 7


def test_runs_from_the_base_are_shared_between_pools(tmp_path: Path) -> None:
    cell = plan(tmp_path, runs=4).cells[0]
    plain, auxiliary = cell.runs["plain"], cell.runs["auxiliary"]
    assert [a.job == p.job for a, p in zip(auxiliary, plain, strict=True)] == [
        True,
        False,
        True,
        False,
    ]


def test_run_h_has_the_same_draw_and_seed_in_every_pool(tmp_path: Path) -> None:
    cell = plan(tmp_path, runs=4).cells[0]
    for pool in ("auxiliary", "fusing", "trajectory"):
        for run, plain in zip(cell.runs[pool], cell.runs["plain"], strict=True):
            assert run.hyperparameters == plain.hyperparameters
            assert run.job.arguments["seed"] == plain.job.arguments["seed"]


def test_draw_zero_takes_the_first_value_of_every_list(tmp_path: Path) -> None:
    for cell in plan(tmp_path, held_out="all", trials=2).cells:
        drawn = cell.runs["plain"][0].hyperparameters
        assert (drawn["learning_rate"], drawn["dropout"]) == (0.01, 0.0)


def test_one_head_for_all_runs_of_a_cell(tmp_path: Path) -> None:
    cell = plan(tmp_path).cells[0]
    runs = [run for runs in cell.runs.values() for run in runs]
    assert {run.job.inputs["probe"] for run in runs} == {cell.probe}


def test_auxiliaries_are_trained_once_for_all_cells(tmp_path: Path) -> None:
    made = plan(tmp_path, held_out="all", trials=2)
    jobs = in_order(made.jobs())
    assert sum(job.function.endswith(":auxiliary") for job in jobs) == 1


def test_a_rotation_auxiliary_never_sees_the_held_out_domain(tmp_path: Path) -> None:
    rotation = {"name": "turned", "rotation": True}
    value = parse_recipe(recipe(tmp_path, auxiliaries=[rotation], held_out="all"))
    made = make_plan(value, facts(auxiliaries={"turned": "t"}))
    for cell in made.cells:
        job = cell.runs["auxiliary"][1].job.inputs["init"]
        assert job.arguments["data"]["rotation"] == {"exclude": [cell.held_out]}


def test_the_seed_of_a_split_is_the_trials_alone(tmp_path: Path) -> None:
    seeds = {
        (cell.trial): cell.probe.arguments["split"]["seed"]
        for cell in plan(tmp_path, held_out="all", trials=3).cells
    }
    assert len(set(seeds.values())) == 3
    again = plan(tmp_path, held_out=["east"], trials=3, runs=2)
    assert {c.trial: c.probe.arguments["split"]["seed"] for c in again.cells} == seeds


def test_pooled_protocols_take_the_runs_of_all_trials(tmp_path: Path) -> None:
    made = plan(tmp_path, trials=3, runs=2)
    jobs = {cell.models["ratatouille_pooled"].arguments["members"][0] for cell in made.cells}
    assert jobs == {"base-0/0"}
    assert len(made.cells[0].models["ratatouille_pooled"].arguments["members"]) == 6


def test_the_final_model_can_be_trained_on_all_domains(tmp_path: Path) -> None:
    value = parse_recipe(recipe(tmp_path, final={"train_on": "all"}))
    made = add_final(make_plan(value, facts()), value, facts(), "ratatouille_uniform")
    assert made.final_cell is not None
    assert made.final_cell.held_out is None
    assert made.final_cell not in made.cells
    assert set(made.final_cell.models) == {"ratatouille_uniform"}
    assert set(made.final_cell.runs) == {"auxiliary"}


def test_where_things_are_does_not_name_a_job(tmp_path: Path) -> None:
    value = parse_recipe(recipe(tmp_path))

    def keys(plan: Plan) -> list[str]:
        return [job.key for job in plan.jobs()]

    here, there = facts(), facts(root="/elsewhere", cache="/x")
    assert keys(make_plan(value, here)) == keys(make_plan(value, there))
    assert keys(make_plan(value, here)) != keys(make_plan(value, facts(task="changed")))


def test_fusing_draws_convex_coefficients_anew_for_every_run(tmp_path: Path) -> None:
    runs = plan(tmp_path).cells[0].runs["fusing"]
    drawn = [run.job.arguments["init"]["coefficients"] for run in runs]
    assert len({tuple(each) for each in drawn}) == len(runs)
    for each in drawn:
        assert sum(each) == pytest.approx(1.0)
        assert max(each) / min(each) <= 54.6  # exp(4)
    assert fusing_coefficients(3, 1) == fusing_coefficients(3, 1)


def test_jobs_are_plain_json(tmp_path: Path) -> None:
    import json

    job: Job
    for job in in_order(plan(tmp_path).jobs()):
        assert json.loads(json.dumps(dict(job.arguments))) == job.arguments
