"""Threads are as they were after every test that changes their number."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from moe_lens.engine import workers


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    workers._pool.cache_clear()
