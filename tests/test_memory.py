"""Freed memory stays in the process: a new block would be zeroed by the system, page by page."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

_CODE = """
import resource
import numpy as np
from stockpot import memory

for name in {calls}:
    print(getattr(memory, name)())
np.ones({size})
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones({size})
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
_GLIBC = platform.libc_ver()[0] == "glibc"
_BLOCKS, _ALL = "keep_freed_blocks", "keep_all_freed_memory"


def _answers_and_faults(calls: list[str], megabytes: int) -> tuple[list[str], int]:
    """What the calls returned in a new process, and its page faults in 20 arrays of this size."""
    code = _CODE.format(calls=calls, size=megabytes << 17)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *answers, faults = run.stdout.split()
    return answers, int(faults)


@pytest.mark.skipif(not _GLIBC, reason="the C library is not glibc")
@pytest.mark.parametrize(
    ("calls", "megabytes"),
    [([_BLOCKS], 8), ([_ALL], 8), ([_ALL], 100), ([_ALL, _BLOCKS], 100)],
)
def test_memory_is_reused(calls, megabytes):
    answers, faults = _answers_and_faults(calls, megabytes)
    pages = megabytes * 2**20 // resource.getpagesize()
    assert answers == ["True"] * len(calls)
    assert faults < pages


@pytest.mark.skipif(_GLIBC, reason="the C library is glibc")
def test_other_c_libraries_are_left_alone():
    assert _answers_and_faults([_BLOCKS, _ALL], 8)[0] == ["False", "False"]
