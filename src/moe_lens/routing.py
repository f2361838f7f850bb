"""`Routing`: what a router decided for a batch of tokens.

The one value that the engine records, policies transform and statistics read. It holds what the
model *used*; nothing in this package derives a choice from logits when the choice is at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Routing:
    """The experts that were chosen for each token, and what multiplies their outputs.

    Slots are ranked: within a token, slot 0 has the largest weight, and inactive slots come last
    in no stated order. An inactive slot keeps a valid expert id and has weight exactly 0.

    Attributes:
        scores: The router's score of every expert before the choice (its logits, float32);
            None where only the choice is known, as in a recorded trace.
        weights: What multiplies each chosen expert's output, scaling included; float32. Weights
            need not sum to 1.
        experts: The chosen experts' ids, int64, each in 0 .. num_experts - 1.
        active: False where a policy took the slot away.
        num_experts: How many routed experts the layer has.
    """

    scores: Float[Tensor, "tok expert"] | None
    weights: Float[Tensor, "tok slot"]
    experts: Int[Tensor, "tok slot"]
    active: Bool[Tensor, "tok slot"]
    num_experts: int

    @property
    def num_tokens(self) -> int:
        """How many tokens were routed."""
        return self.experts.shape[0]

    @property
    def num_slots(self) -> int:
        """How many experts the router chooses for a token (k), inactive slots included."""
        return self.experts.shape[1]

    @staticmethod
    def from_choice(
        experts: Int[Tensor, "tok slot"],
        weights: Float[Tensor, "tok slot"],
        *,
        num_experts: int,
        scores: Float[Tensor, "tok expert"] | None = None,
    ) -> Routing:
        """Take a router's own answer, in whatever slot order it came, and rank it."""
        routing = Routing(
            scores=None if scores is None else scores.float(),
            weights=weights.float(),
            experts=experts.long(),
            active=torch.ones_like(experts, dtype=torch.bool),
            num_experts=num_experts,
        )
        return routing.ranked()

    def ranked(self) -> Routing:
        """The same decision with slots by falling weight, inactive ones last.

        Equal weights keep the order in which they came, so ranking twice changes nothing.
        """
        key = self.weights.masked_fill(~self.active, -torch.inf)
        order = key.argsort(dim=-1, descending=True, stable=True)
        return Routing(
            scores=self.scores,
            weights=self.weights.gather(1, order),
            experts=self.experts.gather(1, order),
            active=self.active.gather(1, order),
            num_experts=self.num_experts,
        )

    def with_slots(
        self,
        *,
        weights: Float[Tensor, "tok slot"] | None = None,
        experts: Int[Tensor, "tok slot"] | None = None,
        active: Bool[Tensor, "tok slot"] | None = None,
    ) -> Routing:
        """A ranked copy with some of its parts replaced; inactive slots get weight exactly 0."""
        kept = self.active if active is None else active
        mass = self.weights if weights is None else weights
        return Routing(
            scores=self.scores,
            weights=mass.masked_fill(~kept, 0.0),
            experts=self.experts if experts is None else experts,
            active=kept,
            num_experts=self.num_experts,
        ).ranked()

    def select(self, rows: Bool[Tensor, " tok"] | Int[Tensor, " row"]) -> Routing:
        """The decisions of some tokens only."""
        return Routing(
            scores=None if self.scores is None else self.scores[rows],
            weights=self.weights[rows],
            experts=self.experts[rows],
            active=self.active[rows],
            num_experts=self.num_experts,
        )

    def check(self) -> None:
        """Prove the invariants that every consumer relies on.

        Raises:
            ValueError: An id is out of range, a token lists an active expert twice, a weight is
                not finite, slots are not ranked, or an inactive slot has weight.
        """
        if self.num_tokens == 0:
            return
        low, high = int(self.experts.min()), int(self.experts.max())
        if low < 0 or high >= self.num_experts:
            raise ValueError(
                f"expert ids run from {low} to {high}, but the layer has {self.num_experts} "
                f"experts (0 to {self.num_experts - 1})"
            )
        if not bool(torch.isfinite(self.weights).all()):
            raise ValueError("a routing weight is not finite: the model's activations overflowed")
        if bool((self.weights.masked_fill(self.active, 0.0) != 0).any()):
            raise ValueError("an inactive slot has a weight other than 0")
        key = self.weights.masked_fill(~self.active, -torch.inf)
        if bool((key[:, 1:] > key[:, :-1]).any()):
            raise ValueError("slots are not ranked by falling weight; call .ranked()")
        stand_in = self.num_experts + torch.arange(self.num_slots, device=self.experts.device)
        ids = torch.where(self.active, self.experts, stand_in).sort(dim=-1).values
        twice = (ids[:, 1:] == ids[:, :-1]).any(dim=-1)
        if bool(twice.any()):
            token = int(twice.nonzero()[0])
            raise ValueError(f"token {token} lists an expert twice: {self.experts[token].tolist()}")
