"""A server's surroundings: a registry with a story, runs finished and at work."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the dashboard needs stockpot[web]")

from starlette.testclient import TestClient

from stockpot.execution import Job, Serial, run_jobs
from stockpot.web import ServerSettings, make_app
from tests.report.example import example_results
from tests.report.test_ranking import results as ranking_results
from tests.web.models import community

TOKEN = "correct-horse-battery-staple"
HELPERS = "tests.execution.helpers"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A registry that tests only read, and its models' ids."""
    scratch = tmp_path_factory.mktemp("community")
    return scratch / "registry", community(scratch / "registry", scratch)


@pytest.fixture(scope="session")
def results() -> dict[str, dict]:
    return {"rank": ranking_results(), "recycle": example_results(trials=1, runs=4)}


@pytest.fixture
def runs(tmp_path: Path, results: dict[str, dict]) -> Path:
    """A ranking, a comparison, and a set of jobs of which one failed."""
    root = tmp_path / "runs"
    for name, value in results.items():
        (root / name).mkdir(parents=True)
        (root / name / "results.json").write_text(json.dumps(copy.deepcopy(value)))
    done = [Job(f"{HELPERS}:write", {"text": text}, label=f"write <{text}>") for text in "ab"]
    bad = Job(f"{HELPERS}:fail", inputs={"first": done[0]}, label="fail on purpose")
    after = Job(f"{HELPERS}:write", {"text": "c"}, {"bad": bad}, label="never reached")
    with pytest.raises(Exception, match="the cause"):
        run_jobs([*done, after], root / "jobs" / "work", Serial())
    return root


@pytest.fixture
def client(made: tuple[Path, dict[str, str]], runs: Path) -> TestClient:
    """A browser without scripts before a server that has a token."""
    settings = ServerSettings(str(made[0]), (runs,), TOKEN)
    return TestClient(make_app(settings), base_url="http://127.0.0.1:8420")
