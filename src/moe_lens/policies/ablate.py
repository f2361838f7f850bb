"""Take one expert from the tokens that chose it, and leave every other token alone."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from moe_lens.policies.base import Policy, RouterContext
from moe_lens.policies.draw import uniform_scores
from moe_lens.policies.experts import MaskExperts
from moe_lens.routing import Routing


class Ablation(enum.StrEnum):
    """What a token that chose the expert does instead. Source: terms.md#causal-importance."""

    DROP = "drop"
    """The slot is empty."""
    MASK = "mask"
    """The model chooses again without the expert."""
    REPLACE = "replace"
    """An expert that was not chosen, drawn at random, takes the slot at the same weight."""
    RANDOM = "random"
    """Control: the expert stays, and another of the token's slots, drawn at random, is empty."""


@final
@dataclass(frozen=True)
class Ablate(Policy):
    """Ablate one expert at the tokens that chose it.

    Draws depend on the seed and on the token's document, position and layer alone.
    """

    layer: int
    expert: int
    how: Ablation
    seed: int = 0

    def apply(self, routing: Routing, context: RouterContext) -> Routing:
        """The same decision, but for tokens that chose the expert.

        Raises:
            ValueError: The layer has no such expert, or too few slots or experts for a draw.
        """
        if context.layer != self.layer:
            return routing
        if not 0 <= self.expert < routing.num_experts:
            raise ValueError(
                f"layer {self.layer}: expert {self.expert} is to be ablated, but the layer has "
                f"{routing.num_experts} (0 to {routing.num_experts - 1})"
            )
        hit = (routing.experts == self.expert) & routing.active
        if not bool(hit.any()):
            return routing
        match self.how:
            case Ablation.DROP:
                return routing.with_slots(active=routing.active & ~hit)
            case Ablation.MASK:
                return self._masked(routing, context, hit)
            case Ablation.REPLACE:
                return self._replaced(routing, context, hit)
            case Ablation.RANDOM:
                return self._another_dropped(routing, context, hit)

    def describe(self) -> Mapping[str, object]:
        """Name, place, what is done, and the seed of draws."""
        return {
            "policy": "ablate",
            "layer": self.layer,
            "expert": self.expert,
            "how": self.how.value,
            "seed": self.seed,
        }

    def _masked(
        self, routing: Routing, context: RouterContext, hit: Bool[Tensor, "tok slot"]
    ) -> Routing:
        anew = MaskExperts({self.layer: (self.expert,)}).apply(routing, context)
        rows = hit.any(dim=-1, keepdim=True)
        return replace(
            routing,
            experts=torch.where(rows, anew.experts, routing.experts),
            weights=torch.where(rows, anew.weights, routing.weights),
            active=torch.where(rows, anew.active, routing.active),
        )

    def _replaced(
        self, routing: Routing, context: RouterContext, hit: Bool[Tensor, "tok slot"]
    ) -> Routing:
        if routing.num_experts <= routing.num_slots:
            raise ValueError(
                f"layer {self.layer}: every token uses all {routing.num_experts} experts, so none "
                f"can replace expert {self.expert}"
            )
        spare = self._draws(routing, context).scatter(1, routing.experts, -1.0)
        other = spare.argmax(dim=-1, keepdim=True)
        return routing.with_slots(experts=torch.where(hit, other, routing.experts))

    def _another_dropped(
        self, routing: Routing, context: RouterContext, hit: Bool[Tensor, "tok slot"]
    ) -> Routing:
        rows = hit.any(dim=-1, keepdim=True)
        others = routing.active & ~hit
        if bool((rows & ~others.any(dim=-1, keepdim=True)).any()):
            raise ValueError(
                f"layer {self.layer}: a token uses expert {self.expert} alone, so no other slot "
                f"can be dropped in its place"
            )
        draws = self._draws(routing, context).gather(1, routing.experts)
        chosen = draws.masked_fill(~others, -1.0).argmax(dim=-1, keepdim=True)
        gone = torch.zeros_like(hit).scatter(1, chosen, True) & rows
        return routing.with_slots(active=routing.active & ~gone)

    def _draws(self, routing: Routing, context: RouterContext) -> Tensor:
        return uniform_scores(
            context.tokens, num_experts=routing.num_experts, layer=self.layer, seed=self.seed
        )
