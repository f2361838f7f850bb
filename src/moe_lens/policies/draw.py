"""Random numbers that depend on where a token is, not on how the corpus was batched."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from moe_lens.event import Tokens

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def uniform_scores(
    tokens: Tokens, *, num_experts: int, layer: int, seed: int
) -> Float[Tensor, "tok expert"]:
    """One draw from [0, 1) for each token and expert, the same in every batch order.

    Source: splitmix64 (Steele et al., 2014) over (seed, layer, document, position, expert).
    """
    device = tokens.document.device
    key = _mix(torch.tensor(seed, device=device))
    key = _mix(key ^ torch.tensor(layer, device=device))
    rows = _mix(_mix(key ^ tokens.document) ^ tokens.position)
    cells = _mix(rows.unsqueeze(1) ^ torch.arange(num_experts, device=device))
    return (_shift_right(cells, 11)).double() * 2.0**-53


def _mix(state: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    state = state + _GOLDEN
    state = (state ^ _shift_right(state, 30)) * _MIX_1
    state = (state ^ _shift_right(state, 27)) * _MIX_2
    return state ^ _shift_right(state, 31)


def _shift_right(value: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """Logical, not arithmetic: int64 is the only 64-bit integer that torch computes with."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
