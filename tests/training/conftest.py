"""What tests of training leave behind stays in their temporary folder."""

from __future__ import annotations

from contextlib import chdir

import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path):
    with chdir(tmp_path):
        yield
