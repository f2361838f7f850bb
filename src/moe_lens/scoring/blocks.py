"""Documents in blocks, so that halves of a domain can be compared without a second pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from scipy import linalg

NUM_BLOCKS = 8


class Halves(NamedTuple):
    """Two disjoint sets of blocks that together are all of them."""

    left: tuple[int, ...]
    right: tuple[int, ...]


SPLITS = tuple(
    Halves(tuple(np.flatnonzero(row > 0).tolist()), tuple(np.flatnonzero(row < 0).tolist()))
    for row in linalg.hadamard(NUM_BLOCKS)[1:]
)
"""Seven ways to halve the blocks, such that every two of them have half of each half in common.

Source: balanced half-samples (McCarthy, 1969).
"""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Which block of its domain each document is in.

    Attributes:
        domains: Names, in the corpus's order.
        group_of: Domain index x `NUM_BLOCKS` + block, for each document.
    """

    domains: tuple[str, ...]
    group_of: Int64[np.ndarray, " document"]

    @property
    def num_groups(self) -> int:
        """Groups that there could be; some may be empty."""
        return len(self.domains) * NUM_BLOCKS

    def groups(self, domain: str | None, blocks: Sequence[int] = range(NUM_BLOCKS)) -> list[int]:
        """The groups of some blocks of a domain, or of all domains, that have documents."""
        there = set(self.group_of.tolist())
        places = range(len(self.domains)) if domain is None else [self.domains.index(domain)]
        wanted = [place * NUM_BLOCKS + block for place in places for block in blocks]
        return [group for group in wanted if group in there]


def deal(
    domain_of: Sequence[int], lengths: Sequence[int], domains: tuple[str, ...], *, seed: int
) -> Blocks:
    """Deal the documents of each domain to its blocks, longest first, so that blocks weigh alike.

    Args:
        domain_of: Index of each document's domain.
        lengths: Tokens of each document.
        domains: Names of the domains.
        seed: Shuffles documents of the same length.
    """
    draw = np.random.default_rng(seed)
    owner, size = np.asarray(domain_of, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
    group_of = np.zeros(len(owner), dtype=np.int64)
    for domain in range(len(domains)):
        documents = draw.permutation(np.flatnonzero(owner == domain))
        documents = documents[np.argsort(-size[documents], kind="stable")]
        turn = np.arange(len(documents))
        place, lap = turn % NUM_BLOCKS, turn // NUM_BLOCKS
        block = np.where(lap % 2 == 0, place, NUM_BLOCKS - 1 - place)
        group_of[documents] = domain * NUM_BLOCKS + block
    return Blocks(domains, group_of)
