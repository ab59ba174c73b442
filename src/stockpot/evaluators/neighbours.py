"""A function of a file imports the files beside it, as a program that is started there does."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Self


class Neighbours:
    """While entered, modules of ``folder`` can be imported; afterwards nobody else has them.

    Two folders may both have a ``helper.py``, and a file that has changed is read again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._own: dict[str, ModuleType] = {}
        self._others: set[str] = set()

    def __enter__(self) -> Self:
        self._others = set(sys.modules)
        sys.path.insert(0, str(self._folder))
        sys.modules.update({k: v for k, v in self._own.items() if k not in self._others})
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(ValueError):  # the function may have changed the path itself
            sys.path.remove(str(self._folder))
        for name in sys.modules.keys() - self._others:
            top = name.partition(".")[0]
            beside = (self._folder / f"{top}.py", self._folder / top)
            if name.startswith("stockpot_file_") or any(one.exists() for one in beside):
                self._own[name] = sys.modules.pop(name)
