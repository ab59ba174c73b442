"""What mergekit declares is declared here, and nothing of a file is read and then dropped.

``facts.json`` holds the names of mergekit 0.1.5's keys, methods and parameters, with their defaults
(``python benchmarks/mergekit_worker.py facts FOLDER``).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stockpot.checkpoints import MemoryCheckpoint
from stockpot.merging.mergekit.architectures import LISTED
from stockpot.merging.mergekit.declaration import (
    KEYS,
    VERSION,
    foreign_method,
    foreign_parameters,
    keys_of,
    scalar_kind,
)
from stockpot.merging.mergekit.layout import ForeignLayout
from stockpot.merging.mergekit.recipe import recipe_from_json
from stockpot.merging.method import PerModel, get_method
from stockpot.merging.methods import BUILTIN, MERGEKIT
from stockpot.merging.parameters import Flag, Integer
from stockpot.merging.portable import layout_from_json

FACTS = json.loads(Path(__file__).with_name("facts.json").read_text(encoding="utf-8"))
PAIRS = [(m, p) for m, facts in FACTS["methods"].items() for p in facts["parameters"]]


def test_the_keys_are_mergekits():
    assert FACTS["version"] == VERSION
    for table, names in FACTS["keys"].items():
        ours = set(keys_of(table)) - ({"name"} if table == "file" else set())
        assert ours == set(names), table
    assert {key.table for key in KEYS} == set(FACTS["keys"])


def test_the_methods_are_mergekits():
    assert set(MERGEKIT) == set(FACTS["methods"])
    assert set(FACTS["architectures"]) == LISTED


@pytest.mark.parametrize("name", FACTS["methods"])
def test_a_method_is_declared_as_mergekit_declares_it(name):
    facts, method = FACTS["methods"][name], foreign_method(name)
    assert method.base == {"ignored": "none"}.get(facts["base"], facts["base"])
    based = facts["base"] == "required"
    least, most = facts["inputs"]
    low = max(facts["others"][0] or 0, least - based, 1)
    assert method.models[0] == low
    assert method.models[1] == (facts["others"][1] or (most and most - based))
    declared = foreign_parameters(method)
    assert set(declared) == set(facts["parameters"])
    for parameter in declared.values():
        theirs = facts["parameters"][parameter.name]
        kind = scalar_kind(parameter)
        assert isinstance(parameter, PerModel) == (theirs["scope"] != "shared")
        assert isinstance(kind, Flag) == (theirs["type"] == "bool")
        assert isinstance(kind, Integer) == (theirs["type"] == "int")
        default = 1.0 if name == "passthrough" else theirs.get("default")  # no scale
        assert kind.default == default, parameter.name


def test_mergekits_names_are_aliases():
    for name in MERGEKIT:
        wanted = name if name in BUILTIN else f"mergekit:{name}"
        assert get_method(name).name == wanted
        assert get_method(f"mergekit:{name}").name == f"mergekit:{name}"


# ------------------------------------------------------------------------- nothing is dropped
WITH_EVERY_TABLE = {
    "file": ((), {}),
    "model": (("models", 0), {}),
    "slice": (("slices", 0), {}),
    "source": (("slices", 0, "sources", 0), {}),
    "module": (("modules", "default"), {}),
    "condition": (("parameters", "weight", 0), {}),
    "reference": (("models", 0, "model"), {}),
    "path": (("models", 0, "model", "model"), {}),
    "tokenizer": (("tokenizer",), {}),
    "token": (("tokenizer", "tokens", "x"), {}),
    "token source": (("tokenizer", "tokens", "x", "source"), {}),
    "mixture": ((), {}),
    "expert": (("experts", 0), {}),
}


def document(table):
    """A recipe in which a table of this kind stands."""
    value = {
        "merge_method": "linear",
        "parameters": {"weight": [{"filter": "mlp", "value": 0.5}, {"value": 0.2}]},
    }
    if table in ("mixture", "expert"):
        listed = [{"source_model": "a"}, {"source_model": "b"}]
        return {"base_model": "a", "gate_mode": "random", "experts": listed}
    source = {"model": "a", "layer_range": [0, 2]}
    if table in ("slice", "source"):
        return {**value, "slices": [{"sources": [source]}]}
    if table == "module":
        return {**value, "modules": {"default": {"slices": [{"sources": [source]}]}}}
    token = {"kind": "model_token", "model": "a", "token": "y"}
    rest = {"tokenizer": {"source": "base", "tokens": {"x": {"source": token}}}}
    return {**value, **rest, "models": [{"model": {"model": {"path": "a"}}}]}


@pytest.mark.parametrize("table", WITH_EVERY_TABLE)
def test_an_unknown_key_is_refused_in_every_table(table):
    from stockpot.errors import RecipeError

    value = document(table)
    layout_from_json(json.loads(json.dumps(value)))
    place = value
    for part in WITH_EVERY_TABLE[table][0]:
        place = place[part]
    place["unheard_of"] = 1
    with pytest.raises(RecipeError, match="no key 'unheard_of'"):
        layout_from_json(value)


def test_every_kind_of_table_is_tried():
    assert set(WITH_EVERY_TABLE) == set(FACTS["keys"])


def layout(method, settings):
    """The method on three models of two layers, with these settings of the whole file."""
    facts = FACTS["methods"][method]
    names = ["layers.0.mlp.w", "layers.1.mlp.w"]
    count = min(3, (foreign_method(method).models[1] or 3))
    models = [f"m{number}" for number in range(count)]
    value = {
        "merge_method": method,
        "models": [{"model": name} for name in models],
        "parameters": settings,
    }
    if facts["base"] == "required":
        value["base_model"] = "base"
    document = recipe_from_json(value).document
    import numpy as np

    state = {name: np.ones((2, 2), np.float32) for name in names}
    return ForeignLayout(document, {m: MemoryCheckpoint(state) for m in document.references()})


@pytest.mark.parametrize(("method", "name"), PAIRS)
def test_every_parameter_reaches_its_tensors(method, name):
    """Whatever a recipe says of a parameter is what the method gets: by tensor and by model."""
    parameter = foreign_parameters(foreign_method(method))[name]
    kind = scalar_kind(parameter)
    low, high = (False, True) if isinstance(kind, Flag) else (0.25, 0.5)
    if isinstance(kind, Integer):
        low, high = 2, 4
    needed = {
        p: 0.5
        for p, facts in FACTS["methods"][method]["parameters"].items()
        if "default" not in facts
    }
    needed |= {"density": 0.5, "epsilon": 0.1} if method.startswith("della") else {}
    if method.startswith("della") and name in ("density", "epsilon"):
        low, high = (0.4, 0.6) if name == "density" else (0.05, 0.1)
    for setting, expected in (
        (low, (low, low)),
        (high, (high, high)),
        ([low, high], (low, high)),
        ([{"filter": "layers.1", "value": high}, {"value": low}], (low, high)),
        ([{"filter": "*", "value": high}], (high, high)),
    ):
        plan = layout(method, {**needed, name: setting}).plan(None)
        for work, value in zip(plan.works, expected, strict=True):
            found = work.parameters[name]
            assert set(found if isinstance(found, list) else [found]) == {value}
