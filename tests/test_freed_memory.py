"""Large blocks stay with the process while models are observed, unless it tunes malloc itself."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from moe_lens import freed_memory
from tests.memory import anonymous_bytes

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


def test_pages_go_with_their_tensor() -> None:
    size = 2**26
    freed_memory.keep_freed_memory()
    before = anonymous_bytes()
    found = freed_memory.pages(size)
    assert found.shape == (size,)
    assert not bool(found.any())
    found.fill_(1)
    assert found[::4096].sum() == size // 4096
    held = anonymous_bytes() - before
    del found
    assert held > 0.9 * size
    assert anonymous_bytes() - before < 0.1 * size


_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_SHAPES = """
import moe_lens
import torch
from tests.memory import anonymous_bytes

weight = torch.zeros(512, 512, dtype=torch.bfloat16)
x = torch.zeros(1024, 512, dtype=torch.bfloat16)
out = torch.empty(1024, 512, dtype=torch.bfloat16)
torch.set_num_threads(1)
torch.mm(x, weight.T, out=out)
before = anonymous_bytes()
for rows in range(1, 1024):
    torch.mm(x[:rows], weight.T, out=out[:rows])
print(anonymous_bytes() - before)
"""


@pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_bf16"),
    reason="oneDNN compiles these products where the processor has them",
)
def test_shapes_that_were_multiplied_are_forgotten() -> None:
    grown = []
    for environment in ({}, dict.fromkeys(_CACHES, "1024")):
        done = subprocess.run(
            [sys.executable, "-c", _SHAPES],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        grown.append(int(done.stdout))
    assert grown[0] < 0.5 * grown[1]
