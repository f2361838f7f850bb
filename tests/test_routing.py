"""`Routing`: ranking, and the invariants that `check` holds everyone to."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_lens.routing import Routing


def test_slots_are_ranked_by_weight_whatever_order_they_come_in() -> None:
    made = Routing.from_choice(
        torch.tensor([[7, 2, 5]]), torch.tensor([[0.1, 0.7, 0.2]]), num_experts=8
    )
    assert made.experts.tolist() == [[2, 5, 7]]
    assert made.weights[0].tolist() == pytest.approx([0.7, 0.2, 0.1])


def test_a_slot_taken_away_goes_last_with_weight_zero_and_a_valid_expert() -> None:
    made = Routing.from_choice(
        torch.tensor([[2, 5, 7]]), torch.tensor([[0.7, 0.2, 0.1]]), num_experts=8
    )
    less = made.with_slots(active=torch.tensor([[False, True, True]]))
    assert less.experts.tolist() == [[5, 7, 2]]
    assert less.weights[0].tolist() == pytest.approx([0.2, 0.1, 0.0])
    assert less.active.tolist() == [[True, True, False]]
    less.check()


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_law_ranking_twice_changes_nothing(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    experts = torch.stack([torch.randperm(9, generator=generator)[:k] for _ in range(5)])
    weights = torch.rand(5, k, generator=generator).round(decimals=1)
    once = Routing.from_choice(experts, weights, num_experts=9)
    once.check()
    twice = once.ranked()
    assert torch.equal(once.experts, twice.experts)
    pairs = {
        tuple(sorted(zip(e, w, strict=True)))
        for e, w in zip(experts.tolist(), weights.tolist(), strict=True)
    }
    assert pairs == {
        tuple(sorted(zip(e, w, strict=True)))
        for e, w in zip(once.experts.tolist(), once.weights.tolist(), strict=True)
    }


def test_check_names_what_is_broken() -> None:
    def made(experts: list[list[int]], weights: list[list[float]]) -> Routing:
        active = torch.ones(len(experts), len(experts[0]), dtype=torch.bool)
        return Routing(None, torch.tensor(weights), torch.tensor(experts), active, 4)

    made([[1, 2]], [[0.6, 0.4]]).check()
    with pytest.raises(ValueError, match="expert ids run from 1 to 4, but the layer has 4"):
        made([[1, 4]], [[0.6, 0.4]]).check()
    with pytest.raises(ValueError, match="lists an expert twice"):
        made([[2, 2]], [[0.6, 0.4]]).check()
    with pytest.raises(ValueError, match="not ranked"):
        made([[1, 2]], [[0.4, 0.6]]).check()
    with pytest.raises(ValueError, match="not finite"):
        made([[1, 2]], [[float("nan"), 0.6]]).check()
    inactive = Routing(
        None,
        torch.tensor([[0.6, 0.4]]),
        torch.tensor([[1, 2]]),
        torch.tensor([[True, False]]),
        4,
    )
    with pytest.raises(ValueError, match="inactive slot has a weight other than 0"):
        inactive.check()
