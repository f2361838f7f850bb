"""How many experts a token keeps: by hand, at the limits, and by law."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_lens.choice import ChoiceRule
from moe_lens.errors import UnsupportedModel
from moe_lens.policies import (
    Chain,
    EntropyK,
    KeepPerLayer,
    KeepTopK,
    MaskExperts,
    MinP,
    Policy,
    Renorm,
    ScaleWeights,
    TopP,
)
from moe_lens.policies.per_token import router_entropy
from moe_lens.routing import Routing
from tests.policies.cases import NORMALIZED, SOFTMAX, context, decisions, routing

TWO = [[0.5, 0.3, 0.15, 0.05], [0.9, 0.05, 0.03, 0.02]]


def active(after: Routing) -> list[int]:
    return after.active.sum(dim=-1).tolist()


def test_min_p_by_hand() -> None:
    made = routing(TWO, 3)
    kept = MinP(0.31, renorm=Renorm.NONE).apply(made, context(2))
    # Of 0.5: 0.3 is 60 %, 0.15 is 30 %. Of 0.9: 0.05 is 5.6 %.
    assert active(kept) == [2, 1]
    assert kept.weights[0].tolist() == pytest.approx([0.5, 0.3, 0])
    assert active(MinP(0.29).apply(made, context(2))) == [3, 1]
    assert active(MinP(0.6, min_k=2).apply(made, context(2))) == [2, 2]
    by_layer = MinP({1: 0.31})
    assert active(by_layer.apply(made, context(2, layer=1))) == [2, 1]
    assert by_layer.apply(made, context(2, layer=2)) is made


def test_the_papers_rule_for_two_experts() -> None:
    """NAEE: the second expert is skipped where its weight is below beta times the first's."""
    made = routing(TWO, 2, NORMALIZED)
    for beta, expected in ((0.05, [2, 2]), (0.1, [2, 1]), (0.61, [1, 1])):
        kept = MinP({0: beta}).apply(made, context(2, NORMALIZED))
        assert active(kept) == expected
        assert kept.weights.sum(-1).tolist() == pytest.approx([1, 1])


def test_top_p_by_hand() -> None:
    made = routing(TWO, 3)  # chosen mass 0.95 and 0.98
    assert active(TopP(0.5).apply(made, context(2))) == [1, 1]
    assert active(TopP(0.6).apply(made, context(2))) == [2, 1]
    assert active(TopP(0.93).apply(made, context(2))) == [3, 2]
    kept = TopP(0.6, Renorm.KEEP_MASS).apply(made, context(2))
    assert kept.weights[0].tolist() == pytest.approx([0.95 * 5 / 8, 0.95 * 3 / 8, 0])


def test_a_share_that_is_reached_to_the_bit_needs_no_more() -> None:
    halves = torch.tensor([[0.5, 0.25, 0.25]])
    made = Routing.from_choice(torch.tensor([[0, 1, 2]]), halves, num_experts=4)
    for share, expected in ((0.5, 1), (0.5 + 1e-9, 2), (0.75, 2), (1.0, 3)):
        assert active(TopP(share, Renorm.NONE).apply(made, context(1))) == [expected]


def test_entropy_by_hand() -> None:
    even = torch.zeros(1, 8)
    assert router_entropy(even).tolist() == pytest.approx([1])
    sure = torch.tensor([[0.0] + [-torch.inf] * 7])
    assert router_entropy(sure).tolist() == [0]
    halves = torch.tensor([[0.0, 0.0] + [-torch.inf] * 2])
    assert router_entropy(halves).tolist() == pytest.approx([0.5])  # ln 2 / ln 4
    made = routing([[0.25] * 4, [0.5, 0.5 - 2e-9, 1e-9, 1e-9], [0.999, 4e-4, 3e-4, 3e-4]], 3)
    policy = EntropyK(((0.1, 1), (0.6, 2)), Renorm.NONE)
    assert active(policy.apply(made, context(3))) == [3, 2, 1]


def test_native_gives_each_token_what_the_model_would_with_that_top_k() -> None:
    made = routing(TWO, 3, NORMALIZED)
    kept = MinP(0.31).apply(made, context(2, NORMALIZED))
    assert kept.weights[0].tolist() == pytest.approx([0.625, 0.375, 0])
    assert kept.weights[1].tolist() == pytest.approx([1, 0, 0])


def test_after_a_mask_the_choice_stays_without_the_masked() -> None:
    chain = Chain((MaskExperts({0: (0,)}), MinP(0.4)))
    kept = chain.apply(routing(TWO, 2), context(2))
    assert 0 not in kept.experts[kept.active].tolist()
    assert active(kept) == [2, 2]


def test_per_layer_k_and_scales_touch_only_their_layers() -> None:
    made = routing(TWO, 3)
    policy = KeepPerLayer({1: 2, 2: 1})
    assert active(policy.apply(made, context(2, layer=1))) == [2, 2]
    assert active(policy.apply(made, context(2, layer=2))) == [1, 1]
    assert policy.apply(made, context(2, layer=3)) is made
    scaled = Chain((KeepTopK(1, Renorm.NONE), ScaleWeights({0: 1.5}))).apply(made, context(2))
    assert scaled.weights[:, 0].tolist() == pytest.approx([0.75, 1.35])
    assert ScaleWeights({1: 1.5}).apply(made, context(2)) is made


MAKERS: list[Callable[[float, Renorm], Policy]] = [
    lambda part, renorm: MinP(part, renorm=renorm),
    lambda part, renorm: TopP(1 - part, renorm),
    lambda part, renorm: EntropyK(((part, 1),), renorm),
]
"""Each keeps fewer experts as its part rises."""


@given(
    decisions(),
    st.sampled_from(MAKERS),
    st.sampled_from(list(Renorm)),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_law_sound_monotone_and_true_to_the_mass(
    made: tuple[Routing, ChoiceRule],
    maker: Callable[[float, Renorm], Policy],
    renorm: Renorm,
    one: float,
    other: float,
) -> None:
    before, rule = made
    place = context(before.num_tokens, rule)
    more, fewer = (maker(part, renorm).apply(before, place) for part in sorted((one, other)))
    for after in (more, fewer):
        after.check()
        assert bool((after.active.sum(-1) >= 1).all())
        if renorm is Renorm.KEEP_MASS:
            torch.testing.assert_close(after.weights.sum(-1), before.weights.sum(-1))
        if renorm is Renorm.NONE:
            torch.testing.assert_close(
                after.weights, before.weights.masked_fill(~after.active, 0.0)
            )
    assert bool((fewer.active.sum(-1) <= more.active.sum(-1)).all())


@given(decisions(), st.sampled_from(MAKERS), st.sampled_from(list(Renorm)))
def test_law_limits_are_the_model_itself_and_its_top_1(
    made: tuple[Routing, ChoiceRule], maker: Callable[[float, Renorm], Policy], renorm: Renorm
) -> None:
    before, rule = made
    place = context(before.num_tokens, rule)
    all_of_it = maker(0.0, renorm).apply(before, place)
    assert torch.equal(all_of_it.weights, before.weights)
    assert torch.equal(all_of_it.experts, before.experts)
    assert bool(all_of_it.active.all())
    one = maker(1.0, renorm).apply(before, place)
    top = KeepTopK(1, renorm).apply(before, place)
    assert torch.equal(one.experts[:, 0], top.experts[:, 0])
    assert torch.equal(one.weights, top.weights)


@given(decisions(), st.sampled_from(MAKERS), st.sampled_from(list(Renorm)), st.floats(0, 1))
def test_law_a_token_is_decided_alone(
    made: tuple[Routing, ChoiceRule],
    maker: Callable[[float, Renorm], Policy],
    renorm: Renorm,
    part: float,
) -> None:
    before, rule = made
    whole = maker(part, renorm).apply(before, context(before.num_tokens, rule))
    for token in range(before.num_tokens):
        row = torch.tensor([token])
        alone = maker(part, renorm).apply(before.select(row), context(1, rule))
        assert torch.equal(alone.active, whole.active[row])
        torch.testing.assert_close(alone.weights, whole.weights[row])


def test_every_policy_says_what_it_is() -> None:
    assert MinP({3: 0.5, 1: 0.25}, 2).describe() == {
        "policy": "min_p", "threshold": {"1": 0.25, "3": 0.5}, "min_k": 2, "renorm": "native",
    }  # fmt: skip
    assert TopP(0.5).describe() == {"policy": "top_p", "share": 0.5, "renorm": "native"}
    assert EntropyK(((0.5, 1),), Renorm.NONE).describe() == {
        "policy": "entropy", "steps": [[0.5, 1]], "renorm": "none",
    }  # fmt: skip
    assert KeepPerLayer({2: 1}).describe() == {
        "policy": "keep_per_layer", "k": {"2": 1}, "renorm": "native",
    }  # fmt: skip
    assert ScaleWeights({2: 1.5}).describe() == {"policy": "scale_weights", "scale": {"2": 1.5}}


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"threshold = 1\.5: a part, from 0 to 1"):
        MinP(1.5)
    with pytest.raises(ValueError, match=r"share = -0\.1: a part, from 0 to 1"):
        TopP({1: -0.1})
    with pytest.raises(ValueError, match="min_k = 0: at least 1 expert must stay active"):
        MinP(0.5, 0)
    with pytest.raises(ValueError, match="layer 2: k = 0: at least 1 expert"):
        KeepPerLayer({2: 0})
    with pytest.raises(ValueError, match="entropy: give at least one threshold"):
        EntropyK(())
    with pytest.raises(ValueError, match="must rise together"):
        EntropyK(((0.5, 2), (0.6, 1)))
    made = routing(TWO, 2)
    trace = Routing(None, made.weights, made.experts, made.active, 4)
    with pytest.raises(UnsupportedModel, match="entropy reads the router's scores"):
        EntropyK(((0.5, 1),), Renorm.NONE).apply(trace, context(2))
    with pytest.raises(UnsupportedModel, match="min_p with native weights chooses experts anew"):
        MinP(0.5).apply(made, context(2, None))
    assert active(MinP(0.5, renorm=Renorm.NONE).apply(trace, context(2, None))) == [2, 1]
    with pytest.raises(ValueError, match="put mask and keep before per-token policies"):
        Chain((MinP(0.5), MaskExperts({0: (0,)}))).apply(made, context(2, SOFTMAX))
