"""`sweep`: many ways of routing the same text, run through a model side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from moe_lens.corpus import TokenBatch
from moe_lens.engine.session import Session
from moe_lens.engine.watch import Sink
from moe_lens.errors import InputError
from moe_lens.event import Field, LayerEvent
from moe_lens.models.model import MoEModel
from moe_lens.policies import Identity, Policy


def ignore(event: LayerEvent) -> None:
    """The sink of a stream whose events nobody wants."""


@dataclass(frozen=True)
class Stream:
    """One way of routing the text: a residual stream of its own.

    Attributes:
        policy: Replaces each router's decision.
        sink: Called with every MoE layer's event. Events of one batch come in layer order; those
            of several batches may interleave. Tensors are views of buffers that are reused.
        fields: What events carry beyond the routing.
        probe_seed: Of the random control; see `Session`.
    """

    policy: Policy = Identity()  # noqa: RUF009 - a frozen value
    sink: Sink = ignore
    fields: frozenset[Field] = frozenset()
    probe_seed: int | None = None


class Swept(NamedTuple):
    """A batch that went through every stream.

    Attributes:
        batch: The batch.
        hidden: For each stream, the last hidden states, after the final norm, padding included.
    """

    batch: TokenBatch
    hidden: tuple[Float[Tensor, "seq pos d_model"], ...]


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
    for batch in token_batches:
        yield Swept(batch, tuple(_alone(model, batch, stream) for stream in streams))


def _alone(model: MoEModel, batch: TokenBatch, stream: Stream) -> Float[Tensor, "seq pos d_model"]:
    with Session(
        model,
        sink=stream.sink,
        fields=stream.fields,
        policy=stream.policy,
        probe_seed=stream.probe_seed,
    ) as session:
        return session.run(batch)
