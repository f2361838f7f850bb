"""Sums over each token's states, in float32 whatever the states' dtype.

States of 16 bits are widened some tokens at a time, in buffers that stay in the processor's
cache: products of 16-bit numbers are exact in float32, so only the sum is rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from moe_lens.engine.workers import run_jobs
from moe_lens.engine.workspace import Workspace

_TOKENS_PER_JOB = 256
_TOKENS_PER_BLOCK = 32
_TOKENS_PER_CALL_ON_DEVICE = 4096

_Block = Callable[[slice, Workspace], None]


def sum_dtype(states: Tensor) -> torch.dtype:
    """What sums are kept in: float32, or float64 for float64 states."""
    return torch.promote_types(states.dtype, torch.float32)


def gram(states: Float[Tensor, "tok state d_model"]) -> Float[Tensor, "tok state state"]:
    """Every inner product of a token's states."""
    num_tokens, num_states, width = states.shape
    out = states.new_empty(num_tokens, num_states, num_states, dtype=sum_dtype(states))

    def block(rows: slice, workspace: Workspace) -> None:
        wide = _widened(states[rows], workspace)
        torch.bmm(wide, wide.mT, out=out[rows])

    _over_tokens(block, states, flops=2.0 * out.numel() * width)
    return out


def weighted_sum(
    states: Float[Tensor, "tok state d_model"],
    weights: Float[Tensor, "tok state"],
    *,
    dtype: torch.dtype,
) -> Float[Tensor, "tok d_model"]:
    """Each token's states times their weights, added up, then rounded to `dtype`."""
    num_tokens, _, width = states.shape
    out = states.new_empty(num_tokens, width, dtype=dtype)
    wide_weights = weights.to(sum_dtype(states)).unsqueeze(1)

    def block(rows: slice, workspace: Workspace) -> None:
        wide = _widened(states[rows], workspace)
        total = workspace.take("total", len(wide), 1, width, like=wide)
        out[rows] = torch.bmm(wide_weights[rows], wide, out=total).squeeze(1)

    _over_tokens(block, states, flops=2.0 * states.numel())
    return out


def keep_rows(
    states: Float[Tensor, "tok state d_model"], rows: Int[Tensor, " row"]
) -> Float[Tensor, "row state d_model"]:
    """These rows, which rise, moved to the front of the same memory, some at a time."""
    for start in range(0, len(rows), _TOKENS_PER_JOB):
        some = rows[start : start + _TOKENS_PER_JOB]
        states[start : start + len(some)] = states[some]  # no later row was overwritten: they rise
    return states[: len(rows)]


def _widened(states: Tensor, workspace: Workspace) -> Tensor:
    dtype = sum_dtype(states)
    if states.dtype is dtype:
        return states
    return workspace.take("wide", *states.shape, like=states, dtype=dtype).copy_(states)


def _over_tokens(block: _Block, states: Tensor, *, flops: float) -> None:
    num_tokens = states.shape[0]
    if states.device.type != "cpu":
        workspace = Workspace()
        for start in range(0, num_tokens, _TOKENS_PER_CALL_ON_DEVICE):
            block(slice(start, min(start + _TOKENS_PER_CALL_ON_DEVICE, num_tokens)), workspace)
        return
    starts = range(0, num_tokens, _TOKENS_PER_JOB)
    run_jobs([partial(_blocks, block, start, num_tokens) for start in starts], flops=flops)


def _blocks(block: _Block, start: int, num_tokens: int, workspace: Workspace) -> None:
    stop = min(start + _TOKENS_PER_JOB, num_tokens)
    for first in range(start, stop, _TOKENS_PER_BLOCK):
        block(slice(first, min(first + _TOKENS_PER_BLOCK, stop)), workspace)
