"""Causal attention on the CPU, by blocks of queries, in the place of torch's own kernel.

For sequences of some hundred tokens torch's kernel reaches about a tenth of the rate of plain
matrix products. Here a block of queries meets all keys that it may see in two products with a
softmax between: scores and softmax in float32, as there, and no product with a key that comes
later than the block. Attention of any other form (a mask, a window that cuts, a short sequence,
another device) goes to transformers' function as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from moe_lens.engine.products import slow_dtype
from moe_lens.engine.workers import run_jobs
from moe_lens.engine.workspace import Workspace

KEY = "sdpa"
MIN_LENGTH = 128
"""Shorter sequences are no faster this way."""

_QUERIES = 128
_HEADS = 4
_DTYPES = (torch.float32, torch.bfloat16)
_OTHER_FORMS = ("position_bias", "softcap", "cache", "s_aux")
"""Arguments that change what attention computes; all others change nothing in KEY's function."""


@contextmanager
def blockwise_attention() -> Iterator[None]:
    """Within the block, models whose attention is "sdpa" attend by blocks where that is the same.

    The registry is global; what it held is put back.
    """
    stock = ALL_ATTENTION_FUNCTIONS[KEY]
    if getattr(stock, "func", None) is _attention:  # within another such block
        yield
        return
    ALL_ATTENTION_FUNCTIONS.register(KEY, partial(_attention, stock))
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS.register(KEY, stock)


def _attention(
    stock: Any,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    plain = attention_mask is None and causal and dropout == 0.0
    if plain and _fits(query, key, value) and all(kwargs.get(n) is None for n in _OTHER_FORMS):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return causal_attention(query, key, value, scale=scale), None
    found: tuple[Tensor, None] = stock(
        module,
        query,
        key,
        value,
        attention_mask,
        dropout=dropout,
        scaling=scaling,
        is_causal=is_causal,
        **kwargs,
    )
    return found


def _fits(query: Tensor, key: Tensor, value: Tensor) -> bool:
    same = query.dtype == key.dtype == value.dtype and query.shape[2] == key.shape[2]
    on_cpu = query.device.type == "cpu" and query.dtype in _DTYPES
    return same and on_cpu and query.shape[2] >= MIN_LENGTH


class _Heads(NamedTuple):
    """Some key heads of one sequence, with all queries that read them."""

    query: Float[Tensor, "head reader pos d_head"]
    key: Float[Tensor, "head pos d_head"]
    value: Float[Tensor, "head pos d_value"]
    out: Float[Tensor, "head reader pos d_value"]


@torch.no_grad()
def causal_attention(
    query: Float[Tensor, "seq head pos d_head"],
    key: Float[Tensor, "seq key_head pos d_head"],
    value: Float[Tensor, "seq key_head pos d_value"],
    *,
    scale: float,
) -> Float[Tensor, "seq pos head d_value"]:
    """Softmax of scale * query . key over each position and those before it, times value.

    Query heads come in groups that share a key head. Scores are float32; the shares are rounded
    to the values' dtype before the second product, as in torch's kernel.
    """
    num_sequences, num_heads, length, _ = query.shape
    num_keys, width = key.shape[1], value.shape[-1]
    out = query.new_empty(num_sequences, length, num_heads, width)
    grouped = query.unflatten(1, (num_keys, -1))
    places = out.permute(0, 2, 1, 3).unflatten(1, (num_keys, -1))
    later = torch.ones(_QUERIES, _QUERIES, dtype=torch.bool).triu(1)
    step = max(1, _HEADS // grouped.shape[2])
    jobs = [
        partial(
            _attend,
            _Heads(*(x[sequence, first : first + step] for x in (grouped, key, value, places))),
            later,
            scale,
        )
        for sequence in range(num_sequences)
        for first in range(0, num_keys, step)
    ]
    run_jobs(jobs, flops=2.0 * num_sequences * num_heads * length**2 * width)
    return out


def _attend(heads: _Heads, later: Tensor, scale: float, workspace: Workspace) -> None:
    """All blocks of queries of some heads."""
    query, key, value, out = heads
    num_heads, num_readers, length, d_head = query.shape
    narrow = key.dtype if not slow_dtype(key) else torch.float32
    wide = partial(workspace.take, like=key, dtype=torch.float32)
    keys = wide("keys", *key.shape).copy_(key)
    values = value if narrow is value.dtype else wide("values", *value.shape).copy_(value)
    for start in range(0, length, _QUERIES):
        stop = min(start + _QUERIES, length)
        size = stop - start
        rows = num_readers * size
        queries = wide("queries", num_heads, rows, d_head)
        block = queries.view(num_heads, num_readers, size, d_head)
        block.copy_(query[:, :, start:stop]).mul_(scale)
        scores = wide("scores", num_heads, rows, stop)
        torch.bmm(queries, keys[:, :stop].mT, out=scores)
        corner = scores.view(num_heads, num_readers, size, stop)[..., start:]
        corner.masked_fill_(later[:size, :size], -torch.inf)
        shares = torch.softmax(scores, -1, out=wide("shares", num_heads, rows, stop))
        if narrow is not torch.float32:
            rounded = workspace.take("rounded", num_heads, rows, stop, like=key, dtype=narrow)
            shares = rounded.copy_(shares)
        mixed = torch.bmm(shares, values[:, :stop])
        out[:, :, start:stop] = mixed.view(num_heads, num_readers, size, -1)
