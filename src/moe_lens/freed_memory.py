"""Large blocks that were freed are used again, not fetched anew: `keep_freed_memory`.

Where no more such work comes, `give_freed_memory_back`. What must go the moment it is let go of
lies on `pages` of its own.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from contextlib import suppress
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_BLOCK_BYTES = (2**26, 2**25)
"""Blocks up to this size stay with the process; before version 2.35 glibc takes no more than the
second."""
_OWN_SETTINGS = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


@lru_cache(maxsize=1)
def keep_freed_memory(*, heap_end_bytes: int = 2**28) -> bool:
    """Tell glibc to keep what is freed, for the rest of the process; gives whether it agreed.

    By itself it hands every block of 32 MiB and more back to the system, which fills the next one
    with zeros, page by page. Nothing is changed where the environment tunes malloc already
    (`GLIBC_TUNABLES`, `MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`), or beside another libc.

    Args:
        heap_end_bytes: Kept at the end of the heap, at most.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None or any(name in os.environ for name in _OWN_SETTINGS):
        return False
    blocks = any(mallopt(_M_MMAP_THRESHOLD, size) for size in _BLOCK_BYTES)
    return bool(blocks and mallopt(_M_TRIM_THRESHOLD, heap_end_bytes))


def give_freed_memory_back() -> None:
    """Give the system every page that is kept though it is free."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    """One of its functions of malloc.h; None beside another libc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def pages(num_bytes: int) -> UInt8[Tensor, " byte"]:
    """Memory from the system itself, that goes with the tensor.

    On huge pages where Linux has them, unless `THP_MEM_ALLOC_ENABLE` is 0, as torch's own tensors.
    """
    if not hasattr(mmap, "MAP_PRIVATE"):
        return torch.empty(num_bytes, dtype=torch.uint8)
    found = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE") and os.environ.get("THP_MEM_ALLOC_ENABLE") != "0":
        with suppress(OSError):  # a kernel without them
            found.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(found, dtype=torch.uint8)
