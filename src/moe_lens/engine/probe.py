"""Probes: one more expert per token, run at weight 0 so that its output can be seen.

The model's output stays as it is, to rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from jaxtyping import Int
from torch import Tensor

from moe_lens.policies import RouterContext
from moe_lens.policies.base import rule_and_scores
from moe_lens.policies.draw import uniform_scores
from moe_lens.routing import Routing


class Probe(ABC):
    """Says which expert is run beside those that were chosen."""

    @abstractmethod
    def choose(self, routing: Routing, context: RouterContext) -> Int[Tensor, "tok 1"]:
        """An expert for each token that none of its slots names."""


@final
@dataclass(frozen=True)
class RandomProbe(Probe):
    """Any expert that was not chosen: the control for "any expert would do".

    Drawn by document and position, so that batching changes nothing.
    """

    seed: int

    def choose(self, routing: Routing, context: RouterContext) -> Int[Tensor, "tok 1"]:
        """A uniform draw for each token."""
        draws = uniform_scores(
            context.tokens,
            num_experts=routing.num_experts,
            layer=context.layer,
            seed=self.seed,
        )
        return draws.scatter(1, routing.experts, -1.0).argmax(dim=-1, keepdim=True)


@final
@dataclass(frozen=True)
class NextInLine(Probe):
    """The expert that would take the place of a chosen one, were that one masked."""

    def choose(self, routing: Routing, context: RouterContext) -> Int[Tensor, "tok 1"]:
        """The best of the experts that were not chosen.

        Raises:
            UnsupportedModel: The layer's rule is not known.
        """
        rule, scores = rule_and_scores(routing, context, needed_by="the expert next in line")
        return rule.successor(scores, routing.experts)
