"""`Transitions`: which expert follows which at the next MoE layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import polars as pl
import torch
from jaxtyping import Bool, Int32, Int64
from torch import Tensor

from moe_lens.event import LayerEvent
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.pairing import TokenBatches
from moe_lens.stats.ranks import refuse_unweighted, unweighted
from moe_lens.stats.sums import LayerSums, active_or_none, count_at


class _Choice(NamedTuple):
    """A layer's choice, kept until the next. `active` is None where all slots are."""

    slots: Int32[Tensor, "slot tok"]
    active: Bool[Tensor, "slot tok"] | None
    unweighted: Bool[Tensor, " tok"]
    num_experts: int


@final
class Transitions(Accumulator):
    """Pairs of (expert at one MoE layer, expert at the next MoE layer) that a token chose.

    Two counts: of all pairs of active slots (k x k for a token), and of the rank-1 experts alone
    (one for a token). Events of one batch come in layer order, with the same rows; batches may
    interleave. Pairs need both layers, so saving, merging and reading wait for whole batches.

    Args:
        layers: The model's MoE layers, in rising order.

    Source: terms.md#transitions
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self._batches = TokenBatches[_Choice](layers)
        self._all = LayerSums("all")
        self._first = LayerSums("first")
        self._unweighted = LayerSums("unweighted")

    def update(self, event: LayerEvent) -> None:
        """Add the pairs of this layer and the one before it.

        Raises:
            ValueError: These tokens were not seen at the MoE layer before.
        """
        routing = event.routing
        # A copy: the engine reuses the event's buffers for the next layer.
        active = active_or_none(routing.active)
        now = _Choice(
            slots=routing.experts.to(torch.int32).T.contiguous(),
            active=None if active is None else active.T.clone(),
            unweighted=unweighted(routing),
            num_experts=routing.num_experts,
        )
        batch = self._batches.join(event, now)
        if len(batch.kept) > 1:
            self._count(event.layer, batch.kept[-2], now)
            batch.kept[-2] = _FORGOTTEN

    def _count(self, layer: int, before: _Choice, now: _Choice) -> None:
        shape, device = (before.num_experts, now.num_experts), now.slots.device
        every = self._all.zeros(layer, shape, dtype=torch.int64, device=device)
        first = self._first.zeros(layer, shape, dtype=torch.int64, device=device)
        pairs = before.slots[:, None] * now.num_experts + now.slots
        both = _both(before, now)
        count_at(every, pairs, active=both)
        count_at(first, pairs[0, 0], active=None if both is None else both[0, 0])
        self._unweighted.add(layer, (before.unweighted | now.unweighted).sum())

    def merge(self, other: Transitions) -> None:
        """Add another's counts, of the same MoE layers, between batches.

        Raises:
            ValueError: The MoE layers differ, or a batch is under way in `other`.
        """
        if self.moe_layers != other.moe_layers:
            raise ValueError(
                f"transitions between layers {list(self.moe_layers)} cannot be merged with those "
                f"between {list(other.moe_layers)}: the models differ"
            )
        other._batches.require_done("merge")
        self._all.merge(other._all)
        self._first.merge(other._first)
        self._unweighted.merge(other._unweighted)

    def state(self) -> Mapping[str, Tensor]:
        """The MoE layers, and the counts of pairs that end at each.

        Raises:
            ValueError: A batch is under way.
        """
        self._batches.require_done("state")
        layers = torch.tensor(self.moe_layers)
        counts = self._all.state() | self._first.state() | self._unweighted.state()
        return {"layers": layers} | counts

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Transitions:
        """The accumulator that `state` came from."""
        transitions = cls(state["layers"].tolist())
        transitions._all = LayerSums.from_state("all", state)
        transitions._first = LayerSums.from_state("first", state)
        transitions._unweighted = LayerSums.from_state("unweighted", state)
        return transitions

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """The MoE layers between which transitions are counted."""
        return self._batches.layers

    def all_pairs(self, layer: int) -> Int64[Tensor, "expert next_expert"]:
        """Pairs that end at `layer`: row, an expert of the MoE layer before it; column, of it.

        A token counts once for each pair of its active slots.
        """
        self._batches.require_done("all_pairs")
        return self._all.of(layer)

    def rank1_pairs(self, layer: int) -> Int64[Tensor, "expert next_expert"]:
        """Pairs of rank-1 experts that end at `layer`; a token counts at most once.

        Raises:
            TraceError: The events came without weights, so rank 1 is unknown.
        """
        self._batches.require_done("rank1_pairs")
        unknown = int(self._unweighted.of(layer))
        refuse_unweighted(unknown, layer=layer, what="transitions of rank 1")
        return self._first.of(layer)

    def table(self) -> pl.DataFrame:
        """One row for each pair of experts that some token chose one after the other.

        Columns: layer, expert, next_layer, next_expert, num_pairs (of all active slots), share
        (of the pairs that leave this expert).
        """
        schema = {
            "layer": pl.Int64,
            "expert": pl.Int64,
            "next_layer": pl.Int64,
            "next_expert": pl.Int64,
            "num_pairs": pl.Int64,
            "share": pl.Float64,
        }
        self._batches.require_done("table")
        parts = []
        for layer in self._all.layers:
            before = self.moe_layers[self.moe_layers.index(layer) - 1]
            counts = self.all_pairs(layer)
            expert, after = counts.nonzero(as_tuple=True)
            num_pairs = counts[expert, after]
            columns = {
                "layer": [before] * len(expert),
                "expert": expert.numpy(),
                "next_layer": [layer] * len(expert),
                "next_expert": after.numpy(),
                "num_pairs": num_pairs.numpy(),
                "share": (num_pairs.double() / counts.sum(dim=1)[expert]).numpy(),
            }
            parts.append(pl.DataFrame(columns, schema=schema))
        return pl.concat(parts) if parts else pl.DataFrame(schema=schema)


def _both(before: _Choice, now: _Choice) -> Bool[Tensor, "slot next_slot tok"] | None:
    """Where both slots are active; None where all are."""
    if before.active is None and now.active is None:
        return None
    was = torch.ones_like(before.slots) > 0 if before.active is None else before.active
    are = torch.ones_like(now.slots) > 0 if now.active is None else now.active
    return was[:, None] & are


_FORGOTTEN = _Choice(
    slots=torch.empty(0, 0, dtype=torch.int32),
    active=None,
    unweighted=torch.empty(0, dtype=torch.bool),
    num_experts=0,
)
