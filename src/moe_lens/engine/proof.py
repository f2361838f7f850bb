"""The load-time proof: what every number stands on, checked on one small batch.

What a model is (where its residual stream is, its scales, its choice rule) is found by running
it; what must hold for any observation to be right is checked, and a model that fails is refused
with the check, the layer and the size of the error.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe_lens.corpus import TokenBatch
from moe_lens.engine.discover import (
    Passed,
    block_scales,
    residual_form,
    residual_source,
    single_stream,
    stock_run,
)
from moe_lens.engine.layers import decoder_layers, last_hidden
from moe_lens.engine.memo import same_values
from moe_lens.engine.recorder import Recorder
from moe_lens.engine.rules import fit_rule
from moe_lens.engine.session import Session
from moe_lens.engine.stacking import find_stack
from moe_lens.errors import ProofFailed, UnsupportedModel
from moe_lens.event import Field, LayerEvent
from moe_lens.models.checkpoint import check_finite
from moe_lens.models.model import Check, LayerFacts, MoEModel, ObservedLayer

_SEQUENCES, _POSITIONS = 2, 32
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

IDENTITY = "identity: observed block = stock block"
COUNTS = "counts: tokens x k"
BLOCK_SUM = "block sum: contributions + shared = block output"
RESTORED = "restored: model unchanged after observation"


def prove(model: MoEModel) -> MoEModel:
    """The same model with every MoE layer's facts found out, and the checks that it passed.

    One pass of the untouched model, each layer proven right after it ran: of a model that is
    streamed, every weight is read once.

    Raises:
        CheckpointError: A weight of a layer that is streamed is missing or not finite.
        ProofFailed: A check failed; the message names it, the layer and the error.
        UnsupportedModel: A model that is streamed has layers that share more than the residual
            stream.
    """
    batch = probe_batch(model)
    before = {} if model.store is not None else _fingerprint(model.hf)
    layers = _LayerProofs(model, batch, _TOLERANCE[model.hf.dtype])
    stock = stock_run(model, batch, visit=layers.visit)
    _check_finite_states(model, stock.hidden)
    if model.store is None:
        _restored(model, batch, stock.hidden, before)
    layered = find_stack(model, batch, stock)
    if isinstance(layered, str) and model.store is not None:
        raise UnsupportedModel(
            f"{model.model_type}: cannot be streamed layer by layer, since {layered}; load it "
            f"whole (engine resident), which takes memory for all of its weights"
        )
    return replace(
        model,
        layers=tuple(layers.proven),
        checks=layers.checks,
        stack=None if isinstance(layered, str) else layered,
    )


class _LayerProofs:
    """Proves one MoE layer after the other as the untouched model passes through them."""

    def __init__(self, model: MoEModel, batch: TokenBatch, tolerance: float) -> None:
        self._model, self._batch, self._tolerance = model, batch, tolerance
        self._layers = {layer.modules.index: layer for layer in model.layers}
        self._worst = dict.fromkeys((IDENTITY, BLOCK_SUM), 0.0)
        self.proven: list[ObservedLayer] = []

    @property
    def checks(self) -> tuple[Check, ...]:
        """What held, with the largest error over the layers."""
        return (
            Check(IDENTITY, self._worst[IDENTITY], self._tolerance),
            Check(COUNTS, 0.0, 0.0),
            Check(BLOCK_SUM, self._worst[BLOCK_SUM], self._tolerance),
            Check(RESTORED, 0.0, 0.0),
        )

    @torch.no_grad()
    def visit(self, index: int, passed: Passed) -> None:
        """Prove a layer that just ran, from what it passed."""
        module = decoder_layers(self._model)[index]
        if self._model.store is not None:
            check_finite(module, self._model.source, prefix=f"layer {index}, ")
        _check_finite_states(self._model, passed.out_of[module])
        if index not in self._layers:
            return
        layer = self._layers[index]
        one = replace(self._model, store=None, layers=(layer,))
        before = _fingerprint(module)
        one = replace(one, layers=(_with_candidates(one, layer, passed),))
        identity = _identity(one, self._batch, passed, self._tolerance)
        recorder = Recorder(one.fields - {Field.GRAM})
        with Session(one, sink=recorder.update, fields=recorder.fields) as session:
            session.expect(self._batch)
            args, kwargs = passed.calls[module]
            module(*args, **kwargs)
        _counts(one, recorder.events)
        proven, error = _settled(one, passed, recorder.events[0], self._tolerance)
        _check_same_marks(before, _fingerprint(module))
        if self._model.store is not None:
            again = module(*args, **kwargs)
            if not same_values(again, passed.outputs[module]):
                raise ProofFailed(f"check {RESTORED!r} failed: layer {index}, run again, differs")
        self._worst[IDENTITY] = max(self._worst[IDENTITY], identity)
        self._worst[BLOCK_SUM] = max(self._worst[BLOCK_SUM], error)
        self.proven.append(proven)


def _check_finite_states(model: MoEModel, hidden: Tensor) -> None:
    if not bool(torch.isfinite(hidden).all()):
        raise ProofFailed(
            f"check 'finite': the model's hidden states are not finite on the probe batch "
            f"in {model.hf.dtype}; try another dtype"
        )


def probe_batch(model: MoEModel) -> TokenBatch:
    """Tokens drawn over the whole vocabulary, the same for every model of its size."""
    shape = (_SEQUENCES, min(_POSITIONS, model.context_length or _POSITIONS))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.vocab_size, shape, generator=generator)
    everything = torch.ones(shape, dtype=torch.bool)
    document = torch.arange(shape[0]).unsqueeze(1).expand(shape).contiguous()
    position = torch.arange(shape[1]).expand(shape).contiguous()
    return TokenBatch(
        input_ids=ids,
        attention_mask=everything,
        counted=everything,
        document=document,
        position=position,
    )


def _with_candidates(model: MoEModel, layer: ObservedLayer, passed: Passed) -> ObservedLayer:
    """The layer with the fields it may have, before an equation confirms them."""
    _check_width(model, layer, passed)
    source = residual_source(layer.modules, passed)
    fields = frozenset(Field)
    if source is None or not single_stream(layer.modules, passed):
        fields -= {Field.RESID_MID, Field.GRAM}
    if not single_stream(layer.modules, passed):
        fields -= {Field.LAYER_OUTPUT}
    return ObservedLayer(layer.modules, LayerFacts(fields=fields, residual_source=source))


def _check_width(model: MoEModel, layer: ObservedLayer, passed: Passed) -> None:
    modules = layer.modules
    down = modules.experts.get_parameter("down_proj")
    expert_width = down.shape[2 if modules.experts.is_transposed else 1]
    block_width = passed.out_of[modules.block].shape[-1]
    if expert_width != block_width:
        raise UnsupportedModel(
            f"{model.model_type}: layer {modules.index}'s experts compute in a space of width "
            f"{expert_width}, its block gives {block_width}; what an expert adds to the residual "
            f"stream cannot be told"
        )


def _identity(model: MoEModel, batch: TokenBatch, passed: Passed, tolerance: float) -> float:
    """The error of the block, called again on what it got in the stock run, in what it gives.

    Block by block, since in 16 bits a rounding error in one layer changes choices in the next.
    """
    (layer,) = model.layers
    block = layer.modules.block
    with Session(model, sink=lambda event: None, float32_routers=False) as session:
        session.expect(batch)
        args, kwargs = passed.calls[block]
        again = block(*args, **kwargs)
    ours = (again[0] if isinstance(again, tuple) else again).double()
    stock = passed.out_of[block].double()
    error = float((ours - stock).abs().max()) / max(float(stock.abs().max()), 1e-30)
    if not error <= tolerance:
        raise ProofFailed(
            f"check {IDENTITY!r} failed at layer {layer.modules.index}: relative error "
            f"{error:.2e}, allowed {tolerance:.0e}"
        )
    return error


def _counts(model: MoEModel, events: list[LayerEvent]) -> None:
    ran, known = {e.layer for e in events}, {x.modules.index for x in model.layers}
    if ran != known or len(events) != len(model.layers):
        raise ProofFailed(
            f"check {COUNTS!r} failed: layers {sorted(known - ran)} reported nothing when they ran"
        )
    for layer, event in zip(model.layers, events, strict=True):
        num_tokens, top_k = event.tokens.ids.numel(), layer.modules.top_k
        used = int(event.routing.active.sum())
        if used != num_tokens * top_k:
            raise ProofFailed(
                f"check {COUNTS!r} failed at layer {event.layer}: {used} slots, "
                f"expected {num_tokens} tokens x {top_k} = {num_tokens * top_k}"
            )
        try:
            event.routing.check()
        except ValueError as error:
            raise ProofFailed(f"check {COUNTS!r} failed at layer {event.layer}: {error}") from error


def _settled(
    model: MoEModel, passed: Passed, event: LayerEvent, tolerance: float
) -> tuple[ObservedLayer, float]:
    """The layer with the facts that an equation on the probe batch proves, and the sum's error."""
    (layer,) = model.layers
    scales = block_scales(event)
    if not scales.error <= tolerance:
        raise ProofFailed(
            f"check {BLOCK_SUM!r} failed at layer {event.layer}: relative error "
            f"{scales.error:.2e}, allowed {tolerance:.0e}; the block does more to its experts' "
            f"outputs than weigh and add them"
        )
    form = residual_form(layer.modules, passed, event, tolerance)
    fields = layer.facts.fields
    if form.source is None:
        fields -= {Field.RESID_MID, Field.GRAM}
    facts = LayerFacts(
        fields=fields,
        rule=fit_rule(layer.modules, event.routing),
        residual_source=form.source,
        residual_scale=form.scale,
        post_norm=form.post_norm,
        routed_scale=scales.routed,
        shared_scale=scales.shared,
    )
    return ObservedLayer(layer.modules, facts), scales.error


def _restored(model: MoEModel, batch: TokenBatch, stock: Tensor, before: dict[str, object]) -> None:
    _check_same_marks(before, _fingerprint(model.hf))
    again = last_hidden(model, batch)
    if not torch.equal(again, stock):
        error = float((again - stock).abs().max())
        raise ProofFailed(f"check {RESTORED!r} failed: a second stock run differs by {error:.2e}")


def _check_same_marks(before: dict[str, object], after: dict[str, object]) -> None:
    changed = sorted(
        key for key in before.keys() | after.keys() if after.get(key) != before.get(key)
    )
    if changed:
        raise ProofFailed(f"check {RESTORED!r} failed: {', '.join(changed)} differ afterwards")


def _fingerprint(hf: nn.Module) -> dict[str, object]:
    """Where every tensor lies, its version, and every hook: what observation must not change."""
    marks: dict[str, object] = {}
    if isinstance(hf, PreTrainedModel):
        marks["experts implementation"] = hf.config._experts_implementation
    for name, tensor in (*hf.named_parameters(), *hf.named_buffers()):
        marks[name] = (id(tensor), tensor.data_ptr(), tensor.dtype, tensor._version)
    for name, module in hf.named_modules():
        marks[f"hooks of {name}"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
    return marks
