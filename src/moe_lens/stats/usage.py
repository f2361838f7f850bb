"""`Usage`: how many tokens chose each expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import polars as pl
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from moe_lens.event import LayerEvent
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.ranks import refuse_unweighted, unweighted
from moe_lens.stats.sums import LayerSums, active_or_none, count_at


@final
class Usage(Accumulator):
    """Tokens that chose each expert, per layer and rank. Inactive slots are not choices.

    Source: terms.md#usage
    """

    def __init__(self) -> None:
        self._counts = LayerSums("counts")
        self._tokens = LayerSums("tokens")

    def update(self, event: LayerEvent) -> None:
        """Add one layer's choices."""
        routing = event.routing
        shape = (routing.num_slots, routing.num_experts)
        device = routing.experts.device
        counts = self._counts.zeros(event.layer, shape, dtype=torch.int64, device=device)
        offset = torch.arange(routing.num_slots, device=device) * routing.num_experts
        count_at(counts, routing.experts + offset, active=active_or_none(routing.active))
        without = unweighted(routing)
        self._tokens.add(event.layer, torch.stack([torch.ones_like(without).sum(), without.sum()]))

    def merge(self, other: Usage) -> None:
        """Add another's counts."""
        self._counts.merge(other._counts)
        self._tokens.merge(other._tokens)

    def state(self) -> Mapping[str, Tensor]:
        """Counts by rank and expert, and tokens (all, without weights), per layer."""
        return self._counts.state() | self._tokens.state()

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Usage:
        """The accumulator that `state` came from."""
        usage = cls()
        usage._counts = LayerSums.from_state("counts", state)
        usage._tokens = LayerSums.from_state("tokens", state)
        return usage

    @property
    def layers(self) -> tuple[int, ...]:
        """The MoE layers seen so far."""
        return self._counts.layers

    def num_tokens(self, layer: int) -> int:
        """How many tokens the layer saw."""
        return int(self._tokens.of(layer)[0])

    def counts(self, layer: int) -> Int64[Tensor, " expert"]:
        """Tokens that chose each expert, at any rank."""
        return self._counts.of(layer).sum(dim=0)

    def rank_counts(self, layer: int) -> Int64[Tensor, "slot expert"]:
        """Tokens that chose each expert at each rank; row 0 is rank 1.

        Raises:
            TraceError: The events came without weights, so ranks are unknown.
        """
        refuse_unweighted(int(self._tokens.of(layer)[1]), layer=layer, what="usage by rank")
        return self._counts.of(layer)

    def specialization(self, layer: int) -> Float64[Tensor, " expert"]:
        """The share of the layer's tokens for which each expert was chosen.

        Sums to the mean number of active slots.

        Source: terms.md#specialization
        """
        return self.counts(layer).double() / self.num_tokens(layer)

    def table(self) -> pl.DataFrame:
        """One row for each layer and expert.

        Columns: layer, expert, num_tokens, share (of the layer's decisions), specialization (of
        the layer's tokens).
        """
        schema = {
            "layer": pl.Int64,
            "expert": pl.Int64,
            "num_tokens": pl.Int64,
            "share": pl.Float64,
            "specialization": pl.Float64,
        }
        parts = []
        for layer in self.layers:
            counts = self.counts(layer)
            columns = {
                "layer": [layer] * len(counts),
                "expert": range(len(counts)),
                "num_tokens": counts.numpy(),
                "share": (counts.double() / counts.sum()).numpy(),
                "specialization": self.specialization(layer).numpy(),
            }
            parts.append(pl.DataFrame(columns, schema=schema))
        return pl.concat(parts) if parts else pl.DataFrame(schema=schema)
