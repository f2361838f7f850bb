"""What a policy is: a pure function from a router's decision to another decision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moe_lens.choice import ChoiceRule
from moe_lens.errors import UnsupportedModel
from moe_lens.event import Tokens
from moe_lens.routing import Routing


@dataclass(frozen=True, eq=False)
class BatchPlace:
    """Where the rows of a decision stand in the batch that runs at once.

    Attributes:
        sequence: The row of the batch.
        column: The place in that row.
        real: False in padding.
    """

    sequence: Int[Tensor, " tok"]
    column: Int[Tensor, " tok"]
    real: Bool[Tensor, " tok"]


@dataclass(frozen=True, eq=False)
class RouterContext:
    """Where a decision was made, and by what rule.

    Attributes:
        layer: Index in the model, dense layers included.
        tokens: Where the rows come from; a random policy draws by document and position, so that
            its choice does not depend on batching.
        rule: The layer's proven choice rule, or None where none reproduces the router.
        place: Where the rows stand in their batch; None where there is no batch, as in a trace.
    """

    layer: int
    tokens: Tokens
    rule: ChoiceRule | None
    place: BatchPlace | None = None


class Policy(ABC):
    """A frozen value; `describe` is what a manifest says of it."""

    @property
    def chooses_anew(self) -> bool:
        """Whether it goes back to the router's scores, undoing what came before it in a chain."""
        return False

    @abstractmethod
    def apply(self, routing: Routing, context: RouterContext) -> Routing:
        """The decision that replaces `routing`; ranked, with as many slots."""

    @abstractmethod
    def describe(self) -> Mapping[str, object]:
        """Everything that makes this policy what it is, as JSON values."""


def rule_and_scores(
    routing: Routing, context: RouterContext, *, needed_by: str
) -> tuple[ChoiceRule, Float[Tensor, "tok expert"]]:
    """The proven rule and the scores it works on, which a new choice needs.

    Raises:
        UnsupportedModel: The layer's rule is not known, or a trace keeps no scores.
    """
    if context.rule is None:
        raise UnsupportedModel(
            f"layer {context.layer}: {needed_by} chooses experts anew, but no known rule "
            f"reproduces this router's choice; drop experts instead, or keep weights as they are"
        )
    if routing.scores is None:
        raise UnsupportedModel(
            f"layer {context.layer}: {needed_by} chooses experts anew from the router's scores, "
            f"which a recorded trace does not hold; run it on the model"
        )
    return context.rule, routing.scores


def chosen_anew(routing: Routing, rule: ChoiceRule, num_active: int) -> Routing:
    """The choice of `num_active` experts by `routing.scores`; the slots beyond are inactive."""
    assert routing.scores is not None
    choice = rule.choose(routing.scores, num_active)
    experts, weights = routing.experts.clone(), torch.zeros_like(routing.weights)
    experts[:, :num_active] = choice.experts
    weights[:, :num_active] = choice.weights.to(weights.dtype)
    rank = torch.arange(routing.num_slots, device=experts.device)
    active = (rank < num_active).expand_as(experts)
    return routing.with_slots(experts=experts, weights=weights, active=active)


def each_chosen_anew(routing: Routing, rule: ChoiceRule, counts: Int[Tensor, " tok"]) -> Routing:
    """The choice of `counts` experts for each token; a token that loses none is left as it is."""
    experts, weights = routing.experts.clone(), routing.weights.clone()
    active = routing.active.clone()
    fewer = counts < routing.active.sum(dim=-1)
    for count in counts[fewer].unique().tolist():
        rows = (fewer & (counts == count)).nonzero().squeeze(1)
        chosen = chosen_anew(routing.select(rows), rule, count)
        experts[rows], weights[rows], active[rows] = chosen.experts, chosen.weights, chosen.active
    return routing.with_slots(experts=experts, weights=weights, active=active)


def num_active(routing: Routing) -> int:
    """How many slots every token uses.

    Raises:
        ValueError: Tokens differ in it.
    """
    counts = routing.active.sum(dim=-1)
    if len(counts) == 0:
        return routing.num_slots
    low, high = int(counts.min()), int(counts.max())
    if low != high:
        raise ValueError(
            f"tokens use {low} to {high} experts, so a new choice has no one size; "
            f"put mask and keep before per-token policies in a chain"
        )
    return high
