"""`sweep`: many ways of routing the same text, run through a model side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from moe_lens.corpus import TokenBatch
from moe_lens.engine.boundary import Keeper
from moe_lens.engine.major import LayerMajor
from moe_lens.engine.session import Session
from moe_lens.engine.streams import Stream, Swept
from moe_lens.engine.watch import Sink
from moe_lens.errors import InputError
from moe_lens.models.model import MoEModel

__all__ = ["Sink", "Stream", "Swept", "sweep"]


def sweep(
    model: MoEModel,
    token_batches: Iterable[TokenBatch],
    streams: Sequence[Stream],
    *,
    keeper: Keeper | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Swept]:
    """Run batches through a model once for each stream.

    Events and hidden states of a stream are, bit for bit, those of a `Session` with its policy
    alone. When a batch is yielded, every sink has seen all of its events. What streams have in
    common is computed once, where the model's layers can be run one after another.

    Batches go through a resident model one at a time. Through one that is streamed they go
    together, layer by layer, and are yielded at the end: every weight is read once.

    Args:
        model: A loaded model.
        token_batches: The text.
        streams: Ways of routing it.
        keeper: Only for a model that is streamed: makes the sweep one that can be killed, and
            goes on, when called again with the same arguments, at the last layer that was done.
        progress: Told of tokens done; in all streams x tokens.

    Raises:
        InputError: There is no stream, or the residual streams fit neither memory nor disk.
        UnsupportedModel: The family does not have what a stream asks for.
    """
    if not streams:
        raise InputError("a sweep needs at least one stream")
    if keeper is not None and model.store is None:
        raise ValueError("a keeper is for models that are streamed: keep batches as they come")
    if model.store is not None:
        major = LayerMajor(model, list(token_batches), streams, keeper=keeper, progress=progress)
        yield from major.run()
        return
    for number, batch in enumerate(token_batches):
        if model.stack is not None:
            major = LayerMajor(model, [batch], streams, progress=progress, number=number)
            yield from major.run()
            continue
        yield Swept(batch, tuple(_alone(model, batch, stream, number) for stream in streams))
        if progress is not None:
            progress(batch.num_tokens * len(streams))


def _alone(
    model: MoEModel, batch: TokenBatch, stream: Stream, number: int
) -> Float[Tensor, "seq pos d_model"]:
    with Session(
        model,
        sink=stream.sink,
        fields=stream.fields,
        policy=stream.policy,
        probe=stream.probe,
    ) as session:
        return session.run(batch, number=number)
