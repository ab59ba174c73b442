"""Results of every verb: as types, as files of earlier versions, as published schemas."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stockpot.continual.schema import ContinualResults
from stockpot.errors import InputError
from stockpot.ranking.evaluated import RankingEvaluation
from stockpot.ranking.schema import RankResults
from stockpot.recycling.metrics import JobMetrics
from stockpot.recycling.schema import FinalResult, RecycleResults, RunResult
from stockpot.report import markdown_table, terminal_table
from stockpot.report.page import render
from stockpot.results import VerbResults
from stockpot.soups import SoupResults
from stockpot.tangent.forgetting.schema import Certificate
from stockpot.tangent.schema import TangentResults

ROOT = Path(__file__).parents[1]
OLD = Path(__file__).with_name("old_results")
MODELS: dict[str, type[VerbResults]] = {
    "certificate": Certificate,
    "continual": ContinualResults,
    "history": RankingEvaluation,
    "rank": RankResults,
    "recycle": RecycleResults,
    "soup": SoupResults,
    "tangent": TangentResults,
}


def old(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((OLD / f"{name}.json").read_text(encoding="utf-8"))
    return value


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_before_is_read_and_nothing_of_it_is_lost(name: str) -> None:
    value = old(name)
    results = MODELS[name].read(value)
    assert json.loads(json.dumps(results.to_json(), allow_nan=False)) == value
    assert MODELS[name].read(results.to_json()) == results
    assert MODELS[name].read(results) is results


@pytest.mark.parametrize("name", MODELS)
def test_what_is_missing_is_named(name: str) -> None:
    for key in MODELS[name].model_fields:
        field = MODELS[name].model_fields[key]
        value = old(name)
        if field.is_required():
            del value[field.alias or key]
            with pytest.raises(InputError, match=f"lack something: {key}"):
                MODELS[name].read(value)


def test_a_page_and_tables_of_a_file_of_before() -> None:
    value = old("recycle")
    results = RecycleResults.read(value)
    row = results.row(results.final.protocol)
    assert row is not None
    page = render(results)
    for text in (page, terminal_table(value), markdown_table(value)):
        assert row.label.partition(",")[0] in text
    embedded = page.split('id="results">')[1].split("</script>")[0]
    assert json.loads(embedded)["title"] == "Tiny"


def test_the_schemas_are_what_the_types_say() -> None:
    place = ROOT / "docs" / "make_schemas.py"
    spec = importlib.util.spec_from_file_location("make_schemas", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.MODELS == MODELS
    for name in MODELS:
        path = ROOT / "docs" / "schemas" / f"{name}.json"
        current = path.read_text(encoding="utf-8")
        assert current == module.schema(name), "run: python docs/make_schemas.py"


def test_what_our_own_code_says_beyond_the_fields_is_refused() -> None:
    run = old("recycle")["cells"][0]["runs"][0]
    assert RunResult.model_validate(run).to_json() == run
    for value in (run | {"wall": 1.0}, run | {"history": [{**run["history"][0], "wall": 1.0}]}):
        with pytest.raises(ValidationError, match="wall"):
            RunResult.model_validate(value)
    with pytest.raises(ValidationError, match="wall"):
        JobMetrics.model_validate({"seconds": 1.0, "wall": 1.0})
    claims = [old("recycle")["final"]["claims"][0] | {"wall": 1.0}]
    with pytest.raises(ValidationError, match="wall"):  # a dataclass within a model
        FinalResult.model_validate(old("recycle")["final"] | {"claims": claims})


def test_what_a_file_says_beyond_the_fields_is_named_or_of_another_version() -> None:
    known = RecycleResults.read(old("recycle"))
    value = old("recycle")
    value["wall"] = value["cells"][0]["runs"][0]["wall"] = 1.0
    value["final"]["claims"][0]["wall"] = 1.0
    kept = copy.deepcopy(value)
    with pytest.warns(UserWarning, match="what is passed over") as warned:
        assert RecycleResults.read(value, "a file") == known
    message = str(warned[0].message)
    assert set(message.rpartition(": ")[2].split(", ")) == {
        "wall",
        "cells.0.runs.0.wall",
        "final.claims.0.wall",
    }
    assert value == kept
    for version in (1, 3):
        newer = RecycleResults.read(value | {"schema": version})
        assert newer == known.model_copy(update={"version": version})
    del value["cells"]
    with pytest.raises(InputError, match="lack something: cells"):
        RecycleResults.read(value)
