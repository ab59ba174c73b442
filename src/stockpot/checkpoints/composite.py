"""Folders of several models that belong together: sentence-transformers and diffusers pipelines.

Each component is a folder with weights of its own. As one checkpoint its tensors are called
``component/name``; those of a model that lies in the folder itself keep their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.dtypes import Array
from stockpot.checkpoints.header import TensorInfo
from stockpot.errors import CheckpointError
from stockpot.reading import read_json

MODULES, PIPELINE = "modules.json", "model_index.json"
_COMPONENT = re.compile(r"\w[\w.-]{0,99}")
_MOST = 1000


class CompositeCheckpoint(Checkpoint):
    """Several checkpoints under one label.

    Attributes:
        components: the checkpoints by prefix: "" or "component/".
        files: name of the weights file of each component, for a folder that is written like this.
    """

    def __init__(
        self,
        components: Mapping[str, Checkpoint],
        files: Mapping[str, str],
        *,
        label: str,
        path: Path,
    ) -> None:
        self.components, self.files = dict(components), dict(files)
        self._origin: dict[str, tuple[Checkpoint, str]] = {}
        tensors: dict[str, TensorInfo] = {}
        for prefix, component in components.items():
            for name, info in component.tensors.items():
                tensors[prefix + name] = TensorInfo(prefix + name, info.shape, info.dtype)
                self._origin[prefix + name] = component, name
        super().__init__(tensors, label=label, path=path)

    @property
    def home(self) -> Path | None:
        return self.path

    @property
    def stored(self) -> Checkpoint:
        return self.mapped(lambda component: component.stored)

    @property
    def notes(self) -> list[str]:
        return [note for component in self.components.values() for note in component.notes]

    def mapped(self, change: Callable[[Checkpoint], Checkpoint]) -> CompositeCheckpoint:
        """The same with other views of its components; itself where they are the same."""
        changed = {prefix: change(component) for prefix, component in self.components.items()}
        if all(changed[prefix] is component for prefix, component in self.components.items()):
            return self
        assert self.path is not None
        return CompositeCheckpoint(changed, self.files, label=self.label, path=self.path)

    def raw(self, name: str) -> Array:
        component, own = self._of(name)
        return component.raw(own)

    def decode(self, name: str, start: int, stop: int, out: Array) -> Array:
        component, own = self._of(name)
        return component.decode(own, start, stop, out)

    def read(self, name: str) -> Array:
        component, own = self._of(name)
        return component.read(own)

    def blocks(self, name: str, elements: int) -> Iterator[Array]:
        component, own = self._of(name)
        return component.blocks(own, elements)

    def first_nonfinite(self, name: str, start: int, stop: int) -> int | None:
        component, own = self._of(name)
        return component.first_nonfinite(own, start, stop)

    def prefetch(self, name: str) -> None:
        if name in self._origin:
            component, own = self._origin[name]
            component.prefetch(own)

    def close(self) -> None:
        for component in self.components.values():
            component.close()

    def _of(self, name: str) -> tuple[Checkpoint, str]:
        self.info(name)
        return self._origin[name]


def component_files(source: Checkpoint | None) -> dict[str, str] | None:
    """Prefixes and weights files of a model's components; None for a model of one piece."""
    return source.files if isinstance(source, CompositeCheckpoint) else None


def component_names(folder: Path) -> list[str]:
    """Folders that ``modules.json`` or ``model_index.json`` lists, "" for the folder itself; empty
    for a folder that is one model.

    Raises ``CheckpointError`` for a list that cannot be read, or that leaves the folder.
    """
    for file in (MODULES, PIPELINE):
        try:
            content = read_json(folder / file, "a list of components", error=CheckpointError)
        except (FileNotFoundError, NotADirectoryError):
            continue
        names = _listed(content)
        if len(names) > _MOST:
            raise CheckpointError(
                f"{folder / file} names {len(names):,} components, the limit is {_MOST:,}"
            )
        bad = [name for name in names if name and not _COMPONENT.fullmatch(name)]
        if bad:
            raise CheckpointError(f"{folder / file} names the component {bad[0]!r:.80}")
        return list(dict.fromkeys(names))
    return []


def _listed(content: Any) -> list[str]:
    if isinstance(content, list):
        return [str(entry.get("path", "")) for entry in content if isinstance(entry, dict)]
    if isinstance(content, dict):
        return [name for name in content if not name.startswith("_")]
    return []
