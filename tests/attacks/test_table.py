"""The table in docs/security.md counts the cases that are here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_page_counts_what_is_attacked() -> None:
    code = "import runpy; made = runpy.run_path('docs/make_attacks.py'); text = "
    code += "made['PAGE'].read_text(); assert made['page'](text) == text, 'run make_attacks.py'"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
