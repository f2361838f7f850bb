"""Routing events for tests, by hand and at random, and their plain-Python reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from moe_lens.event import LayerEvent, Tokens
from moe_lens.routing import Routing


@dataclass(frozen=True)
class Choice:
    """One token at one layer, in plain Python: active (expert, weight) by falling weight."""

    layer: int
    document: int
    position: int
    token_id: int
    pairs: tuple[tuple[int, float], ...]


def tokens(ids: Sequence[int], document: Sequence[int] | None = None, first: int = 0) -> Tokens:
    size = len(ids)
    return Tokens(
        ids=torch.tensor(ids, dtype=torch.int64),
        document=torch.tensor([0] * size if document is None else document, dtype=torch.int64),
        position=torch.arange(first, first + size),
    )


def event(
    experts: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float]] | None = None,
    *,
    num_experts: int = 4,
    layer: int = 1,
    active: Sequence[Sequence[bool]] | None = None,
    rows: Tokens | None = None,
) -> LayerEvent:
    chosen = torch.tensor(experts, dtype=torch.int64)
    falling = torch.arange(chosen.shape[1], 0, -1).float() / 10
    mass = falling.expand_as(chosen) if weights is None else torch.tensor(weights)
    routing = Routing.from_choice(chosen, mass.clone(), num_experts=num_experts)
    if active is not None:
        routing = routing.with_slots(active=torch.tensor(active))
    routing.check()
    return LayerEvent(
        layer=layer, tokens=tokens(range(len(experts))) if rows is None else rows, routing=routing
    )


@dataclass(frozen=True)
class Shape:
    num_experts: int = 7
    top_k: int = 3
    layers: tuple[int, ...] = (1, 2, 4)
    vocabulary: int = 9
    documents: int = 3


def random_batch(
    seed: int, num_tokens: int, shape: Shape = Shape(), start: int = 0
) -> list[LayerEvent]:
    """A batch at every layer; some slots, and some whole tokens, are inactive."""
    rng = torch.Generator().manual_seed(seed)
    rows = Tokens(
        ids=torch.randint(shape.vocabulary, (num_tokens,), generator=rng),
        document=torch.randint(shape.documents, (num_tokens,), generator=rng),
        position=torch.arange(start, start + num_tokens),
    )
    events = []
    for layer in shape.layers:
        scores = torch.rand(num_tokens, shape.num_experts, generator=rng)
        weights, experts = scores.topk(shape.top_k, sorted=False)
        routing = Routing.from_choice(experts, weights, num_experts=shape.num_experts)
        kept = torch.rand(num_tokens, 1, generator=rng) * (shape.top_k + 2)
        routing = routing.with_slots(active=torch.arange(shape.top_k) < kept.floor())
        events.append(LayerEvent(layer=layer, tokens=rows, routing=routing))
    return events


def split(events: list[LayerEvent], cut: int) -> tuple[list[LayerEvent], list[LayerEvent]]:
    """The batch's first tokens and the others."""
    return [_rows(e, slice(None, cut)) for e in events], [
        _rows(e, slice(cut, None)) for e in events
    ]


def _rows(event: LayerEvent, rows: slice) -> LayerEvent:
    index = torch.arange(event.routing.num_tokens)[rows]
    kept = Tokens(
        ids=event.tokens.ids[rows],
        document=event.tokens.document[rows],
        position=event.tokens.position[rows],
    )
    return LayerEvent(layer=event.layer, tokens=kept, routing=event.routing.select(index))


def choices(events: Sequence[LayerEvent]) -> Iterator[Choice]:
    """The events one token at a time, read off with `tolist` and nothing of ours."""
    for e in events:
        columns = (
            e.tokens.document.tolist(),
            e.tokens.position.tolist(),
            e.tokens.ids.tolist(),
            e.routing.experts.tolist(),
            e.routing.weights.tolist(),
            e.routing.active.tolist(),
        )
        for document, position, token_id, experts, weights, active in zip(*columns, strict=True):
            pairs = tuple((x, w) for x, w, on in zip(experts, weights, active, strict=True) if on)
            yield Choice(e.layer, document, position, token_id, pairs)


batches = st.lists(
    st.tuples(st.integers(0, 2**16), st.integers(0, 12)), min_size=1, max_size=3
).map(lambda sizes: [random_batch(s, n, start=100 * i) for i, (s, n) in enumerate(sizes)])
"""Up to three batches of up to 12 tokens each."""


def without_weights(e: LayerEvent) -> LayerEvent:
    routing = Routing(
        scores=None,
        weights=torch.zeros_like(e.routing.weights),
        experts=e.routing.experts,
        active=torch.ones_like(e.routing.active),
        num_experts=e.routing.num_experts,
    )
    return LayerEvent(layer=e.layer, tokens=e.tokens, routing=routing)
