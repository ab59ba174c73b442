"""Keep freed memory in the process instead of handing it back to the system.

glibc gives large blocks back as soon as they are freed and takes them anew, zeroed page by page,
for the next one. Merging and training free and take such blocks all the time: that alone doubled
the processor time of merge methods with many temporaries, and is a third of the training time of
a convolutional network on two cores.
"""

from __future__ import annotations

import ctypes
import functools

# Names and numbers of <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_LARGEST_BLOCK = 32 << 20
_KEPT = 128 << 20
_NEVER = 2**31 - 1


@functools.cache
def keep_freed_blocks() -> bool:
    """Reuse blocks of up to 32 MB, of which at most 128 MB are kept: for work in blocks.

    False where the C library is not glibc. Changes nothing after ``keep_all_freed_memory``.
    """
    return keep_all_freed_memory.cache_info().currsize > 0 or _tell(
        (_M_MMAP_THRESHOLD, _LARGEST_BLOCK),
        (_M_TRIM_THRESHOLD, _KEPT),
        (_M_TOP_PAD, _LARGEST_BLOCK),
    )


@functools.cache
def keep_all_freed_memory() -> bool:
    """Reuse blocks of any size and keep them all: for training, whose steps are alike.

    False where the C library is not glibc.
    """
    return _tell((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER))


def _tell(*settings: tuple[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(name, value) == 1 for name, value in settings)
