"""Tests keep what they hash to themselves."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("STOCKPOT_CACHE", str(tmp_path_factory.mktemp("cache")))
