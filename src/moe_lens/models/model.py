"""`MoEModel`: a loaded model, where its experts are, and what was proven of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moe_lens.choice import ChoiceRule
from moe_lens.event import Field
from moe_lens.models.store import LayerStore
from moe_lens.models.structure import MoELayer


@dataclass(frozen=True, eq=False)
class LayerFacts:
    """What the load-time proof found out about one MoE layer, by running it.

    Attributes:
        fields: What its events can carry beyond the routing.
        rule: The choice rule that reproduces the router's ids and weights; None if none does.
        residual_source: The module whose input is resid_mid; None where that is not proven.
        residual_scale: s in layer_output = resid_mid + s * block_output; None where the layer is
            no such sum, and then the states resid_mid + M_j do not exist.
        post_norm: Whether instead layer_output = resid_mid + norm(block_output).
        routed_scale: What the block multiplies the routed sum by; part of an event's weights.
        shared_scale: What the block multiplies the shared experts' output by; part of `shared`.
    """

    fields: frozenset[Field] = frozenset(Field)
    rule: ChoiceRule | None = None
    residual_source: nn.Module | None = None
    residual_scale: float | None = None
    post_norm: bool = False
    routed_scale: float = 1.0
    shared_scale: float = 1.0


@dataclass(frozen=True, eq=False)
class ObservedLayer:
    """A layer's modules and its proven facts."""

    modules: MoELayer
    facts: LayerFacts


@dataclass(frozen=True, eq=False)
class LayerStack:
    """The decoder layers, proven to need nothing of each other but the residual stream.

    Attributes:
        name: Path of the list that holds them.
        layers: The layers, dense ones included.
        probe: The residual stream that leaves the last layer for the batch of the load-time proof.
    """

    name: str
    layers: tuple[nn.Module, ...]
    probe: Tensor


@dataclass(frozen=True)
class Check:
    """One law of the load-time proof: the largest error seen, relative to the largest value."""

    name: str
    error: float
    tolerance: float


@dataclass(frozen=True, eq=False)
class MoEModel:
    """A loaded model; `checks` is empty until it passed the load-time proof.

    Attributes:
        hf: The transformers model, untouched outside a session.
        tokenizer: Its tokenizer, or None for a model that came without one.
        layers: Its MoE layers in order.
        source: The path or hub id it came from.
        checks: What the load-time proof checked.
        stack: Its decoder layers, if they can be run one after another over many batches; None
            where layers share more than the residual stream.
        store: Where decoder layers come from when they are needed, in a model that is streamed;
            None for a model that is resident, all of its weights in memory.
    """

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    layers: tuple[ObservedLayer, ...]
    source: str
    checks: tuple[Check, ...] = ()
    stack: LayerStack | None = None
    store: LayerStore | None = None

    @property
    def model_type(self) -> str:
        """The family's name in its config."""
        return str(self.hf.config.model_type)

    @property
    def device(self) -> torch.device:
        """Where the model's inputs must be."""
        return torch.device(self.hf.device)

    @property
    def fields(self) -> frozenset[Field]:
        """What the events of every layer can carry."""
        return frozenset(Field).intersection(*(layer.facts.fields for layer in self.layers))

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return int(self.hf.get_input_embeddings().weight.shape[0])

    @property
    def context_length(self) -> int | None:
        """The longest text that the positions were made for, in tokens; None if unbounded."""
        value = getattr(self.hf.config.get_text_config(), "max_position_embeddings", None)
        return None if value is None else int(value)
