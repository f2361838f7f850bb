"""Find out, by running a model once untouched, where its residual stream and its scales are.

Modules are told by the tensors they pass: the norm before a block is the child of the decoder
layer whose output is the very tensor that the block reads. What is found here is a candidate;
an equation on the probe batch decides (`residual_form`, `block_scales`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moe_lens.corpus import TokenBatch
from moe_lens.engine.layers import decoder_layers, last_hidden
from moe_lens.event import LayerEvent
from moe_lens.models.model import MoEModel
from moe_lens.models.structure import MoELayer


@dataclass(eq=False)
class Passed:
    """The first tensor into and out of the modules of one decoder layer during a run.

    `calls` holds all arguments, with which a module can be called again, `outputs` all it gave.
    """

    into: dict[nn.Module, Tensor] = field(default_factory=dict)
    out_of: dict[nn.Module, Tensor] = field(default_factory=dict)
    calls: dict[nn.Module, tuple[Any, Any]] = field(default_factory=dict)
    outputs: dict[nn.Module, Any] = field(default_factory=dict)


class StockRun(NamedTuple):
    """An untouched forward pass: its last hidden states, and what every decoder layer passed."""

    hidden: Float[Tensor, "seq pos d_model"]
    passed: list[Passed]


class ResidualForm(NamedTuple):
    """How a block's output joins the residual stream, as far as an equation proves it."""

    source: nn.Module | None
    scale: float | None
    post_norm: bool


class BlockScales(NamedTuple):
    """routed * sum of contributions + shared * shared output = block output."""

    routed: float
    shared: float
    error: float


def stock_run(
    model: MoEModel, batch: TokenBatch, *, visit: Callable[[int, Passed], None]
) -> StockRun:
    """Run the untouched model and note which tensors each decoder layer and its children pass on.

    Args:
        model: The model; the layers of one that is streamed are there while they run.
        batch: What to run.
        visit: Called with each layer's index and tensors right after it ran. What it makes the
            layer do is not noted.
    """
    layers = decoder_layers(model)
    passed = [Passed() for _ in layers]
    noting = _Switch()

    def enter(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            if noting.on and model.store is not None:
                model.store.load(index)

        return hook

    def leave(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not noting.on:
                return
            noting.on = False
            visit(index, passed[index])
            if model.store is not None:
                model.store.release(index)
            noting.on = True

        return hook

    with ExitStack() as stack:
        for index, (seen, layer) in enumerate(zip(passed, layers, strict=True)):
            stack.callback(layer.register_forward_pre_hook(enter(index)).remove)
            for module in (layer, *layer.children()):
                hook = module.register_forward_hook(_note(seen, noting), with_kwargs=True)
                stack.callback(hook.remove)
            stack.callback(layer.register_forward_hook(leave(index)).remove)
        hidden = last_hidden(model, batch)
    return StockRun(hidden, passed)


class _Switch:
    on = True


def _note(seen: Passed, noting: _Switch) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not noting.on:
            return
        seen.calls[module] = (args, kwargs)
        seen.outputs[module] = output
        into = _first(args) if args else _first(kwargs)
        out_of = _first(output)
        if isinstance(into, Tensor):
            seen.into[module] = into
        if isinstance(out_of, Tensor):
            seen.out_of[module] = out_of

    return hook


def _first(value: object) -> object:
    if isinstance(value, dict):
        return value.get("hidden_states")
    if isinstance(value, tuple):
        return value[0] if value else None
    return value


def residual_source(layer: MoELayer, passed: Passed) -> nn.Module | None:
    """The module whose input should be resid_mid: the norm before the block, or the block itself.

    A block that no child of the layer feeds reads the residual stream directly.
    """
    read = passed.into.get(layer.block)
    if read is None:
        return None
    for child in layer.layer.children():
        if child is not layer.block and _same(passed.out_of.get(child), read):
            return child
    return layer.block


def single_stream(layer: MoELayer, passed: Passed) -> bool:
    """Whether the decoder layer passes on one vector for each token, as its block does."""
    read, made = passed.into.get(layer.block), passed.out_of.get(layer.layer)
    return read is not None and made is not None and read.numel() == made.numel()


def residual_form(
    layer: MoELayer, passed: Passed, event: LayerEvent, tolerance: float
) -> ResidualForm:
    """The equation between resid_mid, block output and layer output that holds, if one does."""
    source = residual_source(layer, passed)
    if source is None or event.resid_mid is None or event.layer_output is None:
        return ResidualForm(None, None, False)
    assert event.block_output is not None
    update = event.layer_output.double() - event.resid_mid.double()
    block = event.block_output.double()
    scale = _snapped(float((update * block).sum() / (block * block).sum()))
    largest = float(event.layer_output.double().abs().max())
    if float((update - scale * block).abs().max()) <= tolerance * largest:
        return ResidualForm(source, scale, False)
    for child in layer.layer.children():
        made = passed.out_of.get(child)
        if child is layer.block or made is None:
            continue
        if not _same(passed.into.get(child), passed.out_of.get(layer.block)):
            continue
        normed = made.reshape(-1, made.shape[-1]).double()
        if float((update - normed).abs().max()) <= tolerance * largest:
            return ResidualForm(source, None, True)
    return ResidualForm(None, None, False)


def block_scales(event: LayerEvent) -> BlockScales:
    """The two factors with which a block adds its routed and shared parts, and how well they do."""
    assert event.outputs is not None
    assert event.shared is not None
    assert event.block_output is not None
    block = event.block_output.double()
    largest = max(float(block.abs().max()), 1e-30)
    if event.outputs.shape[-1] != block.shape[-1]:
        return BlockScales(1.0, 1.0, float("inf"))
    weights = event.routing.weights.double().unsqueeze(-1)
    routed = (weights * event.outputs.double()).sum(dim=1)
    shared = event.shared.double()
    parts = [routed, shared] if bool(shared.any()) else [routed]
    columns = torch.stack([p.reshape(-1) for p in parts], dim=1)
    solution = torch.linalg.lstsq(columns.T @ columns, columns.T @ block.reshape(-1)).solution
    factors = [_snapped(float(x)) for x in solution] + [1.0]
    total = sum(factor * part for factor, part in zip(factors, parts, strict=False))
    error = float((total - block).abs().max()) / largest
    return BlockScales(factors[0], factors[1], error)


def _same(left: Tensor | None, right: Tensor | None) -> bool:
    if left is None or right is None:
        return False
    return left.data_ptr() == right.data_ptr() and left.numel() == right.numel()


def _snapped(value: float) -> float:
    """A fitted factor, rounded to four digits where that is what it is within rounding error."""
    nearest = round(value, 4)
    return nearest if abs(value - nearest) <= 2e-5 * max(abs(value), 1.0) else value
