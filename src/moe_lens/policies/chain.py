"""The neutral policy, and policies one after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import final

from moe_lens.policies.base import Policy, RouterContext
from moe_lens.routing import Routing


@final
@dataclass(frozen=True)
class Identity(Policy):
    """The model's own routing."""

    def apply(self, routing: Routing, context: RouterContext) -> Routing:
        """The decision as it was."""
        return routing

    def describe(self) -> Mapping[str, object]:
        """Its name."""
        return {"policy": "identity"}


@final
@dataclass(frozen=True)
class Chain(Policy):
    """Several policies, each applied to what the one before it decided."""

    policies: tuple[Policy, ...]

    def __post_init__(self) -> None:
        for before, after in pairwise(self.policies):
            if after.chooses_anew and not before.chooses_anew:
                raise ValueError(
                    f"{after.describe()['policy']} chooses experts anew and would undo "
                    f"{before.describe()['policy']}, which comes before it: swap them"
                )

    def apply(self, routing: Routing, context: RouterContext) -> Routing:
        """The last policy's decision."""
        for policy in self.policies:
            routing = policy.apply(routing, context)
        return routing

    def describe(self) -> Mapping[str, object]:
        """The parts, in order."""
        return {"policy": "chain", "of": [dict(p.describe()) for p in self.policies]}
