"""The load-time proof: what every number stands on, checked on one small batch.

What a model is (where its residual stream is, its scales, its choice rule) is found by running
it; what must hold for any observation to be right is checked, and a model that fails is refused
with the check, the layer and the size of the error.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from moe_lens.corpus import TokenBatch
from moe_lens.engine.discover import (
    Passed,
    StockRun,
    block_scales,
    last_hidden,
    residual_form,
    residual_source,
    single_stream,
    stock_run,
)
from moe_lens.engine.recorder import Recorder
from moe_lens.engine.rules import fit_rule
from moe_lens.engine.session import Session
from moe_lens.errors import ProofFailed, UnsupportedModel
from moe_lens.event import Field, LayerEvent
from moe_lens.models.model import Check, LayerFacts, MoEModel, ObservedLayer

_SEQUENCES, _POSITIONS = 2, 32
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

IDENTITY = "identity: observed block = stock block"
COUNTS = "counts: tokens x k"
BLOCK_SUM = "block sum: contributions + shared = block output"
RESTORED = "restored: model unchanged after observation"


def prove(model: MoEModel) -> MoEModel:
    """The same model with every MoE layer's facts found out, and the checks that it passed.

    Raises:
        ProofFailed: A check failed; the message names it, the layer and the error.
    """
    batch = probe_batch(model)
    tolerance = _TOLERANCE[model.hf.dtype]
    before = _fingerprint(model.hf)
    stock = stock_run(model, batch)
    if not bool(torch.isfinite(stock.hidden).all()):
        raise ProofFailed(
            f"check 'finite': the model's last hidden states are not finite on the probe batch "
            f"in {model.hf.dtype}; try another dtype"
        )
    candidate = _with_candidates(model, stock)
    identity = _identity(candidate, batch, stock.passed, tolerance)
    recorder = Recorder(candidate.fields - {Field.GRAM})
    with Session(candidate, sink=recorder.update, fields=recorder.fields) as session:
        session.run(batch)
    counts = _counts(model, recorder.events)
    proven, block_sum = _settled(candidate, stock.passed, recorder.events, tolerance)
    restored = _restored(model, batch, stock.hidden, before)
    return replace(proven, checks=(identity, counts, block_sum, restored))


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


def _with_candidates(model: MoEModel, stock: StockRun) -> MoEModel:
    """Every layer with the fields it may have, before an equation confirms them."""
    layers = []
    for layer, passed in zip(model.layers, stock.passed, strict=True):
        _check_width(model, layer, passed)
        source = residual_source(layer.modules, passed)
        fields = frozenset(Field)
        if source is None or not single_stream(layer.modules, passed):
            fields -= {Field.RESID_MID, Field.GRAM}
        if not single_stream(layer.modules, passed):
            fields -= {Field.LAYER_OUTPUT}
        facts = LayerFacts(fields=fields, residual_source=source)
        layers.append(ObservedLayer(layer.modules, facts))
    return replace(model, layers=tuple(layers))


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


@torch.no_grad()
def _identity(model: MoEModel, batch: TokenBatch, passed: list[Passed], tolerance: float) -> Check:
    """Every block, called again on what it got in the stock run, gives what it gave there.

    Block by block, since in 16 bits a rounding error in one layer changes choices in the next.
    """
    worst = 0.0
    with Session(model, sink=lambda event: None, float32_routers=False) as session:
        session.expect(batch)
        for layer, seen in zip(model.layers, passed, strict=True):
            block = layer.modules.block
            args, kwargs = seen.calls[block]
            again = block(*args, **kwargs)
            ours = (again[0] if isinstance(again, tuple) else again).double()
            stock = seen.out_of[block].double()
            error = float((ours - stock).abs().max()) / max(float(stock.abs().max()), 1e-30)
            if not error <= tolerance:
                raise ProofFailed(
                    f"check {IDENTITY!r} failed at layer {layer.modules.index}: relative error "
                    f"{error:.2e}, allowed {tolerance:.0e}"
                )
            worst = max(worst, error)
    return Check(IDENTITY, worst, tolerance)


def _counts(model: MoEModel, events: list[LayerEvent]) -> Check:
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
    return Check(COUNTS, 0.0, 0.0)


def _settled(
    model: MoEModel, passed: list[Passed], events: list[LayerEvent], tolerance: float
) -> tuple[MoEModel, Check]:
    """Every layer with the facts that an equation on the probe batch proves."""
    layers, worst = [], 0.0
    for layer, seen, event in zip(model.layers, passed, events, strict=True):
        scales = block_scales(event)
        if not scales.error <= tolerance:
            raise ProofFailed(
                f"check {BLOCK_SUM!r} failed at layer {event.layer}: relative error "
                f"{scales.error:.2e}, allowed {tolerance:.0e}; the block does more to its experts' "
                f"outputs than weigh and add them"
            )
        worst = max(worst, scales.error)
        form = residual_form(layer.modules, seen, event, tolerance)
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
        layers.append(ObservedLayer(layer.modules, facts))
    return replace(model, layers=tuple(layers)), Check(BLOCK_SUM, worst, tolerance)


def _restored(
    model: MoEModel, batch: TokenBatch, stock: Tensor, before: dict[str, object]
) -> Check:
    after = _fingerprint(model.hf)
    changed = sorted(
        key for key in before.keys() | after.keys() if after.get(key) != before.get(key)
    )
    if changed:
        raise ProofFailed(f"check {RESTORED!r} failed: {', '.join(changed)} differ afterwards")
    again = last_hidden(model, batch)
    if not torch.equal(again, stock):
        error = float((again - stock).abs().max())
        raise ProofFailed(f"check {RESTORED!r} failed: a second stock run differs by {error:.2e}")
    return Check(RESTORED, 0.0, 0.0)


def _fingerprint(hf: PreTrainedModel) -> dict[str, object]:
    """Where every tensor lies, its version, and every hook: what observation must not change."""
    marks: dict[str, object] = {"experts implementation": hf.config._experts_implementation}
    for name, tensor in (*hf.named_parameters(), *hf.named_buffers()):
        marks[name] = (id(tensor), tensor.data_ptr(), tensor.dtype, tensor._version)
    for name, module in hf.named_modules():
        marks[f"hooks of {name}"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
    return marks
