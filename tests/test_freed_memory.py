"""Large blocks stay with the process while models are observed, unless it tunes malloc itself."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_CHILD = """
import resource
import torch
from moe_lens.engine.session import Session
from tests.engine.families import proven

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(10 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
with Session(proven("olmoe"), sink=lambda event: None):
    pass
faults()
print(faults())
"""
_HUGE_PAGES = 20 * 10 * 2**20 * 4 // 2**21


def faults(**environment: str) -> int:
    """Pages that twenty blocks of 40 MiB, one after the other, are given anew after a session."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "THP_MEM_ALLOC_ENABLE": "0", **environment},
    )
    return int(done.stdout)


pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="it is glibc that is told"
)


def test_freed_blocks_are_used_again_after_a_session() -> None:
    assert faults() < 0.2 * _HUGE_PAGES


def test_a_process_that_tunes_malloc_is_left_alone() -> None:
    assert faults(MALLOC_MMAP_THRESHOLD_=str(2**20)) > 0.9 * _HUGE_PAGES
