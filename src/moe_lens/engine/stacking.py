"""Can decoder layers be run one after another, over many batches? Proven on the stock run.

They can if each is called with what the model's own code gives it when the other layers are
stubs, receives the residual stream that the layer before it returned, and nothing else passes
between them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moe_lens.corpus import TokenBatch
from moe_lens.engine.discover import StockRun
from moe_lens.engine.layers import (
    LayerCall,
    after_layers,
    decoder_layers,
    layer_call,
)
from moe_lens.engine.memo import same_values
from moe_lens.models.model import LayerStack, MoEModel
from moe_lens.models.structure import stack_name


def find_stack(model: MoEModel, batch: TokenBatch, stock: StockRun) -> LayerStack | str:
    """The model's layers as a stack, or the reason why they are none."""
    layers = decoder_layers(model)
    outputs: list[Tensor] = []
    for index, (seen, layer) in enumerate(zip(stock.passed, layers, strict=True)):
        output = seen.outputs.get(layer)
        if not isinstance(output, Tensor):
            return f"layer {index} returns more than the residual stream"
        outputs.append(output)
    name = stack_name([layer.modules for layer in model.layers])
    stack = LayerStack(name, layers, probe=outputs[-1])
    calls = [
        LayerCall(*seen.calls[layer]) for seen, layer in zip(stock.passed, layers, strict=True)
    ]
    for index in range(1, len(calls)):
        if not torch.equal(calls[index].hidden, outputs[index - 1]):
            return f"layer {index} does not read what layer {index - 1} returned"
    for index, call in enumerate(calls):
        ours = layer_call(model, stack, batch, index)
        if index == 0 and not torch.equal(ours.hidden, call.hidden):
            return "what enters its first layer depends on the layers"
        different = _difference(_without_stream(ours), _without_stream(call))
        if different is not None:
            return f"layer {index} is called with {different}, which other layers made"
    ends = after_layers(model, stack, batch, outputs[-1])
    if not torch.equal(ends, stock.hidden):
        return "its last hidden states depend on more than the last layer's output"
    return stack


def _without_stream(call: LayerCall) -> dict[str, Any]:
    named = {f"argument {place}": value for place, value in enumerate(call.args) if place}
    return named | {k: v for k, v in call.kwargs.items() if call.args or k != "hidden_states"}


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs or not same_values(ours[name], theirs[name]):
            return name
    return None
