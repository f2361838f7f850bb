"""`run_jobs`: many independent products at once, one thread for each.

One product split over all cores (OpenMP) waits for the slowest core at every step, and collapses
when another process takes one. Whole jobs pulled from a queue by threads that each compute alone
do not wait for one another, and what lies between the products (gathering rows, activations)
runs on all cores too. A job computes the same numbers on whichever thread it lands, so results do
not depend on how jobs were shared out.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache

import torch

from moe_lens.engine.workspace import Workspace

Job = Callable[[Workspace], None]
"""Called once, with buffers that are its thread's own until it returns."""

MIN_FLOPS = 2e8
"""Below about a millisecond of work, handing jobs over costs more than it gains."""


def run_jobs(jobs: Sequence[Job], *, flops: float) -> None:
    """Run all jobs, in any order, on as many threads as torch may use.

    Args:
        jobs: What they write must not overlap.
        flops: About how much work they are together; little work stays on this thread.
    """
    num_threads = min(torch.get_num_threads(), len(jobs))
    if num_threads < 2 or flops < MIN_FLOPS:
        for job in jobs:
            job(_workspace())
        return
    pending = deque(jobs)
    pool = _pool(torch.get_num_threads())
    running = [pool.submit(_work, pending) for _ in range(num_threads)]
    try:
        wait(running)
    finally:
        pending.clear()
    for future in running:
        future.result()


@torch.no_grad()
def _work(pending: deque[Job]) -> None:
    try:
        while True:
            try:
                job = pending.popleft()
            except IndexError:
                return
            job(_workspace())
    except BaseException:
        pending.clear()
        raise


_local = threading.local()


def _workspace() -> Workspace:
    """This thread's own buffers."""
    found: Workspace | None = getattr(_local, "workspace", None)
    if found is None:
        found = _local.workspace = Workspace()
    return found


@lru_cache(maxsize=1)
def _pool(num_threads: int) -> ThreadPoolExecutor:
    """Threads in which torch computes on one core."""
    started = threading.Barrier(num_threads + 1)
    pool = ThreadPoolExecutor(num_threads, "moe-lens", initializer=_compute_alone)
    for _ in range(num_threads):
        pool.submit(started.wait)
    started.wait()
    # The setting is the calling thread's, but also what threads that begin later would copy.
    torch.set_num_threads(num_threads)
    return pool


def _compute_alone() -> None:
    torch.get_num_threads()  # a thread's first call copies the process's setting over its own
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
