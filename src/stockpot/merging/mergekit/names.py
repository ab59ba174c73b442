"""Tensors by their names: stacks of layers, what lies outside them, modules, types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stockpot.checkpoints import Checkpoint
from stockpot.reading import read_json

_LAYER = re.compile(r"(?P<stack>(?:^|.*?\.))(?P<layer>\d+)(?P<rest>\..*)")
_BEFORE = re.compile(r"embed|wte|wpe|relative_pe|(^|\.)shared\.|patch|conv1|conv2|class_|_pre\.")
_AFTER = re.compile(r"embed_out")
_WIDTH = {"F8_E5M2": 0, "F8_E4M3": 0, "F16": 1, "BF16": 1, "F32": 2, "F64": 3}


class NamedTensors:
    """The names of a model, sorted into stacks of layers and what lies outside.

    Attributes:
        outside: names without a layer.
        stacks: name of the stack -> number of the layer -> rest of the name -> name.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.outside: list[str] = []
        self.stacks: dict[str, dict[int, dict[str, str]]] = {}
        for name in names:
            match = _LAYER.fullmatch(name)
            if match is None:
                self.outside.append(name)
            else:
                layers = self.stacks.setdefault(match["stack"], {})
                layers.setdefault(int(match["layer"]), {})[match["rest"]] = name

    def depth(self, stack: str) -> int:
        """Number of layers of a stack."""
        return max(self.stacks.get(stack, {}), default=-1) + 1


def comes_before(name: str) -> bool:
    """Whether a tensor outside the layers comes before them."""
    return bool(_BEFORE.search(name) and not _AFTER.search(name))


def promoted_type(codes: Sequence[str]) -> str:
    """The type that holds values of all these types."""
    widest = max(_WIDTH[code] for code in codes)
    top = {code for code in codes if _WIDTH[code] == widest}
    if len(top) > 1:
        return "F32"
    code = top.pop()
    return "BF16" if code.startswith("F8") else code


def module_of(name: str, modules: Mapping[str, Sequence[str]]) -> str | None:
    """The module whose prefix a name has, the longest first."""
    found = [
        (len(prefix), module)
        for module, prefixes in modules.items()
        for prefix in prefixes
        if name.startswith(prefix)
    ]
    return max(found)[1] if found else None


def read_config(source: Checkpoint) -> dict[str, Any]:
    """The config beside a model's weights; empty where there is none."""
    if source.home is None:
        return {}
    content = read_json(source.home / "config.json", "a model's config")
    return content if isinstance(content, dict) else {}
