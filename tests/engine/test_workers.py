"""Jobs on several threads: all done, errors come back, torch's settings stay as they were."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch

from moe_lens.engine.workers import run_jobs
from moe_lens.engine.workspace import Workspace

ENOUGH = 1e12


@pytest.fixture
def two_threads(threads_restored: None) -> None:
    torch.set_num_threads(2)


@pytest.mark.usefixtures("two_threads")
def test_every_job_runs_once_and_on_more_than_one_thread() -> None:
    both, seen, ran = threading.Barrier(2, timeout=60), set[int](), list[int]()

    def job(number: int, workspace: Workspace) -> None:
        if number < 2:
            both.wait()  # passes only if two jobs run at a time
        seen.add(threading.get_ident())
        ran.append(number)

    run_jobs([partial(job, number) for number in range(20)], flops=ENOUGH)
    assert sorted(ran) == list(range(20))
    assert len(seen) == 2
    assert threading.get_ident() not in seen


@pytest.mark.usefixtures("two_threads")
def test_a_job_computes_alone_without_gradients_and_torch_is_left_as_it_was() -> None:
    found: list[tuple[int, bool]] = []

    def job(workspace: Workspace) -> None:
        found.append((torch.get_num_threads(), torch.is_grad_enabled()))

    run_jobs([job] * 4, flops=ENOUGH)
    assert found == [(1, False)] * 4
    assert torch.get_num_threads() == 2
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2]


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_job_reaches_the_caller_and_ends_the_rest() -> None:
    ran: list[int] = []

    def job(number: int, workspace: Workspace) -> None:
        if number == 0:
            raise ValueError("job 0 broke")
        ran.append(number)

    with pytest.raises(ValueError, match="job 0 broke"):
        run_jobs([partial(job, number) for number in range(5000)], flops=ENOUGH)
    assert len(ran) < 4999
    run_jobs([partial(job, number) for number in (1, 2)], flops=ENOUGH)  # the pool lives on


@pytest.mark.usefixtures("two_threads")
def test_little_work_stays_on_the_callers_thread() -> None:
    seen: list[int] = []
    run_jobs([lambda workspace: seen.append(threading.get_ident())] * 3, flops=1e6)
    assert seen == [threading.get_ident()] * 3


def test_a_workspace_reuses_what_it_gave() -> None:
    workspace, like = Workspace(), torch.empty(0)
    first = workspace.take("x", 4, 8, like=like)
    smaller = workspace.take("x", 2, 3, like=like)
    assert smaller.data_ptr() == first.data_ptr()
    assert smaller.shape == (2, 3)
    assert workspace.take("y", 2, like=like).data_ptr() != first.data_ptr()
    narrow = workspace.take("x", 2, like=like, dtype=torch.bfloat16)
    assert narrow.dtype is torch.bfloat16
    assert narrow.data_ptr() != first.data_ptr()
    assert workspace.take("x", 400, like=like).numel() == 400
