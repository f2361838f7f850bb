"""`keep_freed_memory`: large blocks that were freed are used again, not fetched anew."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT = (2**26, 2**25)
"""Bytes. Blocks up to this size stay with the process, at the heap's end four times as much; before
version 2.35 glibc takes no more than the second."""
_OWN_SETTINGS = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed, for the rest of the process; gives whether it agreed.

    By itself it hands every block of 32 MiB and more back to the system, which fills the next one
    with zeros, page by page. Nothing is changed where the environment tunes malloc already
    (`GLIBC_TUNABLES`, `MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`), or beside another libc.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _OWN_SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    for size in _KEPT:
        if mallopt(_M_MMAP_THRESHOLD, size):
            return bool(mallopt(_M_TRIM_THRESHOLD, 4 * size))
    return False
