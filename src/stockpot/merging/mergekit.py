"""Read mergekit's YAML files for the methods both tools have.

Differences that change numbers are said as notes: ``dare`` and ``della`` rescale by the true 1/p
(mergekit: equal L1 norm), Model Stock has no absolute epsilon, everything is calculated in
float32 or wider and rounded once. What is not supported is refused with its line: mixtures of
experts, tokenizer surgery, methods that stockpot does not have.

Slices are supported, for "passthrough" (layers stacked anew) and for merging them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stockpot.errors import MethodError
from stockpot.merging.alignment import Heads
from stockpot.merging.job import LayerStack, Source, Spec
from stockpot.merging.method import get_method
from stockpot.merging.settings import Rule, Settings
from stockpot.merging.yaml_file import YamlFile, resolve_source
from stockpot.yaml_lines import Location

Values = dict[str, Any]

_KEYS = {
    "merge_method",
    "base_model",
    "models",
    "slices",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "name",
}
# mergekit's settings without meaning here: how it computes, not what.
_IGNORED = {"int8_mask", "allow_negative_weights", "normalize_embeddings"}


def _sparse(consensus: str) -> Callable[[Values], Values]:
    """Parameters of a method that makes task vectors sparse and then adds them up."""

    def translate(values: Values) -> Values:
        mean = values.pop("normalize", consensus != "sum")
        if consensus != "sum":
            values["consensus"] = "agreeing_mean" if mean else "agreeing_sum"
        elif mean is True and "weights" in values:
            values["weights"] = _normalised(values["weights"])
        values.pop("rescale", None)
        return values

    return translate


def _plain(values: Values) -> Values:
    if values.pop("normalize", False) is True and "weights" in values:
        values["weights"] = _normalised(values["weights"])
    return values


def _stock(values: Values) -> Values:
    filter_wise = values.pop("filter_wise", False)
    return {"granularity": "filter"} if filter_wise else {}


def _nuslerp(values: Values) -> Values:
    row_wise = values.pop("nuslerp_row_wise", False)
    values.pop("nuslerp_flatten", None)
    return {**values, "scope": "row"} if row_wise else values


def _same(values: Values) -> Values:
    return values


# mergekit's name -> (ours, how parameters are translated)
_METHODS: dict[str, tuple[str, Callable[[Values], Values]]] = {
    "linear": ("linear", _same),
    "task_arithmetic": ("task_arithmetic", _plain),
    "model_stock": ("stock", _stock),
    "ties": ("ties", _sparse("agreeing_mean")),
    "dare_ties": ("dare", _sparse("agreeing_mean")),
    "dare_linear": ("dare", _sparse("sum")),
    "della": ("della", _sparse("agreeing_mean")),
    "della_linear": ("della", _sparse("sum")),
    "breadcrumbs": ("breadcrumbs", _sparse("sum")),
    "breadcrumbs_ties": ("breadcrumbs", _sparse("agreeing_mean")),
    "slerp": ("slerp", _same),
    "nuslerp": ("nuslerp", _nuslerp),
    "karcher": ("karcher", lambda values: {"weights": values.get("weights", 1.0)}),
    "sce": ("sce", _same),
    "passthrough": ("linear", lambda values: {}),
}
_NAMES = {"weight": "weights", "lambda": "scale", "select_topk": "density"}


def read_mergekit(file: YamlFile) -> Spec:
    """A mergekit recipe as ours. Raises ``RecipeError`` with every problem and its line."""
    table: Mapping[str, Any] = file.value
    for key in table.keys() - _KEYS:
        file.problem((key,), f"'{key}' of mergekit is not supported")
    name = str(table["merge_method"])
    if name not in _METHODS:
        known = ", ".join(_METHODS)
        file.problem(
            ("merge_method",), f"mergekit's '{name}' is not supported (there are: {known})"
        )
    _refuse_tokenizer(file, table)
    file.check()
    entries, sources = _sources(file, table, name)
    file.check()
    ours, translate = _METHODS[name]
    shared = dict(table.get("parameters") or {})
    base = _base(file, table)
    if base is not None and name not in ("linear", "slerp", "passthrough", "nuslerp", "karcher"):
        # mergekit lets the base stand among the models, where it adds nothing.
        keep = [i for i, source in enumerate(sources) if source != base]
        entries, sources = [entries[i] for i in keep], [sources[i] for i in keep]
    if name == "slerp" and base is not None and len(sources) == 2 and sources[1] == base:
        entries, sources = entries[::-1], sources[::-1]
    if name == "passthrough" and len(sources) != 1:
        file.problem(("slices",), "passthrough takes one source a slice")
    values, rules = _translated(entries, shared, translate)
    heads: Heads = "auto"
    spec = Spec(
        sources,
        ours,
        base if get_method(ours).base != "none" else None,
        values,
        rules,
        heads,
        table.get("out_dtype") or table.get("dtype"),
    )
    try:
        Settings(ours, values, models=len(sources), rules=rules)
    except MethodError as error:
        file.problem(("parameters",), str(error))
    file.check()
    return spec


def _translated(
    entries: list[Values], shared: Values, translate: Callable[[Values], Values]
) -> tuple[Values, tuple[Rule, ...]]:
    """Parameters and rules from those of the whole file and of each model.

    mergekit filters by pieces of names, value by value; each filter becomes a rule in which every
    model has the value that holds for it there.
    """
    filters = list(
        dict.fromkeys(
            item["filter"]
            for values in (shared, *entries)
            for value in values.values()
            for item in (value if _conditional(value) else ())
            if item.get("filter")
        )
    )

    def at(which: str | None) -> Values:
        found: Values = {
            _NAMES.get(key, key): _chosen(value, which)
            for key, value in shared.items()
            if key not in _IGNORED
        }
        keys = dict.fromkeys(key for entry in entries for key in entry if key not in _IGNORED)
        for key in keys:
            each = [
                _chosen(entry[key], which) if key in entry else found.get(_NAMES.get(key, key))
                for entry in entries
            ]
            name = _NAMES.get(key, key)
            found[name] = [1.0 if value is None else value for value in each]
        return translate(found)

    default = at(None)
    rules = []
    # mergekit takes the first filter that matches, our last rule wins.
    for which in reversed(filters):
        values = {k: v for k, v in at(which).items() if default.get(k) != v}
        rules.append(Rule((f"*{which}*",), parameters=values))
    return default, tuple(rules)


def _chosen(value: Any, which: str | None) -> Any:
    """The value for tensors of a filter (None: for all others), gradients in our notation."""
    if _conditional(value):
        by_filter = {item.get("filter"): item.get("value") for item in value}
        value = by_filter.get(which, by_filter.get(None))
    if isinstance(value, list) and value and all(isinstance(v, int | float) for v in value):
        return {"gradient": value}
    return value


def _conditional(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def _normalised(weights: Any) -> Any:
    if not isinstance(weights, list) or not all(isinstance(w, int | float) for w in weights):
        return weights
    total = sum(weights)
    return [weight / total for weight in weights] if total else weights


def _base(file: YamlFile, table: Mapping[str, Any]) -> str | None:
    base = table.get("base_model")
    return None if base is None else _source(file, base, ("base_model",))


def _sources(
    file: YamlFile, table: Mapping[str, Any], name: str
) -> tuple[list[Values], list[Source]]:
    """Each model's own parameters, and the models: whole, or stacked from slices."""
    if "slices" not in table:
        models = table.get("models")
        if not isinstance(models, list) or not models:
            file.problem(("models",), "'models' is a list with at least one model")
            return [], []
        entries, sources = [], []
        for i, item in enumerate(models):
            if not isinstance(item, Mapping) or "model" not in item:
                file.problem(("models", i), "a model is a table with 'model'")
                continue
            entries.append(dict(item.get("parameters") or {}))
            sources.append(_source(file, item["model"], ("models", i, "model")))
        return entries, list(sources)
    return _stacks(file, table["slices"])


def _stacks(file: YamlFile, slices: Any) -> tuple[list[Values], list[Source]]:
    """The k-th source of every slice, stacked: one model for each k."""
    columns: list[list[tuple[str, int, int]]] = []
    entries: list[Values] = []
    for i, item in enumerate(slices if isinstance(slices, list) else []):
        sources = item.get("sources") if isinstance(item, Mapping) else None
        if not isinstance(sources, list) or (columns and len(sources) != len(columns)):
            file.problem(("slices", i), "every slice has the same number of 'sources'")
            continue
        if isinstance(item, Mapping) and item.get("parameters"):
            file.problem(("slices", i, "parameters"), "parameters of a slice are not supported")
        if not columns:
            columns = [[] for _ in sources]
            entries = [dict(source.get("parameters") or {}) for source in sources]
        for k, source in enumerate(sources):
            bounds = source.get("layer_range")
            if not isinstance(bounds, list) or len(bounds) != 2:
                file.problem(("slices", i, "sources", k), "'layer_range' is [first, last + 1]")
                continue
            place = ("slices", i, "sources", k, "model")
            columns[k].append((_source(file, source["model"], place), bounds[0], bounds[1]))
    if not columns:
        file.problem(("slices",), "'slices' is a list of tables with 'sources'")
    return entries, [LayerStack(tuple(column)) for column in columns]


def _source(file: YamlFile, value: Any, place: Location) -> str:
    if isinstance(value, Mapping):
        value = (value.get("model") or {}).get("path") if "model" in value else value.get("path")
    if not isinstance(value, str):
        file.problem(place, "expected the path or hub id of a model")
        return ""
    if "+" in value:
        file.problem(place, "a model with an adapter behind '+': name the adapter's folder itself")
    return resolve_source(value, file.path.parent)


def _refuse_tokenizer(file: YamlFile, table: Mapping[str, Any]) -> None:
    source = table.get("tokenizer_source")
    if isinstance(table.get("tokenizer"), Mapping):
        if table["tokenizer"].get("tokens"):
            file.problem(("tokenizer",), "changing single tokens is not supported")
        source = source or table["tokenizer"].get("source")
    if source == "union":
        file.problem(
            ("tokenizer_source",) if "tokenizer_source" in table else ("tokenizer",),
            "a union of vocabularies is not supported: models of one tokenizer are merged",
        )
    if table.get("chat_template") not in (None, "auto"):
        file.problem(("chat_template",), "replacing the chat template is not supported")
