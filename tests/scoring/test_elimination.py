"""Ranked-choice removal: an election by hand, its laws, and groups."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_lens.choice import ChoiceRule, Groups, GroupScore, Scoring
from moe_lens.scoring.elimination import elimination_order

SOFTMAX = ChoiceRule(Scoring.SOFTMAX, normalize=False)


def ballots(*rows: str) -> Tensor:
    """Each row names experts by falling score: "cab" likes c best."""
    scores = torch.zeros(len(rows), len(rows[0]))
    for row, names in enumerate(rows):
        for place, name in enumerate(names):
            scores[row, "abcdef".index(name)] = -float(place)
    return scores


def test_an_election_by_hand() -> None:
    """First votes: a 3, b 2, c 4, d 1. d leaves, its token goes to b: a and b tie at 3. b is less
    liked on the whole; it leaves, its tokens go to a, and a wins against c by 6 to 4."""
    rows = ["abcd"] * 3 + ["bacd"] * 2 + ["cabd"] * 4 + ["dbac"]
    order = elimination_order(ballots(*rows), SOFTMAX, 1)
    assert order.tolist() == [3, 1, 2, 0]


def test_where_counting_once_would_keep_another() -> None:
    """Two alike share their tokens: alone each is last, together they are first."""
    rows = ["abc"] * 3 + ["bac"] * 4 + ["cab"] * 5
    order = elimination_order(ballots(*rows), SOFTMAX, 1).tolist()
    assert order == [0, 2, 1]  # by frequency a < b < c


def test_experts_that_never_leave_share_the_last_place() -> None:
    rows = ["abcd", "bacd", "cabd", "abdc"]
    assert elimination_order(ballots(*rows), SOFTMAX, 2).tolist() == [2, 2, 1, 0]


@settings(max_examples=25)
@given(st.integers(0, 9999), st.permutations(range(6)), st.integers(1, 3))
def test_renaming_experts_renames_their_places(seed: int, names: list[int], top_k: int) -> None:
    scores = torch.randn(30, 6, generator=torch.Generator().manual_seed(seed))
    renamed = torch.zeros_like(scores)
    renamed[:, torch.tensor(names)] = scores
    for rule in (SOFTMAX, ChoiceRule(Scoring.SIGMOID, normalize=True)):
        before = elimination_order(scores, rule, top_k)
        after = elimination_order(renamed, rule, top_k)
        assert after[torch.tensor(names)].tolist() == before.tolist()


def simulated(scores: Tensor, rule: ChoiceRule, top_k: int) -> list[int]:
    """The same election with everybody asked again in every round."""
    left, out = scores.double().clone(), []
    spread = left.softmax(-1) if rule.scoring is Scoring.SOFTMAX else left.sigmoid()
    liked = (spread / spread.sum(-1, keepdim=True)).sum(0).tolist()
    while len(out) < scores.shape[1] - top_k:
        choice = rule.choose(left, top_k)
        votes = [0] * scores.shape[1]
        for experts in choice.experts.tolist():
            for expert in experts:
                votes[expert] += 1
        alive = [e for e in range(scores.shape[1]) if e not in out]
        loser = min(alive, key=lambda e: (votes[e], liked[e]))
        out.append(loser)
        left[:, loser] = -torch.inf
    return out


@pytest.mark.parametrize("seed", range(5))
def test_only_the_losers_tokens_need_to_be_asked_again(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randn(40, 7, generator=rng)
    bias = torch.randn(7, generator=rng) / 5
    for rule in (
        SOFTMAX,
        ChoiceRule(Scoring.SIGMOID, normalize=True, bias=bias),
        ChoiceRule(Scoring.SOFTMAX, normalize=True, bias=bias),
    ):
        order = elimination_order(scores, rule, 2).tolist()
        found = sorted(range(7), key=lambda e: order[e])[:5]
        assert found == simulated(scores, rule, 2)


def test_groups_keep_what_their_choice_needs() -> None:
    """Two of four groups of three, three experts chosen: no group falls below two."""
    rule = ChoiceRule(Scoring.SIGMOID, normalize=True, groups=Groups(4, 2, GroupScore.TOP_TWO))
    scores = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    order = elimination_order(scores, rule, 3)
    never = (order == order.max()).view(4, 3).sum(dim=1)
    assert never.tolist() == [2, 2, 2, 2]
    assert sorted(order.tolist())[:4] == [0, 1, 2, 3]
