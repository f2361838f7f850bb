from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_lens.errors import TraceError
from moe_lens.event import LayerEvent
from moe_lens.stats.usage import Usage
from tests.stats.cases import Shape, batches, choices, event, random_batch, without_weights


def test_counts_by_hand() -> None:
    usage = Usage()
    usage.update(event([[0, 2], [2, 1]], [[0.6, 0.1], [0.2, 0.7]]))
    assert usage.counts(1).tolist() == [1, 1, 2, 0]
    assert usage.rank_counts(1).tolist() == [[1, 1, 0, 0], [0, 0, 2, 0]]
    assert usage.num_tokens(1) == 2
    assert usage.specialization(1).tolist() == [0.5, 0.5, 1.0, 0.0]
    table = usage.table()
    assert table.columns == ["layer", "expert", "num_tokens", "share", "specialization"]
    assert table["share"].to_list() == [0.25, 0.25, 0.5, 0.0]
    assert table["layer"].to_list() == [1] * 4


def test_inactive_slots_are_not_usage() -> None:
    usage = Usage()
    usage.update(event([[0, 2], [2, 1]], active=[[True, False], [False, False]]))
    assert usage.counts(1).tolist() == [1, 0, 0, 0]
    assert usage.num_tokens(1) == 2


@settings(max_examples=12, deadline=None)
@given(groups=batches)
def test_against_counting_one_by_one(groups: list[list[LayerEvent]]) -> None:
    usage, expected, tokens = Usage(), Counter(), Counter()
    for group in groups:
        for one in group:
            usage.update(one)
        for choice in choices(group):
            tokens[choice.layer] += 1
            for rank, (expert, _) in enumerate(choice.pairs):
                expected[choice.layer, rank, expert] += 1
    for layer in Shape().layers:
        assert usage.num_tokens(layer) == tokens[layer]
        found = usage.rank_counts(layer)
        for rank in range(3):
            for expert in range(7):
                assert found[rank, expert] == expected[layer, rank, expert]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), order=st.permutations(range(7)))
def test_renaming_experts_renames_the_counts(seed: int, order: list[int]) -> None:
    plain, renamed, names = Usage(), Usage(), torch.tensor(order)
    for one in random_batch(seed, 15):
        plain.update(one)
        routing = one.routing.with_slots(experts=names[one.routing.experts])
        renamed.update(LayerEvent(layer=one.layer, tokens=one.tokens, routing=routing))
    assert torch.equal(renamed.counts(2)[names], plain.counts(2))


def test_counting_goes_on_beyond_what_float32_can_count() -> None:
    usage = Usage.from_state(
        {"counts.1": torch.full((1, 4), 2**24), "tokens.1": torch.tensor([2**26, 0])}
    )
    usage.update(event([[0]]))
    assert usage.counts(1).tolist() == [2**24 + 1, 2**24, 2**24, 2**24]
    assert usage.num_tokens(1) == 2**26 + 1


def test_shares_of_a_layer_sum_to_1() -> None:
    usage = Usage()
    for one in random_batch(5, 40):
        usage.update(one)
    for share in usage.table().group_by("layer").sum()["share"]:
        assert share == pytest.approx(1, abs=1e-12)


def test_ranks_are_refused_without_weights() -> None:
    usage = Usage()
    usage.update(without_weights(event([[0, 2], [2, 1]])))
    assert usage.counts(1).tolist() == [1, 1, 2, 0]
    with pytest.raises(TraceError, match="layer 1: usage by rank needs weights, but 2 tokens"):
        usage.rank_counts(1)


def test_a_single_weight_of_0_is_a_weight() -> None:
    usage = Usage()
    usage.update(event([[0, 2]], [[0.5, 0.0]]))
    assert usage.rank_counts(1).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]


def test_a_layer_without_events_is_refused() -> None:
    usage = Usage()
    usage.update(event([[0, 1]], layer=3))
    with pytest.raises(ValueError, match="layer 0: no events were seen; layers with events: 3"):
        usage.counts(0)


def test_an_empty_table_has_its_columns() -> None:
    assert Usage().table().columns == ["layer", "expert", "num_tokens", "share", "specialization"]
