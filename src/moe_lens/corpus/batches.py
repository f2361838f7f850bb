"""`batches`: token ids in rectangles that a model takes, with a mask of what is real."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from moe_lens.corpus.tokens import TokenizedCorpus, Window
from moe_lens.errors import CorpusError

_BUFFER_BATCHES = 64
"""How many batches' worth of sequences are sorted together."""
_MAX_PADDING = 0.25
"""No batch has a larger share of padding."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Sequences of about one length, padded on the right.

    Where `attention_mask` is False, ids are 0 and the other fields repeat the row's document and
    run on: valid, and not to be counted.

    Attributes:
        input_ids: Vocabulary ids.
        attention_mask: True where there is a token, False in padding.
        counted: True where a token reaches statistics: not in padding, nor (unless asked for)
            at BOS.
        document: Index of the token's document in the corpus.
        position: Place of the token in its document, from 0, BOS included. In a later window of
            a split document it does not start at 0, so it is no position for the model, whose
            rows each start at 0.
    """

    input_ids: Int[Tensor, "seq pos"]
    attention_mask: Bool[Tensor, "seq pos"]
    counted: Bool[Tensor, "seq pos"]
    document: Int[Tensor, "seq pos"]
    position: Int[Tensor, "seq pos"]

    @property
    def num_tokens(self) -> int:
        """Tokens in the batch, padding left out."""
        return int(self.attention_mask.sum())

    @property
    def num_counted(self) -> int:
        """Tokens of the batch that reach statistics."""
        return int(self.counted.sum())


def batches(tokenized: TokenizedCorpus, *, batch_tokens: int) -> Iterator[TokenBatch]:
    """Every token of a corpus exactly once, in batches of at most `batch_tokens` places.

    Places are rows times length, padding included. A sequence longer than `batch_tokens` is a
    batch of its own. Within a stretch of the corpus that fills about 64 batches the longest
    sequences come first, so that neighbours are alike and what would not fit in memory fails at
    once; no batch is more than a quarter padding. The order depends on nothing but the arguments.

    Raises:
        CorpusError: `batch_tokens` is not positive.
    """
    if batch_tokens < 1:
        raise CorpusError(f"batch_tokens={batch_tokens}: a batch holds at least 1 token")
    return _batches(tokenized, batch_tokens)


def _batches(tokenized: TokenizedCorpus, batch_tokens: int) -> Iterator[TokenBatch]:
    for stretch in _stretches(tokenized, _BUFFER_BATCHES * batch_tokens):
        for windows in _rectangles(stretch, batch_tokens):
            yield _pad(tokenized, windows)


def _stretches(tokenized: TokenizedCorpus, num_tokens: int) -> Iterator[list[Window]]:
    held: list[Window] = []
    size = 0
    for window in tokenized.windows():
        held.append(window)
        size += window.length
        if size >= num_tokens:
            yield held
            held, size = [], 0
    if held:
        yield held


def _rectangles(windows: list[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Group windows, longest first, each group as wide as its first."""
    held: list[Window] = []
    filled = 0
    for window in sorted(windows, key=lambda w: -w.length):
        width = held[0].length if held else window.length
        places = (len(held) + 1) * width
        padding = 1 - (filled + window.length) / places
        if held and (places > batch_tokens or padding > _MAX_PADDING):
            yield held
            held, filled = [], 0
        held.append(window)
        filled += window.length
    if held:
        yield held


def _pad(tokenized: TokenizedCorpus, windows: list[Window]) -> TokenBatch:
    shape = (len(windows), windows[0].length)
    lengths = torch.tensor([window.length for window in windows])
    columns = torch.arange(shape[1])
    real = columns < lengths[:, None]
    position = torch.tensor([window.start for window in windows])[:, None] + columns
    input_ids = torch.zeros(shape, dtype=torch.int64)
    for row, (document, start, length) in enumerate(windows):
        input_ids[row, :length] = tokenized.ids[document][start : start + length]
    at_bos = (position == 0) & (tokenized.has_bos and not tokenized.count_bos)
    document_of = torch.tensor([window.document for window in windows])
    return TokenBatch(
        input_ids=input_ids,
        attention_mask=real,
        counted=real & ~at_bos,
        document=document_of[:, None].expand(shape).contiguous(),
        position=position,
    )
