"""`groups_within`: layers that are decoded together, as many as memory may hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

MAX_HELD_BYTES = 1 << 28
"""Of states that one pass over the head reads."""


def groups_within(sizes: Sequence[int], limit: int) -> Iterator[slice]:
    """Neighbours whose sizes together are at most `limit`; what is larger stands alone."""
    start, total = 0, 0
    for place, size in enumerate(sizes):
        if place > start and total + size > limit:
            yield slice(start, place)
            start, total = place, 0
        total += size
    if sizes:
        yield slice(start, len(sizes))
