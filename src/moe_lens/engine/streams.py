"""`Stream`: one way of routing the text; several go through a model side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from moe_lens.corpus import TokenBatch
from moe_lens.engine.probe import Probe
from moe_lens.engine.watch import Sink
from moe_lens.event import Field, LayerEvent
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
        probe: One more expert for each token; see `Session`.
    """

    policy: Policy = field(default_factory=Identity)
    sink: Sink = ignore
    fields: frozenset[Field] = frozenset()
    probe: Probe | None = None


class Swept(NamedTuple):
    """A batch that went through every stream.

    Attributes:
        batch: The batch.
        hidden: For each stream, the last hidden states, after the final norm, padding included.
    """

    batch: TokenBatch
    hidden: tuple[Float[Tensor, "seq pos d_model"], ...]
