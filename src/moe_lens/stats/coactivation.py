"""`Coactivation`: which experts a token uses together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple, final

import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from moe_lens.event import LayerEvent
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.sums import LayerSums, active_or_none, count_at


class _SlotPairs(NamedTuple):
    first: Int64[Tensor, " pair"]
    second: Int64[Tensor, " pair"]


@final
class Coactivation(Accumulator):
    """Tokens that used both experts of each pair, per layer.

    Source: terms.md#coactivation
    """

    def __init__(self) -> None:
        self._counts = LayerSums("counts")

    def update(self, event: LayerEvent) -> None:
        """Add one layer's pairs: each unordered pair of a token's active slots once."""
        routing = event.routing
        num_experts = routing.num_experts
        counts = self._counts.zeros(
            event.layer,
            (num_experts, num_experts),
            dtype=torch.int64,
            device=routing.experts.device,
        )
        first, second = _slot_pairs(routing.num_slots, routing.experts.device)
        slots = routing.experts.to(torch.int32).T.contiguous()
        active = active_or_none(routing.active)
        if active is not None:
            active = active.T.contiguous()
            active = active[first] & active[second]
        count_at(counts, slots[first] * num_experts + slots[second], active=active)

    def merge(self, other: Coactivation) -> None:
        """Add another's counts."""
        self._counts.merge(other._counts)

    def state(self) -> Mapping[str, Tensor]:
        """Pairs as they came, row before column, per layer."""
        return self._counts.state()

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Coactivation:
        """The accumulator that `state` came from."""
        coactivation = cls()
        coactivation._counts = LayerSums.from_state("counts", state)
        return coactivation

    @property
    def layers(self) -> tuple[int, ...]:
        """The MoE layers seen so far."""
        return self._counts.layers

    def counts(self, layer: int) -> Int64[Tensor, "expert expert"]:
        """Tokens that used both experts; symmetric, and the diagonal is usage."""
        pairs = self._counts.of(layer)
        return pairs + pairs.T - pairs.diag().diag()

    def table(self) -> pl.DataFrame:
        """One row for each layer and pair of different experts that some token used together.

        Columns: layer, expert, other_expert (the larger index), num_tokens.
        """
        schema = {
            "layer": pl.Int64,
            "expert": pl.Int64,
            "other_expert": pl.Int64,
            "num_tokens": pl.Int64,
        }
        parts = []
        for layer in self.layers:
            counts = self.counts(layer).triu(diagonal=1)
            expert, other = counts.nonzero(as_tuple=True)
            columns = {
                "layer": [layer] * len(expert),
                "expert": expert.numpy(),
                "other_expert": other.numpy(),
                "num_tokens": counts[expert, other].numpy(),
            }
            parts.append(pl.DataFrame(columns, schema=schema))
        return pl.concat(parts) if parts else pl.DataFrame(schema=schema)


@cache
def _slot_pairs(num_slots: int, device: torch.device) -> _SlotPairs:
    """Every pair of slots once, a slot with itself among them."""
    return _SlotPairs(*torch.triu_indices(num_slots, num_slots, device=device))
