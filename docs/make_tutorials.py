"""Run docs/tutorials/*.py, write each as a page and a notebook: ``python docs/make_tutorials.py``.

A tutorial is a plain script in cells: ``# %%`` begins code, ``# %% [markdown]`` begins text. What
its cells print stands below them. A test runs every script and compares with the pages.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "tutorials"
_TEXT, _CODE = "# %% [markdown]", "# %%"


@dataclass(frozen=True)
class TutorialCell:
    """Text, or code and what it printed."""

    code: bool
    source: str
    output: str = ""


def main() -> None:
    for script in sorted(FOLDER.glob("*.py")):
        cells = run(script)
        script.with_suffix(".md").write_text(page(script, cells), encoding="utf-8")
        script.with_suffix(".ipynb").write_text(notebook(cells), encoding="utf-8")


def run(script: Path) -> list[TutorialCell]:
    """The script's cells, run from the first to the last in one namespace."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    return [_run(cell, namespace) for cell in _split(script.read_text(encoding="utf-8"))]


def page(script: Path, cells: list[TutorialCell]) -> str:
    """Markdown."""
    parts = [f"<!-- Written by docs/make_tutorials.py; change {script.name}, not this page. -->"]
    for cell in cells:
        parts.append(f"```python\n{cell.source}\n```" if cell.code else cell.source)
        if cell.output:
            parts.append(f"```text\n{cell.output.rstrip()}\n```")
    parts.append(f"As a [notebook]({script.stem}.ipynb) and as a [script]({script.name}).")
    return "\n\n".join(parts) + "\n"


def notebook(cells: list[TutorialCell]) -> str:
    """The same as a Jupyter notebook, version 4.5."""
    values = [_notebook_cell(cell, str(number)) for number, cell in enumerate(cells)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    value = {
        "cells": values,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(value, indent=1) + "\n"


def _split(text: str) -> Iterator[TutorialCell]:
    for part in text.split(f"\n{_CODE}") if text.startswith(_CODE) else []:
        marked = part if part.startswith(_CODE) else _CODE + part
        if marked.startswith(_TEXT):
            lines = marked.removeprefix(_TEXT).strip().splitlines()
            yield TutorialCell(False, "\n".join(line.removeprefix("#")[1:] for line in lines))
        else:
            yield TutorialCell(True, marked.removeprefix(_CODE).strip())


def _run(cell: TutorialCell, namespace: dict[str, Any]) -> TutorialCell:
    if not cell.code:
        return cell
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(cell.source, "tutorial", "exec"), namespace)
    return TutorialCell(True, cell.source, printed.getvalue())


def _notebook_cell(cell: TutorialCell, name: str) -> dict[str, Any]:
    source = cell.source.splitlines(keepends=True)
    if not cell.code:
        return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}
    stream = {
        "output_type": "stream",
        "name": "stdout",
        "text": cell.output.splitlines(keepends=True),
    }
    return {
        "cell_type": "code",
        "id": name,
        "metadata": {},
        "source": source,
        "execution_count": None,
        "outputs": [stream] if cell.output else [],
    }


if __name__ == "__main__":
    main()
