"""`ExpertBudget`: at most so many distinct experts for the tokens that decode side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from moe_lens.errors import UnsupportedModel
from moe_lens.policies.base import Policy, RouterContext, num_active, rule_and_scores
from moe_lens.policies.keep import Renorm, kept_slots
from moe_lens.routing import Routing


@final
@dataclass(frozen=True)
class ExpertBudget(Policy):
    """At most `max_experts` distinct experts of a layer for each group of tokens.

    A group is one place of `sequences` neighbouring rows of the batch: one token of each, as in a
    decoding step. Rows left over at the end of a batch are a smaller group with the same budget.
    Where a group uses more experts than the budget, those stay that carry the most weight in the
    group (among equals, the lowest ids). With `Renorm.NATIVE` each of its tokens then chooses
    anew among them, as many experts as before; otherwise its other slots are dropped, and a token
    all of whose experts are gone is left with none. Groups within the budget are left alone.

    What a token gets depends on its neighbours: on how the text was cut into batches
    (`corpus.batches` with its `batch_tokens`), which rows stand together, and their order.

    Source: terms.md#expert-budget
    """

    max_experts: int
    sequences: int
    renorm: Renorm = Renorm.NATIVE

    def __post_init__(self) -> None:
        for value, name in ((self.max_experts, "max_experts"), (self.sequences, "sequences")):
            if value < 1:
                raise ValueError(f"expert budget: {name} = {value}; give at least 1")

    @property
    def chooses_anew(self) -> bool:
        """Whether the router's scores are read again."""
        return self.renorm is Renorm.NATIVE

    def apply(self, routing: Routing, context: RouterContext) -> Routing:
        """The decisions of all groups within the budget."""
        if routing.num_tokens == 0:
            return routing
        allowed, over = self._allowed(routing, context)
        if not bool(over.any()):
            return routing
        if not self.chooses_anew:
            stays = allowed.gather(1, routing.experts) | ~over.unsqueeze(1)
            return _unless(over, kept_slots(routing, stays, self.renorm), routing)
        rule, scores = rule_and_scores(
            routing, context, needed_by="expert budget with native weights"
        )
        count = num_active(routing)
        if self.max_experts < count:
            raise ValueError(
                f"expert budget of {self.max_experts}, but each token chooses {count}: allow at "
                f"least {count}, or drop experts with the renorm keep_mass or none"
            )
        some = routing.select(over)
        masked = scores[over].masked_fill(~allowed[over], -torch.inf)
        choice = rule.choose(masked, count)
        experts, weights = some.experts.clone(), torch.zeros_like(some.weights)
        experts[:, :count] = choice.experts
        weights[:, :count] = choice.weights.to(weights.dtype)
        active = torch.zeros_like(some.active)
        # Routers with groups may find fewer experts that are allowed than they need.
        active[:, :count] = allowed[over].gather(1, choice.experts)
        chosen = some.with_slots(experts=experts, weights=weights, active=active)
        return _put(over, chosen, routing)

    def _allowed(
        self, routing: Routing, context: RouterContext
    ) -> tuple[Bool[Tensor, "tok expert"], Bool[Tensor, " tok"]]:
        """Which experts each token may use, and whether its group is over the budget."""
        place = context.place
        if place is None:
            raise UnsupportedModel(
                f"layer {context.layer}: an expert budget needs the batch that runs at once, "
                f"which a recorded trace does not hold; run it on the model"
            )
        width = int(place.column.max()) + 1
        group = place.sequence.div(self.sequences, rounding_mode="floor") * width + place.column
        num_groups = int(group.max()) + 1
        working = routing.active & place.real.unsqueeze(1)
        mass = torch.zeros(
            num_groups * routing.num_experts, dtype=torch.float64, device=group.device
        )
        used = torch.zeros_like(mass, dtype=torch.bool)
        cell = group.unsqueeze(1) * routing.num_experts + routing.experts
        mass.scatter_add_(0, cell[working], routing.weights[working].double())
        used[cell[working]] = True
        shape = (num_groups, routing.num_experts)
        best = mass.view(shape).masked_fill(~used.view(shape), -1.0)
        order = best.argsort(dim=-1, descending=True, stable=True)
        allowed = torch.zeros(shape, dtype=torch.bool, device=group.device)
        allowed.scatter_(1, order[:, : self.max_experts], True)
        over = used.view(shape).sum(dim=-1) > self.max_experts
        return allowed[group], over[group]

    def describe(self) -> Mapping[str, object]:
        """Name, budget, the sequences it is for, and renorm."""
        return {
            "policy": "expert_budget",
            "max_experts": self.max_experts,
            "sequences": self.sequences,
            "renorm": self.renorm.value,
        }


def _unless(rows: Bool[Tensor, " tok"], changed: Routing, before: Routing) -> Routing:
    """`changed` in these rows, `before` elsewhere, to the last bit."""
    return _put(rows, changed.select(rows), before)


def _put(rows: Bool[Tensor, " tok"], some: Routing, routing: Routing) -> Routing:
    experts, weights = routing.experts.clone(), routing.weights.clone()
    active = routing.active.clone()
    experts[rows], weights[rows], active[rows] = some.experts, some.weights, some.active
    return replace(routing, experts=experts, weights=weights, active=active)
