"""`ExpertLoad`: how many experts work, for a token and for sequences that decode side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import polars as pl
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from moe_lens.corpus import TokenBatch
from moe_lens.event import LayerEvent
from moe_lens.stats.sums import LayerSums, count_at


@dataclass(frozen=True, eq=False)
class Steps:
    """The decoding steps of a batch.

    Attributes:
        of_token: The step of each counted token, in the order of events; -1 outside any.
        num_steps: How many steps there are.
    """

    of_token: Int64[Tensor, " tok"]
    num_steps: int


def decoding_steps(batch: TokenBatch, *, num_sequences: int) -> Steps:
    """Steps in which `num_sequences` sequences each give one token.

    Rows of the batch are taken in order, `num_sequences` at a time (a rest is left out), and each
    place where every one of them has a counted token is one step: what an engine would run at
    once if it decoded these sequences side by side.

    Source: terms.md#decoding-step
    """
    counted = batch.counted
    num_groups, width = len(counted) // num_sequences, counted.shape[1]
    used = num_groups * num_sequences
    whole = counted[:used].view(num_groups, num_sequences, width).all(dim=1)
    numbers = whole.flatten().cumsum(0).view(num_groups, width) - 1
    numbers = numbers.masked_fill(~whole, -1)
    step = torch.full(counted.shape, -1, dtype=torch.int64)
    step[:used] = numbers.repeat_interleave(num_sequences, dim=0)
    return Steps(step[counted], int(whole.sum()))


@dataclass(frozen=True)
class _Kind:
    num_streams: int
    num_domains: int


@final
class ExpertLoad:
    """Usage by stream and domain, and distinct experts of a decoding step by stream.

    A *stream* is one way of running the model, by number.

    Args:
        num_streams: How many.
        domain_of: The index of each document's domain.

    Source: terms.md#usage, terms.md#distinct-experts
    """

    def __init__(self, num_streams: int, domain_of: Int[Tensor, " document"]) -> None:
        self._domain_of = domain_of.cpu().long()
        self._kind = _Kind(num_streams, int(domain_of.max()) + 1)
        self._usage = LayerSums("usage")
        self._tokens = LayerSums("tokens")
        self._steps = LayerSums("steps")

    def update(self, stream: int, event: LayerEvent, steps: Steps) -> None:
        """Add one layer's work in one stream."""
        routing, device = event.routing, event.routing.experts.device
        domains = self._domain_of.to(device)[event.tokens.document.to(device)]
        first = stream * self._kind.num_domains
        shape: tuple[int, ...] = (self._kind.num_streams, self._kind.num_domains)
        tokens = self._tokens.zeros(event.layer, shape, dtype=torch.int64, device=device)
        count_at(tokens, first + domains, active=None)
        shape = (*shape, routing.num_experts)
        usage = self._usage.zeros(event.layer, shape, dtype=torch.int64, device=device)
        place = (first + domains).unsqueeze(1) * routing.num_experts + routing.experts
        count_at(usage, place, active=routing.active)
        shape = (self._kind.num_streams, 2)
        totals = self._steps.zeros(event.layer, shape, dtype=torch.int64, device=device)
        if steps.num_steps:
            totals[stream, 0] += steps.num_steps
            totals[stream, 1] += _num_distinct(event, steps)

    def merge(self, other: ExpertLoad) -> None:
        """Add another's counts."""
        self._usage.merge(other._usage)
        self._tokens.merge(other._tokens)
        self._steps.merge(other._steps)

    def state(self) -> dict[str, Tensor]:
        """Everything seen so far, as tensors that safetensors can hold."""
        return self._usage.state() | self._tokens.state() | self._steps.state()

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Add what another's `state` gave."""
        self._usage.merge(LayerSums.from_state("usage", state))
        self._tokens.merge(LayerSums.from_state("tokens", state))
        self._steps.merge(LayerSums.from_state("steps", state))

    def usage(self) -> pl.DataFrame:
        """One row for each stream, domain (by index), layer and expert of domains with tokens.

        Columns: stream, domain, layer, expert, num_tokens (that the expert worked on),
        num_domain_tokens.
        """
        names = ("stream", "domain", "layer", "expert", "num_tokens", "num_domain_tokens")
        schema = dict.fromkeys(names, pl.Int64)
        parts = [pl.DataFrame(schema=schema)]
        for layer, usage in self._usage.items():
            tokens = self._tokens.of(layer)
            stream, domain = (tokens > 0).nonzero().unbind(1)
            counts = usage.cpu()[stream, domain]
            num_experts = counts.shape[1]
            columns = (
                stream.repeat_interleave(num_experts),
                domain.repeat_interleave(num_experts),
                torch.full((counts.numel(),), layer),
                torch.arange(num_experts).repeat(len(stream)),
                counts.flatten(),
                tokens[stream, domain].repeat_interleave(num_experts),
            )
            parts.append(pl.DataFrame([column.numpy() for column in columns], schema=schema))
        return pl.concat(parts)

    def steps(self) -> pl.DataFrame:
        """One row for each stream and layer.

        Columns: stream, layer, num_steps, num_distinct (experts, summed over steps).
        """
        schema = dict.fromkeys(("stream", "layer", "num_steps", "num_distinct"), pl.Int64)
        parts = [pl.DataFrame(schema=schema)]
        for layer, totals in self._steps.items():
            rows = [(stream, layer, *pair) for stream, pair in enumerate(totals.tolist())]
            parts.append(pl.DataFrame(rows, schema=schema, orient="row"))
        return pl.concat(parts)


def _num_distinct(event: LayerEvent, steps: Steps) -> Int64[Tensor, ""]:
    """Pairs of a step and an expert that worked in it."""
    routing = event.routing
    step = steps.of_token.to(routing.experts.device).unsqueeze(1)
    working = routing.active & (step >= 0)
    used = torch.zeros(steps.num_steps * routing.num_experts, dtype=torch.bool, device=step.device)
    used[(step * routing.num_experts + routing.experts)[working]] = True
    return used.sum()
