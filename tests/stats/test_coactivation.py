from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given, settings

from moe_lens.event import LayerEvent
from moe_lens.stats.coactivation import Coactivation
from moe_lens.stats.usage import Usage
from tests.stats.cases import Shape, batches, choices, event


def test_all_pairs_by_hand() -> None:
    pairs = Coactivation()
    pairs.update(event([[0, 2, 3], [2, 1, 0]]))
    assert pairs.counts(1).tolist() == [[2, 1, 2, 1], [1, 1, 1, 0], [2, 1, 2, 1], [1, 0, 1, 1]]
    rows = pairs.table().filter(expert=0).select("other_expert", "num_tokens").rows()
    assert rows == [(1, 1), (2, 2), (3, 1)]


def test_inactive_slots_pair_with_nothing() -> None:
    pairs = Coactivation()
    pairs.update(event([[0, 2, 3]], active=[[True, False, True]]))
    assert pairs.counts(1).nonzero().tolist() == [[0, 0], [0, 3], [3, 0], [3, 3]]


@settings(max_examples=12, deadline=None)
@given(groups=batches)
def test_against_counting_one_by_one(groups: list[list[LayerEvent]]) -> None:
    pairs, usage, expected = Coactivation(), Usage(), Counter()
    for group in groups:
        for one in group:
            pairs.update(one)
            usage.update(one)
        for choice in choices(group):
            experts = {expert for expert, _ in choice.pairs}
            expected.update((choice.layer, e, f) for e in experts for f in experts)
    for layer in Shape().layers:
        found = pairs.counts(layer)
        assert torch.equal(found, found.T)
        assert torch.equal(found.diag(), usage.counts(layer))
        for e in range(7):
            for f in range(7):
                assert found[e, f] == expected[layer, e, f]
