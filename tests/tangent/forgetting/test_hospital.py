"""The example that tells the story from five sites to a certificate."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "hospital.py"


def test_the_hospital_story_ends_with_certificates_that_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = capsys.readouterr().out
    assert said.count("equal bits True") == 2
    for kind in ("deltas", "sums"):
        value = json.loads((tmp_path / f"certificate-{kind}.json").read_text())
        assert value["removed"][0]["name"] == "Cork"
        assert value["accuracy"]["after"]["test"] > 0.9
