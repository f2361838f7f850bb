"""Fewer active experts: keep the top k, and say what becomes of the weights."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from moe_lens.policies.base import Policy, RouterContext, chosen_anew, rule_and_scores
from moe_lens.routing import Routing


class Renorm(enum.Enum):
    """What the kept weights become. Source: terms.md#renorm."""

    NATIVE = "native"
    """What the model itself does with a smaller top_k."""
    KEEP_MASS = "keep_mass"
    """Scaled so that they sum to what the full choice summed to."""
    NONE = "none"
    """As they were."""


def kept_slots(routing: Routing, kept: Bool[Tensor, "*tok slot"], renorm: Renorm) -> Routing:
    """Only some of the active slots, their weights as they were or scaled to the full sum.

    With `Renorm.NATIVE` weights are as they were: a new choice is for the caller to make.
    """
    kept = routing.active & kept
    weights = routing.weights
    if renorm is Renorm.KEEP_MASS:
        left = weights.masked_fill(~kept, 0.0).sum(dim=-1, keepdim=True)
        full = weights.sum(dim=-1, keepdim=True)
        weights = weights * torch.where(left > 0, full / left, 1.0)
    return routing.with_slots(weights=weights, active=kept)


@final
@dataclass(frozen=True)
class KeepTopK(Policy):
    """Run with at most `k` experts for each token.

    With `Renorm.NATIVE` the router chooses anew as it would with a smaller top_k; otherwise the
    slots with the largest weights stay. The two keep different experts only where a router
    chooses by a biased score.
    """

    k: int
    renorm: Renorm = Renorm.NATIVE

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k = {self.k}: at least 1 expert must stay active")

    @property
    def chooses_anew(self) -> bool:
        """Whether the router's scores are read again."""
        return self.renorm is Renorm.NATIVE

    def apply(self, routing: Routing, context: RouterContext) -> Routing:
        """The `k` best slots; the others become inactive."""
        if self.k >= routing.num_slots:
            return routing
        if self.chooses_anew:
            rule, scores = rule_and_scores(
                routing, context, needed_by=f"top {self.k} with native weights"
            )
            return chosen_anew(replace(routing, scores=scores), rule, self.k)
        rank = torch.arange(routing.num_slots, device=routing.experts.device)
        return kept_slots(routing, rank < self.k, self.renorm)

    def describe(self) -> Mapping[str, object]:
        """Name, k and renorm."""
        return {"policy": "keep_top_k", "k": self.k, "renorm": self.renorm.value}
