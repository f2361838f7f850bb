"""`sweep`: many ways of routing the same text, run through a model side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from moe_lens.corpus import TokenBatch
from moe_lens.engine.major import LayerMajor
from moe_lens.engine.session import Session
from moe_lens.engine.streams import Stream, Swept
from moe_lens.errors import InputError
from moe_lens.models.model import MoEModel

__all__ = ["Stream", "Swept", "sweep"]


def sweep(
    model: MoEModel, token_batches: Iterable[TokenBatch], streams: Sequence[Stream]
) -> Iterator[Swept]:
    """Run batches through a model once for each stream.

    Events and hidden states of a stream are, bit for bit, those of a `Session` with its policy
    alone. When a batch is yielded, every sink has seen all of its events.

    Raises:
        InputError: There is no stream.
        UnsupportedModel: The family does not have what a stream asks for.
    """
    if not streams:
        raise InputError("a sweep needs at least one stream")
    if model.stack is not None:
        for slab in _slabs(model, token_batches):
            yield from LayerMajor(model, slab, streams).run()
        return
    for batch in token_batches:
        yield Swept(batch, tuple(_alone(model, batch, stream) for stream in streams))


def _slabs(model: MoEModel, token_batches: Iterable[TokenBatch]) -> Iterator[list[TokenBatch]]:
    """Batches that go through the layers together: all of them where layers come from disk."""
    if model.store is not None:
        yield list(token_batches)
        return
    for batch in token_batches:
        yield [batch]


def _alone(model: MoEModel, batch: TokenBatch, stream: Stream) -> Float[Tensor, "seq pos d_model"]:
    with Session(
        model,
        sink=stream.sink,
        fields=stream.fields,
        policy=stream.policy,
        probe=stream.probe,
    ) as session:
        return session.run(batch)
