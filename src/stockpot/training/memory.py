"""Keep freed memory instead of handing it back to the system after every large tensor."""

from __future__ import annotations

import ctypes
import functools

# Names and numbers of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


@functools.cache
def keep_memory() -> bool:
    """Tell glibc's allocator to reuse large blocks; returns whether it did.

    By default it gets every block above 32 MB from the system and returns it when it is freed, so
    that each activation of a convolutional network is zeroed page by page in every step. On two CPU
    cores that is a third of the training time. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
