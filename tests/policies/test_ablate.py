"""Ablating an expert touches the tokens that chose it, and no others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_lens.choice import ChoiceRule, Scoring
from moe_lens.event import Tokens
from moe_lens.policies import Ablate, Ablation, DropExperts, MaskExperts, RouterContext
from moe_lens.routing import Routing

RULE = ChoiceRule(Scoring.SOFTMAX, normalize=False)


def decision(seed: int, num_tokens: int = 20, num_experts: int = 6, top_k: int = 2) -> Routing:
    scores = torch.randn(num_tokens, num_experts, generator=torch.Generator().manual_seed(seed))
    choice = RULE.choose(scores, top_k)
    return Routing.from_choice(
        choice.experts, choice.weights, num_experts=num_experts, scores=scores
    )


def context(layer: int = 1, num_tokens: int = 20) -> RouterContext:
    where = torch.arange(num_tokens)
    return RouterContext(layer, Tokens(where, torch.zeros_like(where), where), RULE)


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from(list(Ablation)), st.integers(0, 5))
def test_tokens_that_did_not_choose_it_are_left_alone(
    seed: int, how: Ablation, expert: int
) -> None:
    own = decision(seed)
    changed = Ablate(1, expert, how).apply(own, context())
    changed.check()
    hit = (own.experts == expert).any(dim=1)
    for before, after in ((own.experts, changed.experts), (own.weights, changed.weights)):
        assert torch.equal(before[~hit], after[~hit])
    assert bool(changed.active[~hit].all())
    used = (changed.experts == expert) & changed.active
    stays = how is Ablation.RANDOM
    assert torch.equal(used.any(dim=1), hit if stays else torch.zeros_like(hit))
    num_active = changed.active.sum(dim=1)
    one_less = how in (Ablation.DROP, Ablation.RANDOM)
    assert num_active[hit].tolist() == [1 if one_less else 2] * int(hit.sum())


def test_drop_and_mask_are_the_policies_of_that_name_where_the_expert_was_chosen() -> None:
    own = decision(3)
    hit = (own.experts == 2).any(dim=1)
    assert bool(hit.any())
    drop, mask = (Ablate(1, 2, how).apply(own, context()) for how in (Ablation.DROP, Ablation.MASK))
    dropped = DropExperts({1: (2,)}).apply(own, context())
    assert torch.equal(drop.weights, dropped.weights)
    masked = MaskExperts({1: (2,)}).apply(own, context())
    assert torch.equal(mask.experts[hit], masked.experts[hit])
    assert torch.equal(mask.weights[hit], masked.weights[hit])
    assert not torch.equal(mask.weights, masked.weights)  # a mask changes every token's softmax


def test_a_replacement_was_not_chosen_and_keeps_the_weight() -> None:
    own = decision(4)
    changed = Ablate(1, 3, Ablation.REPLACE, seed=5).apply(own, context())
    hit = (own.experts == 3).any(dim=1)
    assert torch.equal(own.weights, changed.weights)
    for before, after in zip(own.experts[hit].tolist(), changed.experts[hit].tolist(), strict=True):
        (new,) = set(after) - set(before)
        assert set(before) - set(after) == {3}
        assert new not in before
    other = Ablate(1, 3, Ablation.REPLACE, seed=6).apply(own, context())
    assert not torch.equal(changed.experts, other.experts)


def test_other_layers_are_left_alone() -> None:
    own = decision(1)
    assert Ablate(2, 0, Ablation.DROP).apply(own, context(layer=1)) is own


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(ValueError, match="expert 9 is to be ablated, but the layer has 6"):
        Ablate(1, 9, Ablation.DROP).apply(decision(1), context())
    alone = decision(1, top_k=1)
    expert = int(alone.experts[0, 0])
    with pytest.raises(ValueError, match="alone, so no other slot can be dropped"):
        Ablate(1, expert, Ablation.RANDOM).apply(alone, context())
    everything = decision(1, num_experts=2, top_k=2)
    with pytest.raises(ValueError, match="uses all 2 experts, so none can replace expert 0"):
        Ablate(1, 0, Ablation.REPLACE).apply(everything, context())


def test_a_manifest_says_everything() -> None:
    told = Ablate(4, 7, Ablation.MASK, seed=2).describe()
    assert told == {"policy": "ablate", "layer": 4, "expert": 7, "how": "mask", "seed": 2}
