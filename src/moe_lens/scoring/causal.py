"""Causal importance: take an expert away where it was chosen, and see what becomes of the loss.

Ablations are streams of one sweep, so that everything before the ablated layer is computed once
for all of them, and batches without a token that chose the expert cost nothing.

Source: terms.md#causal-importance
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import polars as pl
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from moe_lens.corpus import TokenBatch
from moe_lens.engine.sweep import Stream, sweep
from moe_lens.event import LayerEvent
from moe_lens.lens.unembed import OutputHead
from moe_lens.models.model import MoEModel
from moe_lens.policies.ablate import Ablate, Ablation
from moe_lens.stats.next_token import next_token_nll, predicted

_HELD_NUMBERS = 2**27
"""Hidden states of all streams that are held at once: half a gigabyte in float32."""
_MOST_STREAMS = 64


class Place(NamedTuple):
    """An expert of a layer."""

    layer: int
    expert: int


@dataclass(frozen=True)
class Plan:
    """What is ablated.

    Attributes:
        places: Experts, in order.
        ablations: What is done to each.
        seed: Of the random draws of ablations.
    """

    places: tuple[Place, ...]
    ablations: tuple[Ablation, ...]
    seed: int

    @property
    def policies(self) -> tuple[Ablate, ...]:
        """One for each expert and ablation, experts outermost."""
        return tuple(
            Ablate(layer, expert, how, self.seed)
            for layer, expert in self.places
            for how in self.ablations
        )


class CausalSums:
    """Changes of loss, summed for each policy and document.

    Attributes:
        documents: Which documents.
        predicted: How many of their tokens are predicted.
        nll: The sum of these tokens' loss in the full model, in nats.
        counts: For each policy, how many predictions were made at an ablated token.
        own: For each policy, the change of the loss of these predictions, summed.
        text: For each policy, the change of the loss of all predictions, summed.
    """

    def __init__(self, documents: Int64[Tensor, " doc"], num_policies: int) -> None:
        size = (num_policies, len(documents))
        self.documents = documents
        self.predicted = torch.zeros(len(documents), dtype=torch.int64)
        self.nll = torch.zeros(len(documents), dtype=torch.float64)
        self.counts = torch.zeros(size, dtype=torch.int64)
        self.own = torch.zeros(size, dtype=torch.float64)
        self.text = torch.zeros(size, dtype=torch.float64)

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors that safetensors can hold."""
        return {name: value.clone() for name, value in vars(self).items()}

    @staticmethod
    def from_state(state: Mapping[str, Tensor]) -> CausalSums:
        """The sums that `state` came from."""
        found = CausalSums(state["documents"], len(state["counts"]))
        for name, value in state.items():
            setattr(found, name, value.clone())
        return found

    @staticmethod
    def joined(parts: Sequence[CausalSums]) -> CausalSums:
        """The sums of several parts of a text; documents may be in more than one."""
        documents = torch.cat([part.documents for part in parts]).unique()
        total = CausalSums(documents, len(parts[0].counts))
        for part in parts:
            at = torch.searchsorted(documents, part.documents)
            total.predicted.index_add_(0, at, part.predicted)
            total.nll.index_add_(0, at, part.nll)
            total.counts.index_add_(1, at, part.counts)
            total.own.index_add_(1, at, part.own)
            total.text.index_add_(1, at, part.text)
        return total


def choose_places(scores: pl.DataFrame, *, by: str, num: int, seed: int) -> tuple[Place, ...]:
    """A sample of experts over all layers and all heights of a score.

    Every layer gives as many (to one). In a layer, the experts that were chosen at least once are
    cut into as many quantiles of the score as it gives experts, and one is drawn of each.

    Args:
        scores: Columns layer, expert, num_tokens, and the score.
        by: The score's column.
        num: How many experts; all that were chosen at least once if there are fewer.
        seed: Of the draw.
    """
    rng = torch.Generator().manual_seed(seed)
    used = scores.filter(pl.col("num_tokens") > 0)
    layers = used["layer"].unique().sort().to_list()
    order = torch.randperm(len(layers), generator=rng).tolist()
    places: list[Place] = []
    for turn, at in enumerate(order):
        quota = num // len(layers) + (turn < num % len(layers))
        ranked = used.filter(pl.col("layer") == layers[at]).sort(by, "expert")["expert"].to_list()
        quota = min(quota, len(ranked))
        edges = [round(i * len(ranked) / quota) for i in range(quota + 1)] if quota else []
        for start, end in pairwise(edges):
            drawn = int(torch.randint(start, end, (1,), generator=rng))
            places.append(Place(layers[at], ranked[drawn]))
    return tuple(sorted(places))


def measure_causal(
    model: MoEModel,
    head: OutputHead,
    token_batches: Iterable[TokenBatch],
    plan: Plan,
    *,
    progress: Callable[[int], None],
) -> Iterator[CausalSums]:
    """The sums of each slab of batches: one batch, or all where layers are streamed from disk.

    Args:
        model: A loaded model.
        head: Its output head (`lens.unembed.find_head`).
        token_batches: The text.
        plan: What is ablated.
        progress: Told of tokens done; in all tokens x policies.
    """
    slabs = [list(token_batches)] if model.store is not None else ([b] for b in token_batches)
    for slab in slabs:
        yield _slab(model, head, slab, plan, progress)


def _slab(
    model: MoEModel,
    head: OutputHead,
    slab: list[TokenBatch],
    plan: Plan,
    progress: Callable[[int], None],
) -> CausalSums:
    documents = torch.cat([batch.document.reshape(-1) for batch in slab]).unique()
    policies = plan.policies
    sums = CausalSums(documents, len(policies))
    layers = frozenset(place.layer for place in plan.places)
    everything = [replace(batch, counted=batch.attention_mask) for batch in slab]
    at_once = _streams_at_once(model, slab)
    for first in range(0, len(policies), at_once):
        part = policies[first : first + at_once]
        chosen: dict[tuple[int, int], Int[Tensor, "tok slot"]] = {}

        def keep(event: LayerEvent, chosen: dict[tuple[int, int], Tensor] = chosen) -> None:
            if event.layer in layers:
                chosen[event.batch, event.layer] = event.routing.experts.cpu().clone()

        streams = [Stream(sink=keep), *(Stream(policy) for policy in part)]
        for number, swept in enumerate(sweep(model, everything, streams)):
            batch = slab[number]
            base = _Losses(head, batch, swept.hidden[0])
            if first == 0:
                base.count(sums)
            for index, policy in enumerate(part):
                at = _ablated(batch, chosen[number, policy.layer], policy.expert)
                base.add_change(sums, first + index, at, swept.hidden[1 + index])
                progress(batch.num_tokens)
    return sums


def _streams_at_once(model: MoEModel, slab: list[TokenBatch]) -> int:
    places = sum(batch.input_ids.numel() for batch in slab)
    width = int(model.hf.config.get_text_config().hidden_size)
    return max(1, min(_MOST_STREAMS, _HELD_NUMBERS // (places * width)))


def _ablated(
    batch: TokenBatch, chosen: Int[Tensor, "tok slot"], expert: int
) -> Bool[Tensor, "seq pos"]:
    """Where a token chose the expert."""
    at = torch.zeros(batch.input_ids.shape, dtype=torch.bool)
    at[batch.attention_mask] = (chosen == expert).any(dim=-1)
    return at


class _Losses:
    """The full model's loss of each prediction of a batch, and changes from it."""

    def __init__(
        self, head: OutputHead, batch: TokenBatch, hidden: Float[Tensor, "seq pos d_model"]
    ) -> None:
        self._head, self._batch, self._hidden = head, batch, hidden
        self._told = predicted(batch)
        self._nll = self._of(hidden, self._told)

    def count(self, sums: CausalSums) -> None:
        """Add the predictions and their loss."""
        owner = self._owner(sums, self._told)
        sums.predicted.index_add_(0, owner, torch.ones_like(owner))
        sums.nll.index_add_(0, owner, self._nll[self._told])

    def add_change(
        self,
        sums: CausalSums,
        policy: int,
        ablated: Bool[Tensor, "seq pos"],
        hidden: Float[Tensor, "seq pos d_model"],
    ) -> None:
        """Add what changed under a policy: at ablated tokens, and at all that follow them."""
        own = self._told & ablated[:, :-1]
        owner = self._owner(sums, own)
        sums.counts[policy].index_add_(0, owner, torch.ones_like(owner))
        if hidden is self._hidden:
            return
        # Attention looks back alone: nothing changes before the first ablated token of a row.
        later = self._told & (ablated[:, :-1].cumsum(dim=1) > 0)
        if not bool(later.any()):
            return
        change = self._of(hidden, later) - self._nll.masked_fill(~later, 0.0)
        sums.text[policy].index_add_(0, self._owner(sums, later), change[later])
        sums.own[policy].index_add_(0, owner, change[own])

    def _of(
        self, hidden: Float[Tensor, "seq pos d_model"], where: Bool[Tensor, "seq next"]
    ) -> Float64[Tensor, "seq next"]:
        found = torch.zeros(where.shape, dtype=torch.float64)
        if bool(where.any()):
            targets = self._batch.input_ids[:, 1:][where].to(hidden.device)
            states = hidden[:, :-1][where.to(hidden.device)]
            found[where] = next_token_nll(self._head, states, targets).cpu()
        return found

    def _owner(self, sums: CausalSums, where: Bool[Tensor, "seq next"]) -> Int64[Tensor, " tok"]:
        return torch.searchsorted(sums.documents, self._batch.document[:, 1:][where])
