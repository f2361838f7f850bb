"""Decoder layers one at a time: how the model's own code would call each, and what comes after.

The model's forward runs with its layers replaced by stubs that pass the residual stream on. So
everything around the layers (embedding, masks, positions, final norm) is the model's own code, for
every family, and no weight of a layer is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from moe_lens.corpus import TokenBatch
from moe_lens.models.model import LayerStack, MoEModel
from moe_lens.models.structure import stack_name


@dataclass(frozen=True, eq=False)
class LayerCall:
    """The arguments of one decoder layer for one batch.

    Attributes:
        args: By place.
        kwargs: By name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def hidden(self) -> Tensor:
        """The residual stream that enters."""
        hidden: Tensor = self.args[0] if self.args else self.kwargs["hidden_states"]
        return hidden

    def on(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Call the layer with another residual stream; gives what leaves it."""
        output: Tensor
        if self.args:
            output = layer(hidden, *self.args[1:], **self.kwargs)
        else:
            output = layer(**{**self.kwargs, "hidden_states": hidden})
        return output


class _Reached(Exception):  # noqa: N818 - no error: the way out of the model's forward
    def __init__(self, call: LayerCall) -> None:
        super().__init__()
        self.call = call


def decoder_layers(model: MoEModel) -> tuple[nn.Module, ...]:
    """Every decoder layer, dense ones included."""
    name = stack_name([layer.modules for layer in model.layers])
    return tuple(model.hf.get_submodule(name).children())


def layer_call(model: MoEModel, stack: LayerStack, batch: TokenBatch, index: int) -> LayerCall:
    """What the model's own code would call a decoder layer with, but for the residual stream."""

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise _Reached(LayerCall(args, kwargs))

    stubs: list[Callable[..., Any]] = [_pass_on] * index + [stop] * (len(stack.layers) - index)
    with _stubbed(stack.layers, stubs):
        try:
            last_hidden(model, batch)
        except _Reached as reached:
            return reached.call
    raise AssertionError(f"decoder layer {index} was not called")


def layer_calls(model: MoEModel, stack: LayerStack, batch: TokenBatch) -> list[LayerCall]:
    """As `layer_call`, for every layer at once: their arguments are held together."""
    calls: list[LayerCall] = []

    def note(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(LayerCall(args, kwargs))
        return calls[-1].hidden

    with _stubbed(stack.layers, [note] * len(stack.layers)):
        last_hidden(model, batch)
    return calls


@contextmanager
def _ending(stack: LayerStack, hidden: Tensor) -> Iterator[None]:
    """Within the block the model's forward goes on from what leaves the last layer."""

    def last(*args: Any, **kwargs: Any) -> Any:
        return hidden

    stubs: list[Callable[..., Any]] = [_pass_on] * (len(stack.layers) - 1) + [last]
    with _stubbed(stack.layers, stubs):
        yield


def after_layers(
    model: MoEModel, stack: LayerStack, batch: TokenBatch, hidden: Tensor
) -> Float[Tensor, "seq pos d_model"]:
    """The last hidden states, from the residual stream that leaves the last decoder layer."""
    with _ending(stack, hidden):
        return last_hidden(model, batch)


class Ends(NamedTuple):
    """What a model's own forward gives for a batch after its layers.

    Attributes:
        hidden: The last hidden states, after the final norm.
        logits: Its scores of every token of the vocabulary.
    """

    hidden: Float[Tensor, "seq pos d_model"]
    logits: Float[Tensor, "seq pos vocab"]


@torch.no_grad()
def ends_of(model: MoEModel, batch: TokenBatch) -> Ends:
    """What the model's own forward gives for the batch of the load-time proof.

    The layers of a model with a stack are not run again for it.
    """
    call = {
        "input_ids": batch.input_ids.to(model.device),
        "attention_mask": batch.attention_mask.to(model.device),
        "use_cache": False,
    }
    with nullcontext() if model.stack is None else _ending(model.stack, model.stack.probe):
        hidden = last_hidden(model, batch)
        return Ends(hidden, model.hf(**call).logits)


def needed_mask(batch: TokenBatch, device: torch.device) -> Bool[Tensor, "seq pos"] | None:
    """The attention mask that a causal model needs: none where padding comes last in every row.

    No token sees what comes after it, so such padding changes nothing (tested on every family),
    and attention without a mask skips the half that is never seen.
    """
    mask = batch.attention_mask
    last = bool((mask[:, :-1] | ~mask[:, 1:]).all())
    return None if last else mask.to(device)


@torch.no_grad()
def last_hidden(model: MoEModel, batch: TokenBatch) -> Float[Tensor, "seq pos d_model"]:
    """The model's own forward pass, up to the final norm."""
    output = model.hf.base_model(
        input_ids=batch.input_ids.to(model.device),
        attention_mask=needed_mask(batch, model.device),
        use_cache=False,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def _pass_on(*args: Any, **kwargs: Any) -> Tensor:
    return LayerCall(args, kwargs).hidden


@contextmanager
def _stubbed(layers: Sequence[nn.Module], stubs: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Within the block the layers' forwards are the stubs."""
    before = [layer.__dict__.get("forward") for layer in layers]
    for layer, stub in zip(layers, stubs, strict=True):
        layer.__dict__["forward"] = stub
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            if forward is None:
                del layer.__dict__["forward"]
            else:
                layer.__dict__["forward"] = forward
