"""Policies by hand, by law, and the ways in which they refuse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_lens.choice import ChoiceRule, Scoring
from moe_lens.errors import UnsupportedModel
from moe_lens.event import Tokens
from moe_lens.policies import (
    Chain,
    DropExperts,
    Identity,
    KeepTopK,
    MaskExperts,
    Policy,
    RandomExperts,
    Renorm,
    ReplaceExpert,
    RouterContext,
)
from moe_lens.routing import Routing
from tests.policies.cases import NORMALIZED, SOFTMAX, context, decisions, routing

ONE = [[0.5, 0.3, 0.15, 0.05]]


def test_native_keeps_the_models_own_weights_when_it_does_not_normalize() -> None:
    kept = KeepTopK(1).apply(routing(ONE, 2), context(1))
    assert kept.active.tolist() == [[True, False]]
    assert kept.experts[0, 0] == 0
    assert kept.weights[0].tolist() == pytest.approx([0.5, 0.0])


def test_native_renormalizes_where_the_model_does() -> None:
    kept = KeepTopK(2).apply(routing(ONE, 3, NORMALIZED), context(1, NORMALIZED))
    assert kept.weights[0].tolist() == pytest.approx([0.625, 0.375, 0.0])


def test_keep_mass_keeps_the_sum_of_the_full_choice() -> None:
    kept = KeepTopK(1, Renorm.KEEP_MASS).apply(routing(ONE, 3), context(1))
    assert kept.weights[0].tolist() == pytest.approx([0.95, 0.0, 0.0])


def test_none_leaves_the_kept_weights_alone() -> None:
    kept = KeepTopK(2, Renorm.NONE).apply(routing(ONE, 3, NORMALIZED), context(1, NORMALIZED))
    assert kept.weights[0].tolist() == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.0])


def test_mask_lets_the_next_expert_in_at_the_weights_of_the_smaller_model() -> None:
    masked = MaskExperts({0: (1,)}).apply(routing(ONE, 2), context(1))
    assert masked.experts.tolist() == [[0, 2]]
    assert masked.weights[0].tolist() == pytest.approx([0.5 / 0.7, 0.15 / 0.7])
    untouched = routing(ONE, 2)
    assert MaskExperts({1: (1,)}).apply(untouched, context(1)) is untouched


def test_mask_gates_by_selection_bias_without_letting_the_bias_bring_it_back() -> None:
    bias = torch.tensor([5.0, 0.0, 0.0, 0.0])
    rule = ChoiceRule(Scoring.SIGMOID, normalize=False, bias=bias)
    masked = MaskExperts({0: (0,)}).apply(routing(ONE, 2, rule), context(1, rule))
    assert 0 not in masked.experts[0].tolist()


def test_drop_leaves_a_hole() -> None:
    dropped = DropExperts({0: (0,)}).apply(routing(ONE, 2), context(1))
    assert dropped.active.tolist() == [[True, False]]
    assert dropped.experts[0, 0] == 1
    assert dropped.weights[0].tolist() == pytest.approx([0.3, 0.0])


def test_replace_swaps_an_expert_and_never_runs_one_twice() -> None:
    swapped = ReplaceExpert(0, expert=0, by=3).apply(routing(ONE, 2), context(1))
    assert swapped.experts.tolist() == [[3, 1]]
    assert swapped.weights[0].tolist() == pytest.approx([0.5, 0.3])
    held = ReplaceExpert(0, expert=0, by=1).apply(routing(ONE, 2), context(1))
    assert held.active.tolist() == [[True, False]]
    assert held.weights[0].tolist() == pytest.approx([0.3, 0.0])


def test_chain_applies_in_order_and_refuses_an_order_that_would_undo() -> None:
    chain = Chain((MaskExperts({0: (0,)}), KeepTopK(1)))
    kept = chain.apply(routing(ONE, 2), context(1))
    assert kept.experts[0, 0] == 1
    assert kept.weights[0].tolist() == pytest.approx([0.3 / 0.5, 0.0])
    swapped = Chain((KeepTopK(1), MaskExperts({0: (0,)}))).apply(routing(ONE, 2), context(1))
    assert swapped.weights.tolist() == kept.weights.tolist()
    with pytest.raises(ValueError, match="mask_experts chooses experts anew and would undo drop"):
        Chain((DropExperts({0: (0,)}), MaskExperts({0: (1,)})))


def test_every_policy_says_what_it_is() -> None:
    policies: list[tuple[Policy, dict[str, object]]] = [
        (Identity(), {"policy": "identity"}),
        (KeepTopK(2), {"policy": "keep_top_k", "k": 2, "renorm": "native"}),
        (MaskExperts({3: (2, 1)}), {"policy": "mask_experts", "experts": {"3": [1, 2]}}),
        (DropExperts({3: (2,)}), {"policy": "drop_experts", "experts": {"3": [2]}}),
        (ReplaceExpert(1, 2, 3), {"policy": "replace_expert", "layer": 1, "expert": 2, "by": 3}),
        (RandomExperts(7), {"policy": "random_experts", "seed": 7, "slots": None}),
        (Chain((Identity(),)), {"policy": "chain", "of": [{"policy": "identity"}]}),
    ]
    for policy, description in policies:
        assert dict(policy.describe()) == description


def test_refusals_name_the_value_and_the_rule() -> None:
    with pytest.raises(ValueError, match="k = 0: at least 1 expert must stay active"):
        KeepTopK(0)
    with pytest.raises(ValueError, match=r"names expert 9, but the layer has 4 \(0 to 3\)"):
        MaskExperts({0: (9,)}).apply(routing(ONE, 2), context(1))
    with pytest.raises(ValueError, match="1 experts are left, but each token needs 2"):
        MaskExperts({0: (0, 1, 2)}).apply(routing(ONE, 2), context(1))
    with pytest.raises(UnsupportedModel, match="no known rule reproduces this router"):
        MaskExperts({0: (0,)}).apply(routing(ONE, 2), context(1, rule=None))
    trace = routing(ONE, 2).select(torch.tensor([0]))
    without = Routing(None, trace.weights, trace.experts, trace.active, 4)
    with pytest.raises(UnsupportedModel, match="which a recorded trace does not hold"):
        KeepTopK(1).apply(without, context(1))
    with pytest.raises(ValueError, match="3 experts to draw, but only 1 are not chosen"):
        RandomExperts(0).apply(routing(ONE, 3), context(1))


@given(decisions(), st.sampled_from(list(Renorm)), st.integers(1, 8))
def test_law_keep_gives_a_sound_routing_of_at_most_k(
    made: tuple[Routing, ChoiceRule], renorm: Renorm, k: int
) -> None:
    before, rule = made
    after = KeepTopK(k, renorm).apply(before, context(before.num_tokens, rule))
    after.check()
    assert after.active.sum(dim=-1).tolist() == [min(k, before.num_slots)] * before.num_tokens
    if renorm is Renorm.KEEP_MASS:
        torch.testing.assert_close(after.weights.sum(-1), before.weights.sum(-1))


@given(decisions(), st.data())
def test_law_masking_an_unused_expert_changes_no_choice(
    made: tuple[Routing, ChoiceRule], data: st.DataObject
) -> None:
    before, rule = made
    unused = sorted(set(range(before.num_experts)) - set(before.experts.flatten().tolist()))
    if not unused:
        return
    masked = data.draw(st.sampled_from(unused))
    after = MaskExperts({0: (masked,)}).apply(before, context(before.num_tokens, rule))
    assert torch.equal(after.experts, before.experts)
    if rule.normalize or rule.scoring is not Scoring.SOFTMAX:
        torch.testing.assert_close(after.weights, before.weights)


@given(decisions(), st.integers(0, 1000))
def test_law_random_control_keeps_weights_and_avoids_the_chosen(
    made: tuple[Routing, ChoiceRule], seed: int
) -> None:
    before, rule = made
    place = context(before.num_tokens, rule)
    after = RandomExperts(seed, slots=(0,)).apply(before, place)
    after.check()
    assert torch.equal(after.weights, before.weights)
    assert not bool((after.experts[:, :1] == before.experts).any())
    assert torch.equal(after.experts[:, 1:], before.experts[:, 1:])


def test_random_control_does_not_depend_on_batching() -> None:
    made = routing([[0.4, 0.3, 0.1, 0.1, 0.1]] * 9, 2)
    whole = RandomExperts(5).apply(made, context(9)).experts
    order = torch.tensor([8, 2, 5, 0, 7, 1, 4, 3, 6])
    place = context(9)
    shuffled = Tokens(
        ids=place.tokens.ids[order],
        document=place.tokens.document[order],
        position=place.tokens.position[order],
    )
    moved = RandomExperts(5).apply(made.select(order), RouterContext(0, shuffled, SOFTMAX))
    assert torch.equal(moved.experts, whole[order])
    assert len({tuple(row) for row in whole.tolist()}) > 1
    other_layer = RandomExperts(5).apply(made, context(9, layer=1)).experts
    assert not torch.equal(other_layer, whole)


def test_random_control_is_uniform_over_the_experts_not_chosen() -> None:
    num_tokens = 20_000
    made = routing([[0.6, 0.1, 0.1, 0.1, 0.1]] * num_tokens, 1)
    drawn = RandomExperts(1).apply(made, context(num_tokens)).experts.flatten()
    counts = torch.bincount(drawn, minlength=5).double()
    assert counts[0] == 0
    expected = num_tokens / 4
    assert bool(((counts[1:] - expected).abs() < 5 * (expected * 0.75) ** 0.5).all())
