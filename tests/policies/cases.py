"""Decisions to try policies on."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from moe_lens.choice import ChoiceRule, Scoring
from moe_lens.event import Tokens
from moe_lens.policies import BatchPlace, RouterContext
from moe_lens.routing import Routing

SOFTMAX = ChoiceRule(Scoring.SOFTMAX, normalize=False)
NORMALIZED = ChoiceRule(Scoring.SOFTMAX, normalize=True)


def context(
    num_tokens: int,
    rule: ChoiceRule | None = SOFTMAX,
    layer: int = 0,
    *,
    width: int | None = None,
    real: Tensor | None = None,
) -> RouterContext:
    """Rows of `width` tokens if given; else one row, and no place in a batch."""
    rows = torch.arange(num_tokens)
    tokens = Tokens(ids=rows, document=rows // 3, position=rows % 3)
    place = None
    if width is not None:
        every = torch.ones(num_tokens, dtype=torch.bool)
        place = BatchPlace(rows // width, rows % width, every if real is None else real)
    return RouterContext(layer, tokens, rule, place)


def routing(probabilities: list[list[float]], k: int, rule: ChoiceRule = SOFTMAX) -> Routing:
    scores = torch.tensor(probabilities).log()
    choice = rule.choose(scores, k)
    return Routing.from_choice(
        choice.experts, choice.weights, num_experts=scores.shape[1], scores=scores
    )


@st.composite
def decisions(draw: st.DrawFn) -> tuple[Routing, ChoiceRule]:
    """Routings of random scores under a random rule."""
    num_tokens, num_experts = draw(st.integers(1, 12)), draw(st.integers(6, 16))
    k = draw(st.integers(2, num_experts // 2))
    rule = ChoiceRule(
        draw(st.sampled_from([Scoring.SOFTMAX, Scoring.SIGMOID, Scoring.CHOSEN_SOFTMAX])),
        normalize=draw(st.booleans()),
        scale=draw(st.sampled_from([1.0, 2.5])),
    )
    seed = draw(st.integers(0, 2**31))
    scores = torch.randn(num_tokens, num_experts, generator=torch.Generator().manual_seed(seed))
    choice = rule.choose(scores, k)
    made = Routing.from_choice(
        choice.experts, choice.weights, num_experts=num_experts, scores=scores
    )
    return made, rule
