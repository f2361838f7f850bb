"""The sample of tokens: uniform, the same however it is made, and what it refuses."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_lens.event import LayerEvent
from moe_lens.stats.ballots import Ballots
from tests.stats.cases import random_batch, split


def scored(seed: int, num_tokens: int, start: int = 0) -> list[LayerEvent]:
    rng = torch.Generator().manual_seed(seed)
    found = []
    for one in random_batch(seed, num_tokens, start=start):
        scores = torch.randn(num_tokens, one.routing.num_experts, generator=rng)
        found.append(replace(one, routing=replace(one.routing, scores=scores)))
    return found


def fed(capacity: int, *groups: list[LayerEvent]) -> Ballots:
    ballots = Ballots(capacity)
    for group in groups:
        for one in group:
            ballots.update(one)
    return ballots


def assert_equal(left: Ballots, right: Ballots) -> None:
    mine, theirs = left.state(), right.state()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


@settings(max_examples=20)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 30), st.data())
def test_any_split_and_order_keeps_the_same_tokens(
    sizes: list[int], capacity: int, data: st.DataObject
) -> None:
    groups = [scored(i, size, start=100 * i) for i, size in enumerate(sizes)]
    pieces = []
    for group, size in zip(groups, sizes, strict=True):
        pieces += [fed(capacity, part) for part in split(group, data.draw(st.integers(0, size)))]
    random.Random(data.draw(st.integers(0, 99))).shuffle(pieces)
    merged = Ballots(capacity)
    for piece in pieces:
        merged.merge(Ballots.from_state(dict(piece.state())))
    whole = fed(capacity, *groups)
    assert_equal(merged, whole)
    for layer in whole.layers:
        assert len(whole.sample(layer).keys) == min(capacity, sum(sizes))


def test_scores_stay_with_their_tokens_and_every_layer_keeps_the_same() -> None:
    group = scored(3, 40)
    kept = fed(15, group)
    for one in group:
        sample = kept.sample(one.layer)
        assert torch.equal(sample.keys, kept.sample(group[0].layer).keys)
        assert one.routing.scores is not None
        places = [one.routing.scores.tolist().index(row) for row in sample.scores.tolist()]
        assert sample.documents.tolist() == one.tokens.document[places].tolist()


def test_the_sample_is_uniform() -> None:
    """Of 4,000 tokens 1,000 are kept: each quarter of the text gives about 250 of them."""
    kept = fed(1000, scored(1, 4000))
    first = kept.sample(1)
    events = scored(1, 4000)[0]
    assert events.routing.scores is not None
    order = {tuple(row): place for place, row in enumerate(events.routing.scores.tolist())}
    quarters = [order[tuple(row)] // 1000 for row in first.scores.tolist()]
    for quarter in range(4):
        assert 200 <= quarters.count(quarter) <= 300


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="capacity = 0: keep at least 1 token"):
        Ballots(0)
    with pytest.raises(ValueError, match=r"layer 1: ballots need the scores \(Field.SCORES\)"):
        fed(5, random_batch(1, 3))
    with pytest.raises(ValueError, match="samples of 5 and 6 tokens cannot join"):
        Ballots(5).merge(Ballots(6))
    one = scored(1, 4)[0]
    assert one.routing.scores is not None
    other = replace(one, routing=replace(one.routing, scores=one.routing.scores[:, :-1]))
    with pytest.raises(ValueError, match="scores of 6 experts after 7"):
        fed(5, [one], [other])
