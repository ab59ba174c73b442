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


def test_draws_are_the_trials_and_the_same_for_every_held_out_domain(tmp_path: Path) -> None:
    """As in DomainBed, whose draws are seeded by their number and the trial alone."""
    rates = {"learning_rate": [10.0**-n for n in range(1, 40)]}
    training = {**recipe(tmp_path)["training"], **rates}
    drawn: dict[int, set[tuple[float, ...]]] = {}
    for cell in plan(tmp_path, held_out="all", trials=2, training=training).cells:
        own = tuple(run.hyperparameters["learning_rate"] for run in cell.runs["plain"])
        drawn.setdefault(cell.trial, set()).add(own)
    assert [len(values) for values in drawn.values()] == [1, 1]
    assert drawn[0] != drawn[1]


def test_seeds_of_runs_differ_between_held_out_domains(tmp_path: Path) -> None:
    cells = plan(tmp_path, held_out="all").cells
    assert len({cell.runs["plain"][1].job.arguments["seed"] for cell in cells}) == 3


def test_run_zero_has_a_value_that_the_others_never_draw(tmp_path: Path) -> None:
    decay = {"first": 0.5, "choices": [0.1, 0.2]}
    rate = {"first": 0.5, "low": 1e-4, "high": 1e-2, "log": True}
    training = {**recipe(tmp_path)["training"], "weight_decay": decay, "learning_rate": rate}
    runs = plan(tmp_path, training=training, runs=40).cells[0].runs["plain"]
    first, *others = (run.hyperparameters for run in runs)
    assert (first["weight_decay"], first["learning_rate"]) == (0.5, 0.5)
    assert {one["weight_decay"] for one in others} == {0.1, 0.2}
    rates = [one["learning_rate"] for one in others]
    assert min(rates) >= 1e-4
    assert max(rates) <= 1e-2
    assert sum(rate < 1e-3 for rate in rates) > 10  # half of them, uniform in the logarithm


def test_model_stock_merges_runs_that_differ_by_their_seed_alone(tmp_path: Path) -> None:
    cell = plan(tmp_path, runs=6, side_runs=3).cells[0]
    seeds, plain = cell.runs["seeds"], cell.runs["plain"]
    assert [run.name for run in seeds] == ["base-0", "seed-1", "seed-2"]
    assert seeds[0].job == plain[0].job
    assert {str(run.hyperparameters) for run in seeds} == {str(plain[0].hyperparameters)}
    assert len({run.job.arguments["seed"] for run in seeds}) == 3
    periodic = cell.runs["periodic"][0].job.arguments
    assert periodic["hyperparameters"] == [dict(plain[0].hyperparameters)] * 2
    assert len(set(periodic["seeds"])) == 2


def test_model_stock_of_the_plain_runs_trains_nothing(tmp_path: Path) -> None:
    cell = plan(tmp_path, runs=4, stock_runs="plain").cells[0]
    plain = cell.runs["plain"]
    assert [run.job for run in cell.runs["seeds"]] == [run.job for run in plain]
    assert [run.name for run in cell.runs["seeds"]] == [run.name for run in plain]
    periodic = cell.runs["periodic"][0].job.arguments["hyperparameters"]
    assert periodic == [dict(run.hyperparameters) for run in plain[:2]]


def test_two_seeds_are_enough_for_the_stock_of_two(tmp_path: Path) -> None:
    cell = plan(tmp_path, runs=6, protocols=["stock_2"], final={"protocol": "stock_2"}).cells[0]
    assert len(cell.runs["seeds"]) == 2


def test_every_init_along_a_run_is_used(tmp_path: Path) -> None:
    cell = plan(tmp_path, runs=2, side_runs=1, trajectory=[0.25, 0.5, 0.75]).cells[0]
    inits = [run.init for run in cell.runs["trajectory"]]
    assert inits == [BASE, "step 3", "step 6", "step 9"]


def test_the_paper_is_the_default(tmp_path: Path) -> None:
    """5,000 steps: 200 of the head alone, the average from step 100, SWAD's valley of 3, 6, 0.3."""
    training = {"steps": 5000}
    made = plan(tmp_path, training=training, stock_runs="seeds").cells[0].runs["auxiliary"]
    first, other = made[0].hyperparameters, made[1].hyperparameters
    assert other["head_only_steps"] == 200
    assert first["average_from"] * first["steps"] == 100
    assert first["average_at"] == "best"
    assert [first[f"swad_{name}"] for name in ("converge", "tolerance", "ratio")] == [3, 6, 0.3]
    assert (first["learning_rate"], first["weight_decay"], first["dropout"]) == (5e-5, 0.0, 0.0)
    assert other["weight_decay"] in (1e-4, 1e-6)
    assert other["learning_rate"] in (1e-5, 3e-5, 5e-5)
    assert other["dropout"] in (0.0, 0.1, 0.5)


def test_epochs_become_steps_by_the_training_examples(tmp_path: Path) -> None:
    """Two epochs of 80 % of 100 and 50 examples, 8 of each of two domains a step: 240 / 16."""
    training = {**recipe(tmp_path)["training"], "epochs": 2, "steps": None, "accumulate": 1}
    value = parse_recipe(recipe(tmp_path, training=training, held_out="all"))
    counts = {"north": 100, "east": 50, "south": 1000}
    other = {"other": {"a": 60}}
    made = make_plan(value, facts(examples=counts, auxiliary_examples=other))
    cells = {cell.held_out: cell for cell in made.cells}
    assert cells["south"].runs["plain"][0].hyperparameters["steps"] == 15
    assert cells["east"].runs["plain"][0].hyperparameters["steps"] == 110
    assert [run.init for run in cells["south"].runs["trajectory"]] == [BASE, "step 5", "step 10"]
    assert made.auxiliaries["other"].arguments["hyperparameters"]["steps"] == 12


def test_warm_up_is_a_part_of_the_steps_in_which_everything_trains(tmp_path: Path) -> None:
    training = {"steps": 100, "head_only_steps": 20, "warmup_ratio": 0.1, "schedule": "cosine"}
    run = plan(tmp_path, training=training).cells[0].runs["auxiliary"][1]
    assert run.hyperparameters["warmup_steps"] == 8


def test_auxiliaries_have_their_own_length_and_no_weights_of_the_targets_classes(
    tmp_path: Path,
) -> None:
    own = {**OTHER, "training": {"epochs": 3, "batch_size": 4, "learning_rate": 0.5}}
    training = {"steps": 100, "class_weights": {1: 2.0}, "label_smoothing": 0.1}
    value = parse_recipe(recipe(tmp_path, training=training, auxiliaries=[own]))
    made = make_plan(value, facts(auxiliary_examples={"other": {"a": 50, "b": 50}}))
    job = made.auxiliaries["other"].arguments["hyperparameters"]
    assert job["steps"] == 30
    assert (job["batch_size"], job["learning_rate"]) == (4, 0.5)
    assert (job["class_weights"], job["label_smoothing"], job["head_only_steps"]) == (None, 0, 0)
    target = made.cells[0].runs["plain"][0].hyperparameters
    assert (target["class_weights"], target["label_smoothing"]) == ({"1": 2.0}, 0.1)


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
