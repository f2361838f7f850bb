"""`RouterShape`: how sure routers are: the distribution of two numbers between 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor

from moe_lens.event import Field, LayerEvent
from moe_lens.policies.per_token import router_entropy
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.sums import LayerSums, count_at

NUM_BINS = 4000

Shape: TypeAlias = Literal["ratio", "entropy"]
_SHAPES: tuple[Shape, ...] = ("ratio", "entropy")


@final
class RouterShape(Accumulator):
    """Per layer, how many tokens have each ratio of rank 2's weight to rank 1's, and entropy.

    In bins of 1/4000. Source: terms.md#min-p, terms.md#router-entropy
    """

    needs = frozenset({Field.SCORES})

    def __init__(self) -> None:
        self._bins = LayerSums("bins")

    def update(self, event: LayerEvent) -> None:
        """Add one layer's tokens.

        Raises:
            ValueError: The event has no scores.
        """
        routing = event.routing
        if routing.scores is None:
            raise ValueError(f"layer {event.layer}: router shapes need the scores (Field.SCORES)")
        values = torch.stack([_ratio(routing.weights), router_entropy(routing.scores)])
        bins = self._bins.zeros(
            event.layer, (len(_SHAPES), NUM_BINS), dtype=torch.int64, device=values.device
        )
        place = (values * NUM_BINS).floor().clamp(0, NUM_BINS - 1).long()
        first = torch.arange(len(_SHAPES), device=values.device).unsqueeze(1) * NUM_BINS
        count_at(bins, first + place, active=None)

    def merge(self, other: RouterShape) -> None:
        """Add another's counts."""
        self._bins.merge(other._bins)

    def state(self) -> Mapping[str, Tensor]:
        """The counts."""
        return self._bins.state()

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> RouterShape:
        """The accumulator that `state` came from."""
        found = cls()
        found._bins = LayerSums.from_state("bins", state)
        return found

    def quantile(self, shape: Shape, part: float) -> dict[int, float]:
        """Per layer, the upper edge of the bin up to which at least this part of the tokens lies.

        Raises:
            ValueError: `part` is not from 0 to 1.
        """
        if not 0 <= part <= 1:
            raise ValueError(f"quantile {part:g}: a part, from 0 to 1")
        found = {}
        for layer, bins in self._bins.items():
            below = bins[_SHAPES.index(shape)].cpu().cumsum(0)
            rank = max(1, math.ceil(part * int(below[-1])))
            place = int(torch.searchsorted(below, torch.tensor([rank]))[0])
            found[layer] = 0.0 if part == 0 else (place + 1) / NUM_BINS
        return found


def _ratio(weights: Float[Tensor, "tok slot"]) -> Float[Tensor, " tok"]:
    """Rank 2's weight over rank 1's; 0 where there is no rank 2 or no weight."""
    if weights.shape[1] < 2:
        return torch.zeros_like(weights[:, 0]).double()
    first, second = weights[:, 0].double(), weights[:, 1].double()
    return torch.where(first > 0, second / first.clamp_min(1e-300), 0.0)
