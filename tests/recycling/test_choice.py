"""Which model is kept: the rule against plain arithmetic, and the whole verb on hard cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.errors import InputError, StockpotError
from stockpot.evaluation.claims import Claim
from stockpot.evaluation.selection import Shortfall
from stockpot.evaluation.wording import in_sentence
from stockpot.recycling import recycle
from stockpot.recycling.cells import held_out_sets, split_arguments
from stockpot.recycling.choice import CandidateRow, KeptModel, preferred, shortfall
from stockpot.recycling.kept import kept_line, kept_sentences
from stockpot.recycling.metrics import read_metrics
from stockpot.recycling.protocols import PROTOCOLS
from stockpot.recycling.recipe import Recipe
from stockpot.recycling.schema import RecycleResults
from stockpot.report import write_report
from stockpot.tasks import load_task, split_task
from stockpot.training.rows import limit_task, read_outputs
from tests.recycling.test_combine import make_rows, pool
from tests.recycling.tiny import recipe, write_arrays

read = RecycleResults.read


def candidate(name: str, behind: float, margin: float, **changes: Any) -> CandidateRow:
    protocol = PROTOCOLS[name]
    values = {
        "protocol": name,
        "label": protocol.label,
        "validation": 0.9 - behind,
        "behind": Shortfall(behind, margin),
        "cross_fitted": True,
        "decisions": protocol.decisions,
        "is_averaged": True,
        "runs": 4.0,
        "starts": 1.0,
        "steps": 100.0,
        **changes,
    }
    return CandidateRow(**values)


def test_the_best_is_kept_where_validation_can_tell_it_from_all_others() -> None:
    kept = preferred([candidate("soup_greedy", 0, 0), candidate("soup_uniform", 0.02, 0.01)])
    assert kept.protocol == "soup_greedy"


def test_what_chose_less_is_kept_where_validation_cannot_tell() -> None:
    rows = [candidate("soup_greedy", 0, 0), candidate("soup_uniform", 0.01, 0.011)]
    assert preferred(rows).protocol == "soup_uniform"
    wise = candidate("wise_ft", 0, 0)  # which run, and which coefficient
    assert wise.decisions == 2
    assert preferred([wise, candidate("erm", 0.001, 0.01)]).protocol == "erm"


def test_of_those_that_chose_as_much_an_average_is_kept() -> None:
    run = candidate("erm", 0, 0, is_averaged=False, steps=50.0)
    assert preferred([run, candidate("swad", 0.001, 0.01)]).protocol == "swad"


def test_one_run_is_an_average_along_it() -> None:
    assert {name for name, row in PROTOCOLS.items() if row.averages_along} == {
        "moving_average",
        "swad",
        "stock_periodic",
        "ratatouille_average",
    }


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(sorted(PROTOCOLS)), min_size=1, unique=True), st.data())
def test_the_reason_names_the_rules_that_decided(names: list[str], data: st.DataObject) -> None:
    """The words, read back, lead to the kept row alone, and not one of them too early."""
    few = st.integers(0, 2)
    rows = [
        candidate(
            name,
            data.draw(st.sampled_from([0.0, 0.001, 0.02])) if index else 0.0,
            0.01,
            decisions=data.draw(few),
            is_averaged=data.draw(st.booleans()),
            runs=float(data.draw(few)),
            starts=float(data.draw(few)),
            steps=float(data.draw(few)),
            came_to_nothing=data.draw(st.booleans()) if index else False,
            lost=data.draw(st.booleans()) if index else False,
        )
        for index, name in enumerate(names)
    ]
    kept = preferred(rows)
    reason = KeptModel(kept.protocol, "auto", names[0], kept.protocol, tuple(rows), ()).reason()
    near = [row for row in rows if row.behind.mean <= 0.01 and not row.came_to_nothing]
    left = [row for row in near if not row.lost]
    assert ("half of its lead" in reason) == (len(near) > len(left) > 1)
    assert kept in left
    if len(left) == 1:
        assert "and of those" not in reason
        return
    real = sum(not row.came_to_nothing for row in rows)
    assert reason.startswith(f"one of {len(left)} (of {real}) ")
    best = {
        "one that chose least": lambda row: -row.decisions,
        "one that averages weights": lambda row: row.is_averaged,
        "one of the most runs": lambda row: row.runs,
        "one from the most different starts": lambda row: row.starts,
        "one of the fewest training steps": lambda row: -row.steps,
        "the first in the table": lambda row: -list(PROTOCOLS).index(row.protocol),
    }
    for words in reason.partition("and of those ")[2].split(", of these "):
        most = max(map(best[words], left))
        before, left = left, [row for row in left if best[words](row) == most]
        assert len(left) < len(before)
    assert left == [kept]


def test_of_averages_the_one_of_more_runs_is_kept_although_it_took_more_training() -> None:
    two = candidate("stock_2", 0, 0, runs=2.0, steps=50.0)
    assert preferred([two, candidate("soup_uniform", 0.001, 0.01)]).protocol == "soup_uniform"


def test_of_averages_of_as_many_runs_the_one_from_more_starts_is_kept() -> None:
    alike = candidate("soup_uniform", 0, 0)
    diverse = candidate("ratatouille_uniform", 0.001, 0.01, starts=3.0, steps=400.0)
    assert preferred([alike, diverse]).protocol == "ratatouille_uniform"


def test_of_equals_the_one_with_less_training_is_kept_then_the_first_in_the_table() -> None:
    long = candidate("ratatouille_uniform", 0, 0, steps=400.0)
    short = candidate("soup_uniform", 0.001, 0.01, steps=200.0)
    assert preferred([long, short]).protocol == "soup_uniform"
    same = candidate("stock_all", 0.0005, 0.01, steps=200.0)
    assert preferred([long, same, short]).protocol == "soup_uniform"


def test_of_those_that_chose_as_little_an_average_is_kept_before_what_was_not_trained() -> None:
    probe = candidate("linear_probe", 0, 0, is_averaged=False, steps=0.0)
    assert preferred([probe, candidate("soup_uniform", 0.001, 0.01)]).protocol == "soup_uniform"
    assert preferred([probe, candidate("soup_uniform", 0.02, 0.01)]).protocol == "linear_probe"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3))
def test_a_gap_is_the_mean_over_cells_and_its_margin_that_of_the_rows(
    seed: int, cells: int, domains: int
) -> None:
    """A row counts once, with all cells that it is part of; other trainings have no part in it."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(40, 80, domains)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    parts = {f"validation/{d}": starts[d] + np.arange(sizes[d]) for d in range(domains)}
    identities = {("held out", trial): parts for trial in range(cells)}
    one, other = (
        {
            where: {name: rng.integers(0, 2, len(rows)) * 1.0 for name, rows in parts.items()}
            for where in identities
        }
        for _ in range(2)
    )
    measured = shortfall(one, other, identities)
    gaps = {
        name: np.mean([one[where][name] - other[where][name] for where in identities], axis=0)
        for name in parts
    }
    assert measured.mean == pytest.approx(np.mean([g.mean() for g in gaps.values()]), abs=1e-12)
    influence = np.concatenate([(g - g.mean()) / len(g) / domains for g in gaps.values()])
    error = np.sqrt(influence @ influence)
    # Student's t with many degrees of freedom: random rows carry about as much each.
    assert 1.95 * error < measured.margin < 2.2 * error


def test_trainings_that_scatter_make_no_average_level() -> None:
    """Averaging destroys the runs of one trial; rows of all trials say so beyond doubt."""
    rng = np.random.default_rng(0)
    rows = {"validation/a": np.arange(400)}
    identities = {("held out", trial): rows for trial in range(3)}
    best = {where: {"validation/a": (rng.random(400) < 0.8) * 1.0} for where in identities}
    soup = {
        where: {"validation/a": (rng.random(400) < (0.2 if where[1] == 0 else 0.8)) * 1.0}
        for where in identities
    }
    measured = shortfall(best, soup, identities)
    assert measured.mean > 0.15
    assert not candidate("soup_uniform", measured.mean, measured.margin).is_level


def test_candidates_that_differ_on_one_row_are_level() -> None:
    where = ("held out", 0)
    identities = {where: {"validation/a": np.arange(40)}}
    one, other = np.zeros(40), np.zeros(40)
    one[7] = 1.0
    measured = shortfall(
        {where: {"validation/a": one}}, {where: {"validation/a": other}}, identities
    )
    assert candidate("soup_uniform", measured.mean, measured.margin).is_level


def test_half_of_the_rows_never_chooses_what_scores_it(tmp_path: Path) -> None:
    """Cross-fitting by hand: the best run on one half predicts the other."""
    from stockpot.recycling.combine import combine_runs

    rows = make_rows(tmp_path)
    probe, runs = pool(tmp_path, rows, count=4, spread=0.6)
    made = combine_runs(
        rows, runs, probe, take="best", select="best", combine="one", greedy_on="pooled"
    )
    halves = rows.halves()
    assert halves is not None
    assert made.unseen is not None
    stored = {name: read_outputs(run / "outputs-best.npz") for name, run in runs.items()}
    for own, other in (halves, halves[::-1]):
        for domain in own.split.validation:
            mine, theirs = own.split.validation[domain], other.split.validation[domain]
            assert not set(mine) & set(theirs)
            assert sorted([*mine, *theirs]) == rows.split.validation[domain].tolist()
        chosen = max(
            runs, key=lambda name: other.metrics(other.half_of(stored[name]))["id_accuracy"]
        )
        for name, values in own.half_of(stored[chosen]).items():
            domain = name.partition("/")[2]
            where = np.isin(rows.split.validation[domain], own.split.validation[domain])
            np.testing.assert_allclose(made.unseen[name][where], values, atol=1e-6)


def test_what_chooses_nothing_is_not_cross_fitted(tmp_path: Path) -> None:
    from stockpot.recycling.combine import combine_runs

    rows = make_rows(tmp_path)
    probe, runs = pool(tmp_path, rows)
    made = combine_runs(
        rows, runs, probe, take="best", select="all", combine="mean", greedy_on="pooled"
    )
    assert made.unseen is None


def run(folder: Path, **changes: Any) -> dict[str, Any]:
    done = recycle(
        recipe(folder, **changes), folder / "out", root=folder, backend="serial", quiet=True
    )
    return done.results.to_json()


def training(**changes: Any) -> dict[str, Any]:
    return {
        "steps": 12,
        "batch_size": 8,
        "weight_decay": 0.0,
        "dropout": 0.0,
        "head_only_steps": 2,
        "evaluate_every": 4,
        "augmentation": False,
        **changes,
    }


def preference(row: dict[str, Any]) -> tuple[int, bool, float, float, float]:
    averaged = row["is_averaged"]
    return row["decisions"], not averaged, -row["runs"], -row["starts"], row["steps"]


def check_kept(final: dict[str, Any]) -> None:
    """The kept row is level with the best, first by the rule of those, and below nothing simple."""
    rows = {row["protocol"]: row for row in final["candidates"]}
    for name, row in rows.items():
        if row["is_averaged"]:
            assert row["runs"] > 1 or PROTOCOLS[name].combine != "mean"
    real = [row for row in rows.values() if not row["came_to_nothing"]]
    best = max(real, key=lambda row: row["validation"])
    assert rows[final["best"]]["validation"] == best["validation"]
    level = [row for row in real if row["behind"]["mean"] <= row["behind"]["margin"]]
    level = [row for row in level if not row["lost"]]
    assert final["protocol"] in {row["protocol"] for row in level}
    kept = rows[final["protocol"]]
    for row in level:
        assert preference(kept) <= preference(row)
    assert final["below"] == []


def test_auto_keeps_what_validation_says(tmp_path: Path) -> None:
    results = run(tmp_path, held_out="all")
    check_kept(results["final"])
    for row in results["table"]:  # an ensemble of some cells is no single model
        models = [m for cell in results["cells"] for m in cell["models"]]
        own = [m["forward_cost"] for m in models if m["protocol"] == row["protocol"]]
        assert row["forward_cost"] == max(own, default=1)
    assert [claim["against"] for claim in results["final"]["claims"]] == ["linear_probe", "single"]
    line = kept_line(read(results))
    assert line.startswith(f"kept: {results['final']['label']}, ")
    assert all(Claim.from_json(claim).sentence() in line for claim in results["final"]["claims"])
    del results["final"]["claims"]  # as written before models were chosen
    assert kept_line(read(results)) == ""
    names = {row["protocol"] for row in results["final"]["candidates"]}
    assert names == {
        row["protocol"] for row in results["table"] if PROTOCOLS[row["protocol"]].can_be_final
    }
    text = write_report(results, tmp_path / "report.html").read_text(encoding="utf-8")
    section = text.partition('id="h-choice"')[2].partition("</section>")[0]
    assert all(PROTOCOLS[name].label in section for name in names)


@pytest.mark.parametrize("seed", range(4))
def test_on_few_validation_rows_nothing_that_lost_half_of_the_lead_is_kept(
    tmp_path: Path, seed: int
) -> None:
    """Ten rows tell hardly anything apart, also what training has all but destroyed."""
    asked = recipe(
        tmp_path,
        seed=seed,
        training=training(learning_rate=[0.03, 0.3], limit_per_domain=25),
        protocols=["linear_probe", "moving_average", "soup_uniform", "stock_periodic"],
    )
    done = recycle(asked, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)
    final = done.results.final
    validation = by_hand(asked, tmp_path)
    rows = {row.protocol: row for row in final.candidates}
    constant = np.mean([np.bincount(own).max() / len(own) for own in validation])
    best = rows[final.best].validation
    assert sum(map(len, validation)) <= 12
    for row in rows.values():
        assert row.lost == (best > constant and row.validation < (best + constant) / 2)
        assert not (row.level and row.lost)
    assert not rows[final.protocol].lost


def by_hand(asked: dict[str, Any], root: Path) -> list[np.ndarray]:
    """Labels of the validation rows of the first cell, by domain."""
    checked = Recipe.model_validate(asked)
    task = load_task(checked.task, root=root, seed=checked.seed)
    limit = checked.training.limit_per_domain
    assert limit is not None
    task = limit_task(task, limit, checked.seed)
    (held_out,) = held_out_sets(checked, task.domains)
    split = split_task(task, **split_arguments(checked, held_out, 0))
    return [task.labels[rows] for rows in split.validation.values()]


def test_wide_learning_rates(tmp_path: Path) -> None:
    """Some of the runs are destroyed; uniform averages with them, too."""
    check_kept(run(tmp_path, training=training(learning_rate=[1e-4, 1e-2, 1.0], steps=20))["final"])


def test_an_auxiliary_made_from_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    value = recipe(tmp_path)
    np.savez(
        tmp_path / "other.npz",
        inputs=(rng.normal(size=(180, 6)) * 50).astype(np.float32),
        labels=rng.integers(0, 4, 180),
        domains=np.repeat(["a", "b", "c"], 60),
    )
    value["auxiliaries"][0]["training"] = {"learning_rate": 0.5, "steps": 50}
    value["training"]["steps"] = 20
    done = recycle(value, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)
    check_kept(done.results.to_json()["final"])


def test_the_last_line_says_how_many_recycled_runs_are_in(tmp_path: Path) -> None:
    """A greedy Ratatouille may hold no run from auxiliary weights; then nothing was recycled."""
    rng = np.random.default_rng(0)
    value = recipe(tmp_path, final={"protocol": "ratatouille_greedy"})
    np.savez(
        tmp_path / "other.npz",
        inputs=(rng.normal(size=(180, 6)) * 50).astype(np.float32),
        labels=rng.integers(0, 4, 180),
        domains=np.repeat(["a", "b", "c"], 60),
    )
    value["auxiliaries"][0]["training"] = {"learning_rate": 0.5, "steps": 50}
    done = recycle(value, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)
    cell = next(cell for cell in done.results.to_json()["cells"] if cell["trial"] == 0)
    members = {row["protocol"]: set(row["members"]) for row in cell["models"]}
    kept = members["ratatouille_greedy"]
    recycled = {one["id"] for one in cell["runs"] if one["init"] == "other"}
    assert kept
    assert len(recycled) == 1
    assert (
        f" It holds {len(kept)} of {value['runs']} runs, {len(recycled & kept) or 'none'} of the 1 "
        "from auxiliary weights. "
    ) in kept_line(done.results)


def test_a_named_protocol_is_kept_and_what_validation_says_of_it_is_said(tmp_path: Path) -> None:
    """A learning rate of 0.5 damages the average during training; the recipe insists on it."""
    bad = training(learning_rate=0.5, steps=20, evaluate_every=20)
    value = recipe(tmp_path, training=bad, auxiliaries=[], final={"protocol": "stock_periodic"})
    value["periodic"] = {"every": 10, "models": 2}
    write_arrays(tmp_path / "target.npz", per_domain=400)
    done = recycle(value, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)
    final = done.results.to_json()["final"]
    assert final["protocol"] == "stock_periodic"
    assert final["chosen"] == "named"
    assert "linear_probe" in final["below"]
    claims = {claim["against"]: claim for claim in final["validation"]}
    assert claims["linear_probe"]["high"] < 0

    line = kept_line(done.results)
    assert "\n" not in line
    assert "WARNING: on validation rows these weights are worse than Linear probe" in line
    labels = {row["protocol"]: row["label"] for row in final["candidates"]}
    assert f"final.protocol: auto keeps {in_sentence(labels[final['auto']])}" in line
    card = (done.model / "README.md").read_text(encoding="utf-8")
    assert all(sentence in card for sentence in kept_sentences(done.results))

    value["final"]["at_least"] = "probe"
    with pytest.raises(StockpotError, match=r"no model is kept, .*Linear probe") as no:
        recycle(value, tmp_path / "none", root=tmp_path, backend="serial", quiet=True)
    assert no.value.exit_code == 1
    assert not (tmp_path / "none" / "model").exists()


def test_a_model_trained_on_everything_has_the_chosen_protocol(tmp_path: Path) -> None:
    results = run(tmp_path, final={"train_on": "all"})
    assert results["final"]["trained_on"] == "all domains"
    check_kept(results["final"])


def test_a_job_of_another_version_is_named(tmp_path: Path) -> None:
    for content in ('{"steps": 3, "momentum": 1}', "{", '{"steps": "many"}'):
        (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(InputError, match=r"metrics\.json is not what this version"):
            read_metrics(tmp_path)
