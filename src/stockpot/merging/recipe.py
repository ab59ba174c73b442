"""Recipe files: what to merge and how, short enough to read aloud.

::

    method: ties
    base: google/some-base
    models:
      - path/to/one                   # a path (from the recipe's folder), or a hub id
      - model: path/to/two
        weight: 0.7                   # what each model has its own of: weight, density, ...
      - merge:                        # the result of another merge
          method: linear
          models: [path/to/three, path/to/four]
    density: 0.3                      # parameters of the method
    scale: {gradient: [0.2, 1.0]}     # from the first layer to the last
    rules:                            # other settings for some tensors; later rules win
      - match: "*.mlp.*"
        layers: 0-11
        density: 0.5
      - match: ["*.norm.*", "*.bias"]
        method: linear
    heads: mean                       # tensors that do not fit: auto, mean, first, drop
    dtype: bfloat16
    align: true                       # first put hidden units in the order of the base's
    vocabulary: path/to/other         # give the result this model's tokens and tokenizer
    rank: 16                          # write an adapter of this rank, in place of a model

A mergekit file (it says ``merge_method``) is read as well, see ``docs/mergekit.md``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stockpot.errors import MethodError, RecipeError
from stockpot.merging.alignment import HEADS
from stockpot.merging.job import Source, Spec, aligned_spec, dtype_code
from stockpot.merging.method import Method, get_method
from stockpot.merging.parameters import PerModel
from stockpot.merging.settings import Rule, Settings
from stockpot.merging.yaml_file import YamlFile, resolve_source
from stockpot.yaml_lines import Location

_KEYS = (
    *("method", "base", "models", "rules", "heads", "dtype", "parameters"),
    *("align", "vocabulary", "rank"),
)


def load_recipe(path: str | Path) -> Spec:
    """Read and check a recipe file, ours or mergekit's.

    Raises ``RecipeError`` with every problem and its line. No model is opened.
    """
    file = YamlFile(Path(path))
    if any("merge_method" in document for document in file.documents):
        from stockpot.merging.mergekit.recipe import read_mergekit

        return read_mergekit(file)
    if "experts" in file.value:
        from stockpot.merging.mergekit.mixture import read_mixture

        return read_mixture(file)
    if len(file.documents) > 1:
        file.problem((), "a recipe is a single document; several are read of mergekit's files")
        file.check()
    spec = _read(file, file.value, ())
    file.check()
    return spec


def _read(file: YamlFile, table: Mapping[str, Any], place: Location) -> Spec:
    method = _method(file, table.get("method", "linear"), (*place, "method"))
    models = table.get("models")
    if not isinstance(models, list) or not models:
        file.problem((*place, "models"), "'models' is a list with at least one model")
        models = []
    own: dict[str, list[Any]] = {}
    sources = [
        _source(file, item, (*place, "models", i), method, own, i, len(models))
        for i, item in enumerate(models)
    ]
    nested = table.get("parameters") or {}
    values = {**nested, **{k: v for k, v in table.items() if k not in _KEYS}}
    for name, items in own.items():
        values[name] = _filled(items, values.get(name), method, name)
    rules = _rules(file, table.get("rules"), (*place, "rules"))
    heads = table.get("heads", "auto")
    if heads not in HEADS:
        file.problem((*place, "heads"), f"heads: got {heads!r}, expected {', '.join(HEADS)}")
    dtype = table.get("dtype")
    if dtype is not None:
        try:
            dtype_code(str(dtype))
        except Exception as error:
            file.problem((*place, "dtype"), str(error))
    base = table.get("base")
    if method is not None and method.base == "required" and base is None:
        file.problem((*place, "method"), f"method '{method.name}' needs a 'base'")
    spec = Spec(
        sources,
        method.name if method else "linear",
        resolve_source(str(base), file.path.parent) if base is not None else None,
        _files(values, method, file.path.parent),
        rules,
        heads,
        dtype,
    )
    if method is not None and models:
        _check(file, spec, method, place)
    return _finished(file, spec, table, place)


def _finished(file: YamlFile, spec: Spec, table: Mapping[str, Any], place: Location) -> Spec:
    """``spec`` as ``align``, ``vocabulary`` and ``rank`` of its recipe want it."""
    align, donor, rank = (table.get(key) for key in ("align", "vocabulary", "rank"))
    if align is not None and not isinstance(align, bool):
        file.problem((*place, "align"), f"'align' is true or false, got {align!r}")
    if rank is not None and (type(rank) is not int or rank < 1 or place):
        file.problem((*place, "rank"), "'rank' is 1 or more, of the whole recipe")
    if donor is not None and (rank is not None or not isinstance(donor, str)):
        file.problem((*place, "vocabulary"), "'vocabulary' is a model, and no part of an adapter")
    if file.problems:
        return spec
    spec = aligned_spec(spec) if align else spec
    if donor is not None:
        from stockpot.merging.transplant import transplanted_spec

        spec = transplanted_spec(spec, resolve_source(donor, file.path.parent))
    return replace(spec, rank=rank)


def _source(
    file: YamlFile,
    item: Any,
    place: Location,
    method: Method | None,
    own: dict[str, list[Any]],
    index: int,
    count: int,
) -> Source:
    if isinstance(item, str):
        return resolve_source(item, file.path.parent)
    if not isinstance(item, Mapping) or not ({"model", "merge"} & item.keys()):
        file.problem(place, "a model is a path, or a table with 'model' or 'merge'")
        return ""
    for key, value in item.items():
        if key in ("model", "merge"):
            continue
        name = _per_model_name(method, key)
        if name is None:
            file.problem((*place, key), f"'{key}' is nothing that each model has its own of")
        else:
            own.setdefault(name, [None] * count)[index] = value
    if "merge" in item:
        if not isinstance(item["merge"], Mapping):
            file.problem((*place, "merge"), "'merge' is a recipe inside the recipe")
            return ""
        return _read(file, item["merge"], (*place, "merge"))
    return resolve_source(str(item["model"]), file.path.parent)


def _per_model_name(method: Method | None, key: str) -> str | None:
    """Declared name of a parameter that a model entry gives as ``weight`` or ``weights``."""
    for parameter in method.parameters if method else ():
        if isinstance(parameter, PerModel) and parameter.name in (key, f"{key}s"):
            return parameter.name
    return None


def _filled(items: list[Any], shared: Any, method: Method | None, name: str) -> list[Any]:
    declared = {p.name: p for p in method.parameters} if method else {}
    default = shared if shared is not None else declared[name].default
    return [default if item is None else item for item in items]


def _rules(file: YamlFile, items: Any, place: Location) -> tuple[Rule, ...]:
    if items is None:
        return ()
    if not isinstance(items, list):
        file.problem(place, "'rules' is a list")
        return ()
    rules = []
    for index, item in enumerate(items):
        here = (*place, index)
        if not isinstance(item, Mapping) or not ({"match", "layers"} & item.keys()):
            file.problem(here, "a rule says which tensors it is for, by 'match' or 'layers'")
            continue
        match = item.get("match", "*")
        globs = tuple(match) if isinstance(match, list) else (match,)
        if not all(isinstance(glob, str) for glob in globs):
            file.problem((*here, "match"), "'match' is a pattern such as \"*.mlp.*\", or a list")
            continue
        layers = _layers(file, item.get("layers"), (*here, "layers"))
        method = item.get("method")
        if method is not None:
            _method(file, method, (*here, "method"))
        values = {k: v for k, v in item.items() if k not in ("match", "layers", "method")}
        rules.append(Rule(globs, layers, method, values))
    return tuple(rules)


def _layers(file: YamlFile, value: Any, place: Location) -> tuple[int, int] | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", str(value))
    if not found:
        file.problem(place, f"layers: got {value!r}, expected for instance 0-11 or 7")
        return None
    first = int(found[1])
    return first, int(found[2] or first)


def _method(file: YamlFile, name: Any, place: Location) -> Method | None:
    try:
        return get_method(str(name))
    except MethodError as error:
        file.problem(place, str(error))
        return None


def _files(values: dict[str, Any], method: Method | None, folder: Path) -> dict[str, Any]:
    """Statistics files (``fisher: [...]``) as paths from the recipe's folder."""
    for kind in method.extras if method else ():
        if isinstance(values.get(kind), list):
            values[kind] = [resolve_source(str(item), folder) for item in values[kind]]
    return values


def _check(file: YamlFile, spec: Spec, method: Method, place: Location) -> None:
    values = {k: v for k, v in spec.parameters.items() if k not in method.extras}
    try:
        Settings(method.name, values, models=len(spec.models), rules=spec.rules)
    except (MethodError, RecipeError) as error:
        named = re.search(r"parameter '(\w+)'", str(error))
        spot = (*place, named[1]) if named else (*place, "method")
        file.problem(spot, str(error))
