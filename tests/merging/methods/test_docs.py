"""The pages of methods say what the declarations say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("page", ["methods", "mergekit"])
def test_the_page_is_what_the_declarations_write(page):
    spec = importlib.util.spec_from_file_location("make", DOCS / f"make_{page}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    current = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert current == module.page(), f"run: python docs/make_{page}.py"
