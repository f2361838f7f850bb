"""`LayerEvent`: what one MoE layer did with a batch, handed to accumulators.

An event holds the counted tokens only: padding and (by default) BOS never reach a statistic.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from moe_lens.routing import Routing


class Field(enum.Enum):
    """What an accumulator may ask of a layer, beyond the routing that every event carries."""

    SCORES = "scores"
    GRAM = "gram"
    OUTPUTS = "outputs"
    SHARED = "shared"
    RESID_MID = "resid_mid"
    BLOCK_OUTPUT = "block_output"
    LAYER_OUTPUT = "layer_output"


@dataclass(frozen=True, eq=False)
class Tokens:
    """Where the rows of an event come from.

    Attributes:
        ids: Vocabulary id of each token.
        document: Index of the token's document in the corpus.
        position: Place of the token in its document, in tokens, BOS counted when there is one.
    """

    ids: Int[Tensor, " tok"]
    document: Int[Tensor, " tok"]
    position: Int[Tensor, " tok"]


@dataclass(frozen=True, eq=False)
class LayerEvent:
    """One MoE layer's work on the counted tokens of a batch.

    Everything past `routing` is None unless an accumulator asked for it. A sink's tensors are
    views of buffers that the next layer reuses; all but the Gram may have the 16 bits of the
    model: widen what is summed.

    Attributes:
        layer: Index in the model, dense layers included.
        tokens: Where each row comes from.
        routing: What the router decided, after the policy; `routing.scores` only on request.
        gram: Inner products of V = [resid_mid, shared, E_1 .. E_k], float32: ungated outputs,
            slots in rank order; with a probe, its expert's output is one more state, the last.
            Source: terms.md#gram
        outputs: Each slot's expert output before its weight; rows of inactive slots are 0.
        shared: Output of the shared experts, their gate included; zeros where there are none.
        resid_mid: The residual stream after attention, the input of the norm before the block.
        block_output: What the MoE block returned: routed and shared together.
        layer_output: The residual stream after the layer.
        batch: Number of the batch in its sweep.
    """

    layer: int
    tokens: Tokens
    routing: Routing
    gram: Float[Tensor, "tok state state"] | None = None
    outputs: Float[Tensor, "tok slot d_model"] | None = None
    shared: Float[Tensor, "tok d_model"] | None = None
    resid_mid: Float[Tensor, "tok d_model"] | None = None
    block_output: Float[Tensor, "tok d_model"] | None = None
    layer_output: Float[Tensor, "tok d_model"] | None = None
    batch: int = 0


def fields_of(needs: Iterable[frozenset[Field]]) -> frozenset[Field]:
    """The union of what several accumulators ask for."""
    return frozenset().union(*needs)
