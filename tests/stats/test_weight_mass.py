from __future__ import annotations

import math
from collections import defaultdict

import pytest
from hypothesis import given, settings

from moe_lens.errors import TraceError
from moe_lens.event import LayerEvent
from moe_lens.stats.weight_mass import WeightMass
from tests.stats.cases import Shape, batches, choices, event, without_weights


def test_sums_by_hand() -> None:
    mass = WeightMass()
    mass.update(event([[0, 2], [2, 1]], [[0.5, 0.25], [0.125, 0.375]]))
    assert mass.by_expert(1).tolist() == [0.5, 0.375, 0.375, 0.0]
    assert mass.by_rank(1).tolist() == [0.875, 0.375]
    assert mass.mean_total(1) == 0.625
    assert mass.mean_share(1).tolist() == pytest.approx([(2 / 3 + 3 / 4) / 2, (1 / 3 + 1 / 4) / 2])
    row = mass.table().row(0, named=True)
    assert row["num_tokens"] == 2
    assert row["num_unrouted"] == 0
    assert row["weight_sum_mean"] == 0.625
    assert row["weight_sum_std"] == pytest.approx(0.125)
    assert row["rank1_share_std"] == pytest.approx((3 / 4 - 2 / 3) / 2)


def test_tokens_without_an_active_slot_are_counted_apart() -> None:
    mass = WeightMass()
    mass.update(event([[0, 2], [2, 1]], active=[[True, False], [False, False]]))
    assert mass.num_tokens(1) == 2
    assert mass.num_unrouted(1) == 1
    assert mass.mean_share(1).tolist() == [1.0, 0.0]


@settings(max_examples=12, deadline=None)
@given(groups=batches)
def test_against_adding_one_by_one(groups: list[list[LayerEvent]]) -> None:
    mass = WeightMass()
    by_expert, by_rank = defaultdict(list), defaultdict(list)
    shares, totals = defaultdict(list), defaultdict(list)
    for group in groups:
        for one in group:
            mass.update(one)
        for choice in choices(group):
            total = math.fsum(weight for _, weight in choice.pairs)
            if choice.pairs:
                totals[choice.layer].append(total)
            for rank, (expert, weight) in enumerate(choice.pairs):
                by_expert[choice.layer, expert].append(weight)
                by_rank[choice.layer, rank].append(weight)
                shares[choice.layer, rank].append(weight / total)
    for layer in Shape().layers:
        for expert in range(7):
            expected = math.fsum(by_expert[layer, expert])
            assert float(mass.by_expert(layer)[expert]) == pytest.approx(expected, rel=1e-12)
        count = len(totals[layer])
        for rank in range(3):
            expected = math.fsum(by_rank[layer, rank])
            assert float(mass.by_rank(layer)[rank]) == pytest.approx(expected, rel=1e-12)
            if count:
                mean = math.fsum(shares[layer, rank]) / count
                assert float(mass.mean_share(layer)[rank]) == pytest.approx(mean, rel=1e-12)
        if count:
            mean = math.fsum(totals[layer]) / count
            assert mass.mean_total(layer) == pytest.approx(mean, rel=1e-12)


def test_weights_that_were_not_recorded_are_refused() -> None:
    mass = WeightMass()
    mass.update(event([[0, 2], [2, 1]]))
    mass.update(without_weights(event([[0, 2]])))
    for read in (mass.by_expert, mass.by_rank, mass.mean_share, mass.mean_total):
        with pytest.raises(TraceError, match="layer 1: weight mass needs weights, but 1 tokens"):
            read(1)
    with pytest.raises(TraceError, match="record the trace with weights"):
        mass.table()


def test_no_mean_without_a_routed_token() -> None:
    mass = WeightMass()
    mass.update(event([[0, 2]], active=[[False, False]]))
    with pytest.raises(ValueError, match="layer 1: no token has an active slot"):
        mass.mean_total(1)
