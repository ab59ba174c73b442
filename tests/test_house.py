"""The measures of tools/house.py, on sources whose numbers are plain to see."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", ROOT / "tools" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module
    spec.loader.exec_module(module)
    return module


LONG = "def long():\n" + '    """Two\n    lines."""\n' + "    x = 1\n" * 60
SOURCES = {
    "pot/recycling/results.py": '''"""A docstring
of two lines."""

from typing import Any

import pot.tools  # a comment


class Shown:
    """One line."""

    values: dict[str, Any] = {}


def same(a: int) -> int:
    b = a + 1
    c = b * 2
    return c
''',
    "pot/tools.py": '''from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pot.other import Shown


def again(a: int) -> int:
    """Not part of the letter."""
    b = a + 1
    c = b * 2
    return c


def lazy() -> None:
    from pot.recycling import results
''',
    "pot/other.py": f"class Shown: ...\n\n\nclass _Hidden: ...\n\n\n{LONG}",
    "pot/third.py": "class _Hidden: ...\n",
}


def test_every_measure_on_a_small_house(house: ModuleType, tmp_path: Path) -> None:
    for name, text in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    measured = house.measure(list(house.read_modules(tmp_path)))
    # imports 2, class 2, function 4; an if and an import 3, functions 4 and 2; class 2, def 61 + 1.
    assert measured.lines["recycling"] == 8
    assert measured.lines["tools"] == 9
    assert measured.places["class_clashes"] == ["Shown: pot.other, pot.recycling.results"]
    assert measured.places["untyped_results"] == ["pot.recycling.results:12"]
    assert measured.places["import_circles"] == ["pot.recycling.results <-> pot.tools"]
    assert measured.places["long_functions"] == ["pot.other:long (61 lines)"]
    assert measured.places["duplicates"] == ["pot.recycling.results:same = pot.tools:again"]
