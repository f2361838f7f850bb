"""Blocks of documents and their halves."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moe_lens.scoring.blocks import NUM_BLOCKS, SPLITS, deal


def test_splits_are_balanced_halves() -> None:
    assert len(SPLITS) == 7
    for left, right in SPLITS:
        assert len(left) == len(right) == NUM_BLOCKS // 2
        assert sorted((*left, *right)) == list(range(NUM_BLOCKS))
    for i, one in enumerate(SPLITS):
        for other in SPLITS[:i]:
            assert len(set(one.left) & set(other.left)) == NUM_BLOCKS // 4


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 500)), min_size=1, max_size=60))
def test_every_document_is_dealt_once_and_blocks_weigh_alike(
    documents: list[tuple[int, int]],
) -> None:
    owners, lengths = [d for d, _ in documents], [n for _, n in documents]
    blocks = deal(owners, lengths, ("a", "b"), seed=1)
    assert (blocks.group_of // NUM_BLOCKS).tolist() == owners
    for domain in range(2):
        sizes = Counter(
            int(g) % NUM_BLOCKS
            for g, owner in zip(blocks.group_of, owners, strict=True)
            if owner == domain
        )
        assert not sizes or max(sizes.values()) - min(sizes[b] for b in range(NUM_BLOCKS)) <= 1
    assert sorted(blocks.groups(None)) == sorted({int(g) for g in blocks.group_of})


def test_the_seed_moves_documents_of_one_length() -> None:
    same = [deal([0] * 40, [7] * 40, ("a",), seed=s).group_of for s in (0, 0, 1)]
    assert np.array_equal(same[0], same[1])
    assert not np.array_equal(same[0], same[2])


def test_groups_of_some_blocks() -> None:
    blocks = deal([0, 0, 1], [5, 4, 9], ("a", "b"), seed=0)
    assert blocks.groups("a") == [0, 1]
    assert blocks.groups("a", (1, 2)) == [1]
    assert blocks.groups("b") == [8]
    assert blocks.groups(None, (0,)) == [0, 8]
    assert blocks.num_groups == 16
