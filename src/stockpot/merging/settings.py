"""Which method with which parameters a tensor gets: a default, rules by name or layer,
gradients.

A rule matches tensors by glob (``"*.mlp.*"``) and range of layers; later rules win, parameter by
parameter. A numeric parameter may be a gradient: ``{"gradient": [0, 0.5, 1]}`` is interpolated
linearly over the layers, first to last; tensors outside the layers get the value of the nearer
end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from stockpot.errors import MethodError
from stockpot.merging.method import Method, get_method
from stockpot.merging.parameters import PerModel, Real

_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


@dataclass(frozen=True)
class Rule:
    """Other settings for some tensors.

    ``match``: globs, any of which must match the name. ``layers``: first and last layer, both
    included. ``method``: None keeps the default's. ``parameters``: those that differ.
    """

    match: tuple[str, ...] = ("*",)
    layers: tuple[int, int] | None = None
    method: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def applies(self, name: str) -> bool:
        if self.layers is not None:
            layer = layer_of(name)
            if layer is None or not self.layers[0] <= layer <= self.layers[1]:
                return False
        return any(fnmatchcase(name, glob) for glob in self.match)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"match": list(self.match)}
        if self.layers:
            value["layers"] = list(self.layers)
        if self.method:
            value["method"] = self.method
        return {**value, **self.parameters}


def layer_of(name: str) -> int | None:
    """Number of the layer a tensor belongs to: the first number in its dotted name, or None."""
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


class Settings:
    """Resolves method and checked parameters for each tensor.

    Raises ``MethodError`` at once for a value outside its range, wherever a rule would use it.
    """

    def __init__(
        self,
        method: str,
        parameters: Mapping[str, Any],
        *,
        models: int,
        rules: Sequence[Rule] = (),
        names: Sequence[str] = (),
    ) -> None:
        self._method = method
        self._parameters = dict(parameters)
        self._models = models
        self._rules = tuple(rules)
        layers = [layer for name in names if (layer := layer_of(name)) is not None]
        self._last_layer = max(layers, default=0)
        self._before_layers = _leading(names)
        self._gradients: dict[tuple[int, ...], bool] = {}
        self._resolved: dict[tuple[Any, ...], tuple[Method, dict[str, Any]]] = {}
        self._check()

    def of(self, name: str) -> tuple[Method, dict[str, Any]]:
        """Method and parameters of the tensor ``name``."""
        rules = [rule for rule in self._rules if rule.applies(name)]
        same = tuple(id(rule) for rule in rules)
        if same not in self._gradients:
            self._gradients[same] = self._has_gradient(rules)
        position = self._position(name) if self._gradients[same] else 0.0
        key = (same, position)
        if key not in self._resolved:
            self._resolved[key] = self._resolve(rules, position)
        return self._resolved[key]

    @staticmethod
    def used(method: str, rules: Sequence[Rule]) -> list[Method]:
        """Every method that some tensor may get; the default first."""
        names = [method, *(rule.method for rule in rules if rule.method)]
        return [get_method(name) for name in dict.fromkeys(names)]

    def methods(self) -> list[Method]:
        """Every method that some tensor may get; the default first."""
        return self.used(self._method, self._rules)

    def _check(self) -> None:
        for rules in ([], *([rule] for rule in self._rules)):
            values = [*self._parameters.values()]
            values += [value for rule in rules for value in rule.parameters.values()]
            for position in _corners(values):
                self._resolve(rules, position)

    def _resolve(self, rules: Sequence[Rule], position: float) -> tuple[Method, dict[str, Any]]:
        chosen, values = self._method, dict(self._parameters)
        for rule in rules:
            if rule.method is not None and rule.method != chosen:
                # Parameters of another method keep their meaning only where both declare them.
                chosen = rule.method
                known = {parameter.name for parameter in get_method(chosen).parameters}
                values = {name: value for name, value in values.items() if name in known}
            values |= rule.parameters
        method = get_method(chosen)
        at = {name: _at(method, name, value, position) for name, value in values.items()}
        return method, method.resolve(at, models=self._models)

    def _position(self, name: str) -> float:
        layer = layer_of(name)
        if layer is None:
            return 0.0 if name in self._before_layers else 1.0
        return layer / self._last_layer if self._last_layer else 0.0

    def _has_gradient(self, rules: Sequence[Rule]) -> bool:
        values = [*self._parameters.values()]
        values += [value for rule in rules for value in rule.parameters.values()]
        return any(_is_gradient(value) or _holds_gradient(value) for value in values)


def _at(method: Method, name: str, value: Any, position: float) -> Any:
    """Value of a parameter at a place between the first (0) and the last (1) layer."""
    if _holds_gradient(value):
        return [_at(method, name, item, position) for item in value]
    if not _is_gradient(value):
        return value
    points = value["gradient"]
    declared = {p.name: p for p in method.parameters}.get(name)
    if declared is not None and not isinstance(declared, Real | PerModel):
        raise MethodError(f"parameter '{name}' is {declared.range} and can have no gradient")
    if not isinstance(points, Sequence) or not points or not all(_is_number(p) for p in points):
        raise MethodError(f"gradient of '{name}': got {points!r}, expected a list of numbers")
    place = position * (len(points) - 1)
    low = min(int(place), len(points) - 1)
    high = min(low + 1, len(points) - 1)
    return float(points[low] + (points[high] - points[low]) * (place - low))


def _corners(values: Sequence[Any]) -> list[float]:
    """Places where a gradient has its extreme values: its points."""
    places = {0.0, 1.0}
    for value in values:
        for item in value if _holds_gradient(value) else (value,):
            if _is_gradient(item) and isinstance(item["gradient"], Sequence):
                last = max(len(item["gradient"]) - 1, 1)
                places |= {index / last for index in range(last + 1)}
    return sorted(places)


def _is_gradient(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"gradient"}


def _holds_gradient(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(_is_gradient(item) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _leading(names: Sequence[str]) -> frozenset[str]:
    """Tensors without a layer that come from before the layers: embeddings and the like."""
    return frozenset(name for name in names if layer_of(name) is None and "embed" in name)
