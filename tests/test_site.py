"""The documentation as a site: generated pages are fresh, code runs, nothing is left out."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def configuration() -> dict:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def pages(entry: object) -> list[str]:
    """Files of a navigation, in order."""
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in pages(value)]


def test_every_page_is_in_the_navigation_once() -> None:
    shown = pages(configuration()["nav"])
    written = {
        str(path.relative_to(DOCS))
        for path in DOCS.rglob("*.md")
        if not path.name.endswith((".notes.md", ".sure.md"))
    }
    assert sorted(shown) == sorted(written)


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    module = load(DOCS / "make_cli.py")
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == module.page()


@pytest.mark.parametrize("name", ["merge", pytest.param("recycle", marks=pytest.mark.slow)])
def test_tutorials_run_and_their_pages_show_them(name: str) -> None:
    """Numbers of a training differ between processors; what was run does not."""
    script = DOCS / "tutorials" / f"{name}.py"
    module = load(DOCS / "make_tutorials.py")
    cells = module.run(script)
    page, notebook = module.page(script, cells), module.notebook(cells)
    for made, suffix in ((page, ".md"), (notebook, ".ipynb")):
        written = script.with_suffix(suffix).read_text(encoding="utf-8")
        if name == "merge":
            assert written == made
        else:
            code = [line for cell in cells for line in cell.source.splitlines() if line]
            assert all(line in written or json.dumps(line)[1:-1] in written for line in code)
            assert len(written.splitlines()) == pytest.approx(len(made.splitlines()), abs=8)


def test_every_tutorial_is_run() -> None:
    assert {path.stem for path in (DOCS / "tutorials").glob("*.py")} == {"merge", "recycle"}


@pytest.mark.parametrize("name", ["index.md", "start/merge.md", "soup.md", "averaging.md"])
def test_python_on_the_first_pages_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, name, "exec"), {})
    if name == "index.md":
        assert capsys.readouterr().out.splitlines() == ["same ancestor", "(64, 64)"]


def test_every_paper_that_the_code_names_is_named_in_the_docs() -> None:
    number = re.compile(r"\b\d{4}\.\d{5}\b")
    texts = [path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")]
    named = {match for text in texts for match in number.findall(text)}
    for path in (ROOT / "src").rglob("*.py"):
        for paper in number.findall(path.read_text(encoding="utf-8")):
            assert paper in named, f"{path.name} names arXiv {paper}, and no page does"


def test_a_site_that_loads_or_links_to_what_is_not_there_is_refused(tmp_path: Path) -> None:
    checker = load(ROOT / "tools" / "check_site.py")
    faults = {
        '<script src="https://elsewhere.example/x.js"></script>': "loads https",
        '<link rel="stylesheet" href="https://elsewhere.example/x.css">': "loads https",
        '<a href="gone.html">x</a>': "which is not there",
        '<img src="gone.png">': "which is not there",
        '<a href="#gone">x</a>': "has no such anchor",
        '<a href="../outside.html">x</a>': "which is not there",
    }
    path = tmp_path / "index.html"
    (tmp_path.parent / "outside.html").write_text("<p>")
    for body, fault in faults.items():
        path.write_text(body, encoding="utf-8")
        page = checker.Page(path)
        assert fault in " ".join(checker.check(path, page, {path: page}, tmp_path))
    path.write_text('<p id="here"><a href="#here">x</a><a href="https://a.example">y</a>')
    page = checker.Page(path)
    assert list(checker.check(path, page, {path: page}, tmp_path)) == []
