"""Take experts away or swap them: mask, drop, replace, and the random control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import torch
from jaxtyping import Bool
from torch import Tensor

from moe_lens.policies.base import Policy, RouterContext, chosen_anew, num_active, rule_and_scores
from moe_lens.policies.draw import uniform_scores
from moe_lens.routing import Routing

ExpertsByLayer: TypeAlias = Mapping[int, tuple[int, ...]]
"""Expert ids for each layer index; layers that are not named are left alone."""


@final
@dataclass(frozen=True)
class MaskExperts(Policy):
    """Remove experts before the choice, so that others take their place.

    Equal to the checkpoint with these experts pruned. Source: terms.md#mask
    """

    experts: ExpertsByLayer

    @property
    def chooses_anew(self) -> bool:
        """Always: that is what tells it from `DropExperts`."""
        return True

    def apply(self, routing: Routing, context: RouterContext) -> Routing:
        """The choice among the experts that are left."""
        masked = self.experts.get(context.layer, ())
        if not masked:
            return routing
        _check_ids(masked, routing.num_experts, layer=context.layer)
        rule, scores = rule_and_scores(routing, context, needed_by="mask")
        scores = scores.masked_fill(_membership(masked, routing), -torch.inf)
        return chosen_anew(replace(routing, scores=scores), rule, num_active(routing))

    def describe(self) -> Mapping[str, object]:
        """Name and masked ids."""
        return {"policy": "mask_experts", "experts": _as_json(self.experts)}


@final
@dataclass(frozen=True)
class DropExperts(Policy):
    """Give the slots of some experts weight 0; nothing takes their place.

    Not what pruning does (see `MaskExperts`): the wrong way to simulate it, and its control.
    Source: terms.md#drop
    """

    experts: ExpertsByLayer

    def apply(self, routing: Routing, context: RouterContext) -> Routing:
        """The same choice without these experts."""
        dropped = self.experts.get(context.layer, ())
        if not dropped:
            return routing
        _check_ids(dropped, routing.num_experts, layer=context.layer)
        gone = _membership(dropped, routing)[routing.experts]
        return routing.with_slots(active=routing.active & ~gone)

    def describe(self) -> Mapping[str, object]:
        """Name and dropped ids."""
        return {"policy": "drop_experts", "experts": _as_json(self.experts)}


@final
@dataclass(frozen=True)
class ReplaceExpert(Policy):
    """Send every token of one expert to another, at the weight that the first one had.

    A token that already had the other expert loses the slot instead: no expert runs twice.
    """

    layer: int
    expert: int
    by: int

    def apply(self, routing: Routing, context: RouterContext) -> Routing:
        """The same choice with one expert swapped."""
        if context.layer != self.layer:
            return routing
        _check_ids((self.expert, self.by), routing.num_experts, layer=context.layer)
        hit = (routing.experts == self.expert) & routing.active
        has_other = ((routing.experts == self.by) & routing.active).any(dim=-1, keepdim=True)
        return routing.with_slots(
            experts=torch.where(hit & ~has_other, self.by, routing.experts),
            active=routing.active & ~(hit & has_other),
        )

    def describe(self) -> Mapping[str, object]:
        """Name, layer and both ids."""
        return {
            "policy": "replace_expert",
            "layer": self.layer,
            "expert": self.expert,
            "by": self.by,
        }


@final
@dataclass(frozen=True)
class RandomExperts(Policy):
    """Control: keep every weight, draw the experts anew among those that were not chosen.

    The draw depends on the seed and on the token's document, position and layer alone, so any
    batching gives the same experts.

    Attributes:
        seed: Of the draw.
        slots: Ranks to redraw, 0 being the largest weight; None for all.
    """

    seed: int
    slots: tuple[int, ...] | None = None

    def apply(self, routing: Routing, context: RouterContext) -> Routing:
        """The same weights on experts that the router did not choose."""
        slots = tuple(range(routing.num_slots)) if self.slots is None else self.slots
        if slots and not 0 <= min(slots) <= max(slots) < routing.num_slots:
            raise ValueError(
                f"random control names slots {slots}, but each token has {routing.num_slots} "
                f"(0 to {routing.num_slots - 1})"
            )
        spare = routing.num_experts - routing.num_slots
        if spare < len(slots):
            raise ValueError(
                f"layer {context.layer}: {len(slots)} experts to draw, but only {spare} are not "
                f"chosen; redraw fewer slots"
            )
        draws = uniform_scores(
            context.tokens, num_experts=routing.num_experts, layer=context.layer, seed=self.seed
        )
        draws = draws.scatter(1, routing.experts, -1.0)
        experts = routing.experts.clone()
        experts[:, list(slots)] = draws.topk(len(slots), dim=-1).indices
        return routing.with_slots(experts=experts)

    def describe(self) -> Mapping[str, object]:
        """Name, seed and slots."""
        slots = None if self.slots is None else list(self.slots)
        return {"policy": "random_experts", "seed": self.seed, "slots": slots}


def _membership(ids: tuple[int, ...], routing: Routing) -> Bool[Tensor, " expert"]:
    member = torch.zeros(routing.num_experts, dtype=torch.bool, device=routing.experts.device)
    member[list(ids)] = True
    return member


def _check_ids(ids: tuple[int, ...], num_experts: int, *, layer: int) -> None:
    for expert in ids:
        if not 0 <= expert < num_experts:
            raise ValueError(
                f"layer {layer}: the policy names expert {expert}, but the layer has "
                f"{num_experts} (0 to {num_experts - 1})"
            )


def _as_json(experts: ExpertsByLayer) -> dict[str, list[int]]:
    return {str(layer): sorted(ids) for layer, ids in sorted(experts.items())}
