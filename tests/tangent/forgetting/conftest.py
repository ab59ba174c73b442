"""Two runs of which a site withdrew, made once: of deltas, and of statistics."""

from __future__ import annotations

import shutil

import pytest

from tests.tangent.forgetting.audited import World, make_world


@pytest.fixture(scope="session")
def deltas(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("audit") / "world")


@pytest.fixture(scope="session")
def sums(tmp_path_factory) -> World:
    composer = {
        "kind": "statistics",
        "dimension": 32,
        "random_dimension": 32,
        "directions": 1,
        "blocks": 4,
    }
    return make_world(tmp_path_factory.mktemp("audit") / "sums", composer=composer)


@pytest.fixture
def world(deltas, tmp_path) -> World:
    """The folder on another machine."""
    shutil.copytree(deltas.folder, tmp_path / "there", symlinks=True)
    return World(tmp_path / "there")
