"""The page of scores says what the declarations say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_what_the_declarations_write():
    spec = importlib.util.spec_from_file_location("make_scores", DOCS / "make_scores.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    current = (DOCS / "scores.md").read_text(encoding="utf-8")
    assert current == module.page(), "run: python docs/make_scores.py"
