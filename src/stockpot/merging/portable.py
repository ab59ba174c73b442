"""A spec as JSON values, so that another process or machine can open the same merge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockpot.checkpoints import Checkpoint
from stockpot.errors import InputError
from stockpot.merging.job import AdaptedSource, AlignedSource, SelfPlanned, Source, Spec
from stockpot.merging.settings import Rule


def spec_to_json(spec: Spec) -> dict[str, Any]:
    """``spec`` with absolute paths. Raises ``InputError`` for a model that is not a file or id."""
    return {
        "models": [_to_json(source) for source in spec.models],
        "method": spec.method,
        "base": None if spec.base is None else _to_json(spec.base),
        "parameters": {name: _value(item) for name, item in spec.parameters.items()},
        "rules": [
            [list(rule.match), rule.layers, rule.method, dict(rule.parameters)]
            for rule in spec.rules
        ],
        "heads": spec.heads,
        "dtype": spec.dtype,
        "force": spec.force,
        "check_load": spec.check_load,
        "mergekit": None if spec.layout is None else spec.layout.to_json(),
    }


def spec_from_json(value: Mapping[str, Any]) -> Spec:
    """The spec that ``spec_to_json`` was given."""
    return Spec(
        models=[_from_json(source) for source in value["models"]],
        method=value["method"],
        base=None if value["base"] is None else _from_json(value["base"]),
        parameters=value["parameters"],
        rules=[
            Rule(tuple(match), tuple(layers) if layers else None, method, parameters)
            for match, layers, method, parameters in value["rules"]
        ],
        heads=value["heads"],
        dtype=value["dtype"],
        force=value["force"],
        check_load=value["check_load"],
        layout=None if value["mergekit"] is None else layout_from_json(value["mergekit"]),
    )


def layout_from_json(value: Mapping[str, Any]) -> SelfPlanned:
    """The recipe of mergekit's, mergekit-moe's or a transplant that ``to_json`` was asked of."""
    if "transplant" in value:
        from stockpot.merging.transplant import Transplant

        return Transplant(value["transplant"])
    if "experts" in value:
        from stockpot.merging.mergekit.mixture import mixture_from_json

        return mixture_from_json(value)
    from stockpot.merging.mergekit.recipe import recipe_from_json

    return recipe_from_json(value)


def stamps(value: Any) -> list[Any]:
    """Size and time of every file that a spec (as JSON) names, to notice that one has changed."""
    if isinstance(value, Mapping):
        value = [item for _, item in sorted(value.items())]
    if isinstance(value, list):
        return [stamp for item in value for stamp in stamps(item)]
    if not isinstance(value, str) or not value.startswith("/"):
        return []
    path = Path(value)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [(file, file.stat()) for file in files if file.is_file()]
    return [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in found]


def _to_json(source: Source) -> Any:
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        return str(path.resolve()) if path.exists() else str(source)
    if isinstance(source, Spec):
        return {"merge": spec_to_json(source)}
    if isinstance(source, AdaptedSource):
        return {"base": _to_json(source.base), "adapter": _to_json(source.adapter)}
    if isinstance(source, AlignedSource):
        return {"align": _to_json(source.model), "reference": _to_json(source.reference)}
    raise InputError(
        "models in memory cannot be merged by several processes",
        hint="write them to files that all machines see",
    )


def _from_json(value: Any) -> Source:
    if isinstance(value, str):
        return value
    if "merge" in value:
        return spec_from_json(value["merge"])
    if "align" in value:
        return AlignedSource(_from_json(value["align"]), _from_json(value["reference"]))
    return AdaptedSource(_from_json(value["base"]), value["adapter"])


def _value(item: Any) -> Any:
    """A parameter; files of statistics by their absolute path."""
    if isinstance(item, list | tuple):
        return [_value(one) for one in item]
    if isinstance(item, Path) or (isinstance(item, str) and Path(item).exists()):
        return str(Path(item).resolve())
    if isinstance(item, Checkpoint) or (
        isinstance(item, Mapping) and any(hasattr(one, "shape") for one in item.values())
    ):
        return _to_json(item)
    return item
