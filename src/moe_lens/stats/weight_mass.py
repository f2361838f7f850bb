"""`WeightMass`: how much weight experts and ranks carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import polars as pl
import torch
from jaxtyping import Float64
from torch import Tensor

from moe_lens.event import LayerEvent
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.ranks import refuse_unweighted, unweighted
from moe_lens.stats.sums import LayerSums, add_at

_SEEN, _ROUTED, _UNWEIGHTED = 0, 1, 2


@final
class WeightMass(Accumulator):
    """Sums of the weights that multiply experts' outputs, per layer.

    Means over tokens leave out tokens with no active slot; these are counted apart.

    Source: terms.md#weight-mass
    """

    def __init__(self) -> None:
        self._by_expert = LayerSums("expert")
        self._by_slot = LayerSums("slot")
        self._share = LayerSums("share")
        self._squares = LayerSums("squares")
        self._tokens = LayerSums("tokens")

    @property
    def _parts(self) -> tuple[LayerSums, ...]:
        return (self._by_expert, self._by_slot, self._share, self._squares, self._tokens)

    def update(self, event: LayerEvent) -> None:
        """Add one layer's weights."""
        layer, routing = event.layer, event.routing
        weights = routing.weights.double()
        mass = self._by_expert.zeros(
            layer, (routing.num_experts,), dtype=torch.float64, device=weights.device
        )
        add_at(mass, routing.experts, weights)
        total = weights.sum(dim=-1)
        routed = routing.active[:, 0]
        unknown = unweighted(routing)
        known = routed & ~unknown
        inverse = torch.where(known, total, 1.0).reciprocal()
        self._by_slot.add(layer, weights.sum(dim=0))
        self._share.add(layer, inverse @ weights)
        first = weights[:, 0] * inverse
        self._squares.add(layer, torch.stack([total @ total, first @ first]))
        self._tokens.add(
            layer,
            torch.stack([torch.ones_like(routed).sum(), routed.sum(), unknown.sum()]),
        )

    def merge(self, other: WeightMass) -> None:
        """Add another's sums."""
        for mine, theirs in zip(self._parts, other._parts, strict=True):
            mine.merge(theirs)

    def state(self) -> Mapping[str, Tensor]:
        """Weight by expert and by rank, sums of shares and squares, and tokens, per layer."""
        return {name: total for part in self._parts for name, total in part.state().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> WeightMass:
        """The accumulator that `state` came from."""
        mass = cls()
        mass._by_expert = LayerSums.from_state("expert", state)
        mass._by_slot = LayerSums.from_state("slot", state)
        mass._share = LayerSums.from_state("share", state)
        mass._squares = LayerSums.from_state("squares", state)
        mass._tokens = LayerSums.from_state("tokens", state)
        return mass

    @property
    def layers(self) -> tuple[int, ...]:
        """The MoE layers seen so far."""
        return self._tokens.layers

    def num_tokens(self, layer: int) -> int:
        """How many tokens the layer saw."""
        return int(self._tokens.of(layer)[_SEEN])

    def num_unrouted(self, layer: int) -> int:
        """How many of them had no active slot; the means below leave them out."""
        seen, routed, _ = self._tokens.of(layer).tolist()
        return int(seen - routed)

    def by_expert(self, layer: int) -> Float64[Tensor, " expert"]:
        """The sum of weights that each expert's output was multiplied by."""
        self._refuse(layer)
        return self._by_expert.of(layer)

    def by_rank(self, layer: int) -> Float64[Tensor, " slot"]:
        """The sum of weights at each rank; the first is rank 1."""
        self._refuse(layer)
        return self._by_slot.of(layer)

    def mean_share(self, layer: int) -> Float64[Tensor, " slot"]:
        """Each rank's part of its token's weight sum, as a mean over tokens; they sum to 1."""
        return self._share.of(layer) / self._num_routed(layer)

    def mean_total(self, layer: int) -> float:
        """A token's sum of weights, as a mean over tokens."""
        return float(self.by_rank(layer).sum()) / self._num_routed(layer)

    def table(self) -> pl.DataFrame:
        """One row for each layer.

        Columns: layer, num_tokens, num_unrouted, weight_sum_mean, weight_sum_std,
        rank1_share_mean, rank1_share_std (spread over tokens, not an interval).

        Raises:
            TraceError: The events came without weights.
        """
        rows = []
        for layer in self.layers:
            count = self._num_routed(layer)
            share, total = float(self.mean_share(layer)[0]), self.mean_total(layer)
            squares = (self._squares.of(layer) / count).tolist()
            rows.append(
                {
                    "layer": layer,
                    "num_tokens": self.num_tokens(layer),
                    "num_unrouted": self.num_unrouted(layer),
                    "weight_sum_mean": total,
                    "weight_sum_std": max(squares[0] - total**2, 0.0) ** 0.5,
                    "rank1_share_mean": share,
                    "rank1_share_std": max(squares[1] - share**2, 0.0) ** 0.5,
                }
            )
        return pl.DataFrame(
            rows,
            schema={
                "layer": pl.Int64,
                "num_tokens": pl.Int64,
                "num_unrouted": pl.Int64,
                "weight_sum_mean": pl.Float64,
                "weight_sum_std": pl.Float64,
                "rank1_share_mean": pl.Float64,
                "rank1_share_std": pl.Float64,
            },
        )

    def _num_routed(self, layer: int) -> int:
        self._refuse(layer)
        routed = int(self._tokens.of(layer)[_ROUTED])
        if routed == 0:
            raise ValueError(f"layer {layer}: no token has an active slot, so there is no mean")
        return routed

    def _refuse(self, layer: int) -> None:
        refuse_unweighted(int(self._tokens.of(layer)[_UNWEIGHTED]), layer=layer, what="weight mass")
