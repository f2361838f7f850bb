"""`decode`: states to tokens, log-probabilities, ranks and KL, without tokens x vocabulary.

The vocabulary goes by in chunks. A chunk's scores are one GEMM into a buffer that stays in the
processor's cache, where everything that is asked is folded into a few numbers for each state.
Memory beside the inputs does not depend on the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from moe_lens.freed_memory import keep_freed_memory
from moe_lens.lens.products import laid_out, product
from moe_lens.lens.unembed import OutputHead

VOCAB_CHUNK = 512
BLOCK_ROWS = 512
_LOG2_E = 1 / math.log(2)
"""exp(x) = exp2(x log2 e): torch's exp is MKL's, slow on processors that are not Intel's."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """What the head makes of states; natural logarithms.

    Attributes:
        top_ids: The likeliest tokens, falling; among equals the lowest id comes first.
        top_log_probs: Their log-probabilities.
        log_normalizer: Log of the sum of exp(score) over the vocabulary.
        true_log_prob: Log-probability of the target.
        true_rank: 1 + the number of tokens with a higher score than the target's.
        kl_reference: KL(reference || state), in nats, at least 0.
        reference_top: The reference's likeliest token.
    """

    top_ids: Int64[Tensor, "tok state top"]
    top_log_probs: Float64[Tensor, "tok state top"]
    log_normalizer: Float64[Tensor, "tok state"]
    true_log_prob: Float64[Tensor, "tok state"] | None
    true_rank: Int64[Tensor, "tok state"] | None
    kl_reference: Float64[Tensor, "tok state"] | None
    reference_top: Int64[Tensor, " tok"] | None


@torch.no_grad()
def decode(
    head: OutputHead,
    inputs: Float[Tensor, "tok state d_model"],
    *,
    num_top: int = 1,
    targets: Int[Tensor, " tok"] | None = None,
    reference: Float[Tensor, "tok d_model"] | None = None,
    vocab_chunk: int = VOCAB_CHUNK,
    block_rows: int = BLOCK_ROWS,
) -> Decoded:
    """Decode states in one pass over the head.

    Scores are computed in float32 (in float64 for a float64 head) whatever the model's dtype, and
    sums over the vocabulary are kept in float64. Neither size argument changes a result by more
    than rounding.

    Args:
        head: The model's output head.
        inputs: As the head reads them (`Unembedding.inputs`), several states of each token.
        num_top: How many of the likeliest tokens to name; may be 0.
        targets: The true token, for its log-probability and rank.
        reference: A state for each token, as the head reads it (the model's last hidden state),
            for KL(reference || state).
        vocab_chunk: Tokens of the vocabulary at a time.
        block_rows: States at a time, about: all states of a token stay together.

    Raises:
        ValueError: A target is outside the vocabulary, or a size is not positive.
    """
    _check(head, num_top, targets, vocab_chunk, block_rows)
    keep_freed_memory()
    num_tokens, num_states = inputs.shape[0], inputs.shape[1] + (reference is not None)
    # Blocks of one size: a small rest would be multiplied far slower than the others.
    num_blocks = max(1, round(num_tokens * num_states / block_rows))
    per_block = max(1, -(-num_tokens // num_blocks))
    blocks = [
        _Block(
            head,
            inputs[first : first + per_block],
            num_top=num_top,
            targets=None if targets is None else targets[first : first + per_block],
            reference=None if reference is None else reference[first : first + per_block],
        )
        for first in range(0, max(num_tokens, 1), per_block)
    ]
    size = min(per_block, num_tokens) * num_states * min(vocab_chunk, head.vocab_size)
    buffers = inputs.new_empty(2, size, dtype=head.wide_dtype)
    for chunk in _chunks(head, vocab_chunk) if num_tokens else ():
        for block in blocks:
            block.fold(chunk, buffers)
    return _joined([block.read() for block in blocks])


def _check(
    head: OutputHead, num_top: int, targets: Tensor | None, vocab_chunk: int, block_rows: int
) -> None:
    if vocab_chunk < 1 or block_rows < 1:
        raise ValueError(f"vocab_chunk={vocab_chunk}, block_rows={block_rows}: both at least 1")
    if not 0 <= num_top <= head.vocab_size:
        raise ValueError(f"num_top={num_top}: from 0 to the vocabulary's {head.vocab_size}")
    if targets is None or len(targets) == 0:
        return
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= head.vocab_size:
        raise ValueError(
            f"targets run from {low} to {high}, but the head knows {head.vocab_size} tokens "
            f"(0 to {head.vocab_size - 1})"
        )


class _Chunk(NamedTuple):
    """A stretch of the head, laid out for products, as large as `size`."""

    start: int
    size: int
    weight: Tensor
    bias: Float[Tensor, " chunk"] | None


def _chunks(head: OutputHead, size: int) -> Iterator[_Chunk]:
    """One after the other: the next is written over the last."""
    weight = head.weight
    room = weight.new_empty(min(size, len(weight)), weight.shape[1], dtype=head.wide_dtype)
    for start in range(0, len(weight), size):
        span = slice(start, start + size)
        wide = weight[span]
        if wide.dtype is not room.dtype:
            wide = room[: len(wide)].copy_(wide)
        yield _Chunk(start, len(wide), laid_out(wide), head.wide_bias(span))


class _Block:
    """The running numbers of some tokens' states while the vocabulary goes by.

    The reference goes along as one more state of its token, the last: its scores come out of the
    same GEMM, which is far cheaper than a small one of its own.
    """

    def __init__(
        self,
        head: OutputHead,
        inputs: Float[Tensor, "tok state d_model"],
        *,
        num_top: int,
        targets: Int[Tensor, " tok"] | None,
        reference: Float[Tensor, "tok d_model"] | None,
    ) -> None:
        self.num_states, self.has_reference = inputs.shape[1], reference is not None
        if reference is not None:
            inputs = torch.cat([inputs, reference.unsqueeze(1)], dim=1)
        wide = inputs.to(head.wide_dtype)
        wide = wide if head.scale == 1.0 else wide * head.scale
        self.targets = None if targets is None else targets.long()
        self.target_scores = _target_scores(head, wide, self.targets)
        self.shape = tuple(inputs.shape[:2])
        self.inputs = laid_out(wide.flatten(0, 1).contiguous())
        self.shift = wide.new_full(self.shape, -torch.inf)
        self.total = wide.new_zeros(self.shape, dtype=torch.float64)
        self.gap = torch.zeros_like(self.total)
        self.num_top = max(num_top, 1 if self.has_reference else 0)
        self.asked_top = num_top
        self.top_scores = wide.new_full((*self.shape, self.num_top), -torch.inf)
        self.top_ids = torch.zeros_like(self.top_scores, dtype=torch.int64)
        self.num_above = torch.zeros_like(self.total, dtype=torch.int64)

    def fold(self, chunk: _Chunk, buffers: Float[Tensor, "two size"]) -> None:
        """Take one chunk's scores into the running numbers."""
        flat = (self.shape[0] * self.shape[1], chunk.size)
        shape = (*self.shape, chunk.size)
        room, spare = (buffer[: flat[0] * flat[1]] for buffer in buffers)
        spare = spare.view(shape)
        scores = product(self.inputs, chunk.weight, out=room.view(flat)).view(shape)
        if chunk.bias is not None:
            scores += chunk.bias
        if self.target_scores is not None:
            self._fold_targets(chunk.start, scores, spare)
        best = scores.amax(-1)
        if self.num_top:
            self._fold_top(chunk.start, scores.view(flat), best.view(-1))
        shift = torch.maximum(self.shift, best)
        shrink = (self.shift.double() - shift.double()).exp()
        self.shift = shift
        if self.has_reference:
            torch.sub(scores[:, -1:], scores, out=spare)
        mass = scores.sub_(shift.unsqueeze(-1)).mul_(_LOG2_E).exp2_()
        self.total = self.total * shrink + mass.sum(-1)
        if self.has_reference:
            gap = spare.mul_(mass[:, -1:]).sum(-1)
            self.gap = self.gap * shrink[:, -1:] + gap

    def _fold_targets(
        self,
        start: int,
        scores: Float[Tensor, "tok state chunk"],
        spare: Float[Tensor, "tok state chunk"],
    ) -> None:
        """Count the scores above the target's own, which takes its place among them exactly."""
        assert self.targets is not None
        assert self.target_scores is not None
        own = self.target_scores
        column = self.targets - start
        inside = ((column >= 0) & (column < scores.shape[2])).nonzero().squeeze(1)
        scores[inside, :, column[inside]] = own[inside]
        torch.gt(scores, own.unsqueeze(2), out=spare)
        self.num_above += spare.sum(-1).long()

    def _fold_top(
        self, start: int, scores: Float[Tensor, "row chunk"], best: Float[Tensor, " row"]
    ) -> None:
        """Only states whose best score here beats the least that they hold need a closer look."""
        held, ids = (x.view(-1, self.num_top) for x in (self.top_scores, self.top_ids))
        rows = (best > held[:, -1]).nonzero().squeeze(1)
        if len(rows) == 0:
            return
        if self.num_top == 1:
            held[rows, 0] = best[rows]
            ids[rows, 0] = scores[rows].argmax(-1) + start
            return
        here = scores[rows].sort(dim=-1, descending=True, stable=True)
        here_ids = here.indices[:, : self.num_top] + start
        both = torch.cat([held[rows], here.values[:, : self.num_top]], dim=1)
        both_ids = torch.cat([ids[rows], here_ids], dim=1)
        order = both.sort(dim=-1, descending=True, stable=True).indices[:, : self.num_top]
        held[rows] = both.gather(1, order)
        ids[rows] = both_ids.gather(1, order)

    def read(self) -> Decoded:
        """The numbers, once the vocabulary has gone by."""
        states = slice(0, self.num_states)
        norm = self.shift.double() + self.total.log()
        log_prob = rank = kl = top = None
        if self.target_scores is not None:
            log_prob = (self.target_scores.double() - norm)[:, states]
            rank = self.num_above[:, states] + 1
        if self.has_reference:
            mean_gap = self.gap / self.total[:, -1:]
            kl = (mean_gap - norm[:, -1:] + norm)[:, states].clamp_min(0.0)
            top = self.top_ids[:, -1, 0]
        return Decoded(
            top_ids=self.top_ids[:, states, : self.asked_top],
            top_log_probs=(self.top_scores.double() - norm.unsqueeze(2))[
                :, states, : self.asked_top
            ],
            log_normalizer=norm[:, states],
            true_log_prob=log_prob,
            true_rank=rank,
            kl_reference=kl,
            reference_top=top,
        )


def _target_scores(
    head: OutputHead,
    wide: Float[Tensor, "tok state d_model"],
    targets: Int64[Tensor, " tok"] | None,
) -> Float[Tensor, "tok state"] | None:
    if targets is None:
        return None
    rows = head.weight[targets].to(wide.dtype)
    scores = torch.bmm(wide, rows.unsqueeze(2)).squeeze(2)
    bias = head.wide_bias(targets)
    return scores if bias is None else scores + bias.unsqueeze(1)


def _joined(parts: Sequence[Decoded]) -> Decoded:
    """All blocks' tokens, one after the other."""

    def column(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    return Decoded(**{field.name: column(field.name) for field in fields(Decoded)})
