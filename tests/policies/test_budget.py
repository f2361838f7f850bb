"""A budget of distinct experts for tokens that decode side by side."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_lens.choice import ChoiceRule
from moe_lens.errors import UnsupportedModel
from moe_lens.policies import BatchPlace, DropExperts, ExpertBudget, Renorm, RouterContext
from moe_lens.routing import Routing
from tests.policies.cases import SOFTMAX, context, decisions, routing

# Two rows of two places. Side by side: tokens 0 and 2, tokens 1 and 3.
FOUR = [
    [0.6, 0.3, 0.06, 0.04],
    [0.6, 0.3, 0.06, 0.04],
    [0.1, 0.25, 0.45, 0.2],
    [0.3, 0.6, 0.06, 0.04],
]


def test_by_hand() -> None:
    made = routing(FOUR, 2)
    place = context(4, width=2)
    # Group (0, 2): weights 0.6, 0.3 + 0.25, 0.45 on experts 0, 1, 2: with two, 2 goes. Group
    # (1, 3) uses two experts as it is.
    after = ExpertBudget(2, sequences=2, renorm=Renorm.NONE).apply(made, place)
    assert after.active.tolist() == [[True, True], [True, True], [True, False], [True, True]]
    assert after.experts[2, 0] == 1
    assert after.weights[2].tolist() == pytest.approx([0.25, 0])
    native = ExpertBudget(2, sequences=2).apply(made, place)
    assert sorted(native.experts[2].tolist()) == [0, 1]
    assert native.weights[2].tolist() == pytest.approx([5 / 7, 2 / 7])  # softmax without 2 and 3
    for token in (1, 3):
        assert torch.equal(native.weights[token], made.weights[token])
    wide = ExpertBudget(3, sequences=2).apply(made, place)
    assert wide is made


def test_padding_has_no_say() -> None:
    real = torch.tensor([True, True, False, True])
    made = routing(FOUR, 2)
    after = ExpertBudget(2, sequences=2, renorm=Renorm.NONE).apply(
        made, context(4, width=2, real=real)
    )
    assert torch.equal(after.weights, made.weights)


@given(decisions(), st.integers(1, 16), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_law_no_group_is_over_the_budget(
    made: tuple[Routing, ChoiceRule], budget: int, sequences: int, width: int, native: bool
) -> None:
    before, rule = made
    renorm = Renorm.NATIVE if native else Renorm.KEEP_MASS
    budget = max(budget, before.num_slots if native else 1)
    place = context(before.num_tokens, rule, width=width)
    policy = ExpertBudget(budget, sequences, renorm)
    after = policy.apply(before, place)
    after.check()
    assert place.place is not None
    groups: dict[tuple[int, int], list[int]] = {}
    for token in range(before.num_tokens):
        key = (token // width // sequences, token % width)
        groups.setdefault(key, []).append(token)
    for tokens in groups.values():
        used = {int(e) for t in tokens for e in after.experts[t][after.active[t]]}
        first = {int(e) for t in tokens for e in before.experts[t]}
        assert len(used) <= budget
        if len(first) <= budget:
            for token in tokens:
                assert torch.equal(after.weights[token], before.weights[token])
        elif native:
            assert after.active[tokens].all()
    if budget >= before.num_experts:
        assert torch.equal(after.weights, before.weights)
    some = after.active.any(-1)
    if renorm is Renorm.KEEP_MASS:
        torch.testing.assert_close(after.weights.sum(-1)[some], before.weights.sum(-1)[some])


@given(decisions(), st.integers(1, 8))
def test_law_one_sequence_is_decided_alone(made: tuple[Routing, ChoiceRule], budget: int) -> None:
    """Alone, a token keeps its `budget` largest weights: the budget is a top k."""
    before, rule = made
    policy = ExpertBudget(budget, 1, Renorm.NONE)
    after = policy.apply(before, context(before.num_tokens, rule, width=before.num_tokens))
    rank = torch.arange(before.num_slots)
    expected = before.weights.masked_fill(rank >= budget, 0.0)
    torch.testing.assert_close(after.weights, expected)


def test_it_says_what_it_is_and_refuses() -> None:
    assert ExpertBudget(4, 8).describe() == {
        "policy": "expert_budget", "max_experts": 4, "sequences": 8, "renorm": "native",
    }  # fmt: skip
    with pytest.raises(ValueError, match="max_experts = 0; give at least 1"):
        ExpertBudget(0, 1)
    made = routing(FOUR, 2)
    with pytest.raises(UnsupportedModel, match="needs the batch that runs at once"):
        ExpertBudget(2, 2).apply(made, context(4))
    with pytest.raises(ValueError, match="budget of 1, but each token chooses 2: allow at least 2"):
        ExpertBudget(1, 2).apply(made, context(4, width=2))
    with pytest.raises(UnsupportedModel, match="expert budget with native weights chooses"):
        ExpertBudget(2, 2).apply(made, context(4, None, width=2))
    dropped = DropExperts({0: (2,)}).apply(made, context(4))
    with pytest.raises(ValueError, match="tokens use 1 to 2 experts"):
        ExpertBudget(1, 2).apply(dropped, context(4, width=2))


def test_no_tokens() -> None:
    none = routing(FOUR, 2).select(torch.zeros(4, dtype=torch.bool))
    empty = torch.zeros(0, dtype=torch.int64)
    place = BatchPlace(empty, empty, empty.bool())
    where = RouterContext(0, context(0).tokens, SOFTMAX, place)
    assert ExpertBudget(1, 1).apply(none, where) is none
