"""Work in pieces that survive a kill: what is on disk is not done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from moe_lens.corpus import TokenBatch, TokenizedCorpus, batches

Progress = Callable[[int], None]
"""Told of tokens that were worked on, or found done."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """A piece of a corpus, the same every time."""

    index: int
    batches: list[TokenBatch]

    @property
    def num_tokens(self) -> int:
        """Tokens in it, padding left out."""
        return sum(batch.num_tokens for batch in self.batches)


def chunks(
    tokenized: TokenizedCorpus, *, batch_tokens: int, chunk_tokens: int
) -> Iterator[list[TokenBatch]]:
    """Batches in groups of about `chunk_tokens`, the same every time."""
    held: list[TokenBatch] = []
    size = 0
    for batch in batches(tokenized, batch_tokens=batch_tokens):
        held.append(batch)
        size += batch.num_tokens
        if size >= chunk_tokens:
            yield held
            held, size = [], 0
    if held:
        yield held


def undone(
    tokenized: TokenizedCorpus,
    *,
    batch_tokens: int,
    chunk_tokens: int,
    is_done: Callable[[int], bool],
    progress: Progress,
) -> Iterator[Chunk]:
    """The chunks whose results are not on disk yet; the others are reported as progress."""
    pieces = chunks(tokenized, batch_tokens=batch_tokens, chunk_tokens=chunk_tokens)
    for index, held in enumerate(pieces):
        chunk = Chunk(index, held)
        if is_done(index):
            progress(chunk.num_tokens)
        else:
            yield chunk
