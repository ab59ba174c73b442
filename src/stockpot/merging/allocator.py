"""Keep the memory of freed blocks in the process.

glibc gives an array of a megabyte back to the system as soon as it is freed and takes it anew,
zeroed page by page, for the next one. Merging frees and takes such arrays all the time; that
alone doubled the processor time of methods with many temporaries.
"""

from __future__ import annotations

import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_BLOCK = 32 << 20
_KEPT = 128 << 20


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep up to 128 MB of freed memory; False where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    done = mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK) == 1
    done &= mallopt(_M_TRIM_THRESHOLD, _KEPT) == 1
    return bool(done and mallopt(_M_TOP_PAD, _LARGEST_BLOCK) == 1)
