"""Our entry in transformers' experts registry: the same sums, with every slot's output kept.

The registry is global, so this is the one module that touches it, under one key. A model whose
experts modules have no tap computes as usual. Rows are sorted by expert and each expert that was
chosen runs once, on the rows that chose it; inactive slots are not computed at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

KEY = "moe_lens"

NUM_LEADING_STATES = 2
"""Rows of a token's states before the experts': resid_mid and shared."""


@dataclass(eq=False)
class ExpertsTap:
    """What one call of a layer's experts used and gave, for the engine to pick up.

    Attributes:
        active: Set by the engine before the call: slots to compute; None for all.
        experts: Ids the call received.
        weights: Weights the call received.
        states: [resid_mid, shared, E_1 .. E_k] for each token; the call fills the experts' rows,
            inactive slots with zeros, and leaves the first two for the engine.
    """

    workspace: Workspace
    active: Bool[Tensor, "tok slot"] | None = None
    experts: Int[Tensor, "tok slot"] | None = None
    weights: Float[Tensor, "tok slot"] | None = None
    states: Float[Tensor, "tok state d_model"] | None = None


@dataclass(eq=False)
class Workspace:
    """One buffer that the layers of a pass take turns in.

    Fresh tensors of this size are filled several times slower than reused ones: the kernel hands
    out their pages one fault at a time.
    """

    _buffer: Tensor | None = field(default=None, repr=False)

    def take(self, *shape: int, like: Tensor) -> Tensor:
        """An uninitialised float32 tensor of this shape on the device of `like`."""
        size = 1
        for length in shape:
            size *= length
        if (
            self._buffer is None
            or self._buffer.numel() < size
            or self._buffer.device != like.device
        ):
            self._buffer = torch.empty(size, dtype=torch.float32, device=like.device)
        return self._buffer[:size].view(*shape)


_TAPS: WeakKeyDictionary[nn.Module, ExpertsTap] = WeakKeyDictionary()


def attach(experts: nn.Module, tap: ExpertsTap) -> None:
    """From now on, calls of this experts module report to `tap`."""
    _TAPS[experts] = tap


def detach(experts: nn.Module) -> None:
    """Stop reporting."""
    _TAPS.pop(experts, None)


def experts_forward(
    self: nn.Module,
    hidden_states: Float[Tensor, "tok d_model"],
    top_k_index: Int[Tensor, "tok slot"],
    top_k_weights: Float[Tensor, "tok slot"],
) -> Float[Tensor, "tok d_model"]:
    """Weighted sum of the chosen experts' outputs, as transformers calls it."""
    tap = _TAPS.get(self)
    num_tokens, num_slots = top_k_index.shape
    shape = (num_tokens, NUM_LEADING_STATES + num_slots, hidden_states.shape[-1])
    workspace = Workspace() if tap is None else tap.workspace
    states = workspace.take(*shape, like=hidden_states)
    active = None if tap is None else tap.active
    if active is not None and bool(active.all()):
        active = None
    outputs = states[:, NUM_LEADING_STATES:]
    if active is not None:
        outputs.zero_()
    _fill(self, hidden_states, top_k_index, active, states)
    if tap is not None:
        tap.experts, tap.weights, tap.states = top_k_index, top_k_weights, states
    mixed = torch.bmm(top_k_weights.float().unsqueeze(1), outputs).squeeze(1)
    return mixed.to(hidden_states.dtype)


def _fill(
    module: nn.Module,
    hidden: Float[Tensor, "tok d_model"],
    experts: Int[Tensor, "tok slot"],
    active: Bool[Tensor, "tok slot"] | None,
    states: Float[Tensor, "tok state d_model"],
) -> None:
    """Run each chosen expert once on its rows and put the results in their slots."""
    num_slots = experts.shape[1]
    flat = experts.reshape(-1)
    if active is None:
        ids, order = flat.sort(stable=True)
    else:
        kept = active.reshape(-1).nonzero().squeeze(1)
        ids, within = flat[kept].sort(stable=True)
        order = kept[within]
    tokens = order.div(num_slots, rounding_mode="floor")
    rows = order + NUM_LEADING_STATES * (tokens + 1)
    flat_states = states.view(-1, states.shape[-1])
    if _has_grouped_mm(hidden):
        flat_states.index_copy_(0, rows, _grouped(module, hidden[tokens], ids).float())
        return
    start = 0
    for expert, count in enumerate(torch.bincount(ids, minlength=_num_experts(module)).tolist()):
        if count:
            span = slice(start, start + count)
            output = _one_expert(module, expert, hidden.index_select(0, tokens[span]))
            flat_states.index_copy_(0, rows[span], output.float())
            start += count


def _num_experts(module: nn.Module) -> int:
    return module.get_parameter("down_proj").shape[0]


def _one_expert(
    module: Any, expert: int, x: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row d_model"]:
    """One expert's ungated output, with the module's own activation and biases."""
    wide = slow_dtype(x)
    up = _linear(module, "gate_up_proj" if module.has_gate else "up_proj", expert, x, wide)
    hidden = module._apply_gate(up) if module.has_gate else module.act_fn(up)
    output: Tensor = _linear(module, "down_proj", expert, hidden, wide)
    return module.post_expert_norm(output) if module.has_post_expert_norm else output


def _linear(module: Any, name: str, expert: int, x: Tensor, wide: bool) -> Tensor:
    weight = getattr(module, name)[expert]
    bias = getattr(module, name + "_bias")[expert] if module.has_bias else None
    if module.is_transposed:
        weight = weight.T
    if wide:
        x, weight = x.float(), weight.float()
        bias = None if bias is None else bias.float()
    return nn.functional.linear(x, weight, bias)


def slow_dtype(x: Tensor) -> bool:
    """Whether this processor multiplies 16-bit matrices slower than it could in float32.

    Without bfloat16 instructions, oneDNN emulates them at about a seventh of the float32 rate;
    converting a chosen expert's weights as it runs is far cheaper, and more exact.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.bfloat16, torch.float16):
        return False
    return x.dtype is torch.float16 or not _has_bf16_instructions()


@lru_cache
def _has_bf16_instructions() -> bool:
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _has_grouped_mm(x: Tensor) -> bool:
    """CUDA's grouped kernel: bfloat16, compute capability 8.0 and later."""
    if x.device.type != "cuda" or x.dtype is not torch.bfloat16:
        return False
    modern = torch.cuda.get_device_capability(x.device) >= (8, 0)
    return modern and hasattr(nn.functional, "grouped_mm")


def _grouped(
    module: Any, x: Float[Tensor, "row d_model"], ids: Int[Tensor, " row"]
) -> Float[Tensor, "row d_model"]:
    """All experts in one call per projection, over rows that are sorted by expert."""
    num_experts = _num_experts(module)
    ends = torch.bincount(ids, minlength=num_experts).cumsum(0).to(torch.int32)

    def project(name: str, rows: Tensor) -> Tensor:
        weight = getattr(module, name)
        weight = weight if module.is_transposed else weight.transpose(-2, -1)
        out = nn.functional.grouped_mm(rows.to(weight.dtype), weight, offs=ends)
        return out + getattr(module, name + "_bias")[ids] if module.has_bias else out

    up = project("gate_up_proj" if module.has_gate else "up_proj", x)
    hidden = module._apply_gate(up) if module.has_gate else module.act_fn(up)
    output = project("down_proj", hidden)
    return module.post_expert_norm(output) if module.has_post_expert_norm else output


ALL_EXPERTS_FUNCTIONS.register(KEY, experts_forward)
