import importlib.util
from pathlib import Path

import pytest


def _load():
    spec = importlib.util.spec_from_file_location(
        "report_example", Path(__file__).with_name("example.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make_results():
    """Function that simulates a results.json: ``make_results(trials=3, runs=6, seed=0)``."""
    return _load().example_results


@pytest.fixture
def results(make_results, request):
    """A small comparison of its own for each test, which may change it."""
    import copy

    if not hasattr(request.session, "_results"):
        request.session._results = make_results(trials=2, runs=4)
    return copy.deepcopy(request.session._results)
