"""Every criterion in float64, one token and expert at a time, from stock weights.

Shares no code with the package: experts are run from the tensors of transformers' own modules, the
choice is read from the stock router, and an expert is pruned by cutting it out of a copied block.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(eq=False)
class Seen:
    """What one MoE block got and chose in a stock run, in float64."""

    block: nn.Module
    resid: Tensor
    x: Tensor
    experts: Tensor
    weights: Tensor
    logits: Tensor


@dataclass(eq=False)
class Brute:
    """Sums over tokens, a list entry for each expert."""

    num_experts: int
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, expert: int, amount: float) -> None:
        self.values.setdefault(name, [0.0] * self.num_experts)[expert] += amount

    def of(self, name: str) -> list[float]:
        return self.values.get(name, [0.0] * self.num_experts)


@torch.no_grad()
def expert_output(experts: Any, expert: int, x: Tensor) -> Tensor:
    """One expert on one token, by the formula of its family."""
    up, down = experts.gate_up_proj[expert].double(), experts.down_proj[expert].double()
    if experts.is_transposed:
        up, down = up.T, down.T
    h = up @ x
    if experts.has_bias:
        h = h + experts.gate_up_proj_bias[expert].double()
    if hasattr(experts, "alpha"):  # gpt-oss: interleaved, clamped, (up + 1) * glu
        gate, linear = h[::2], h[1::2]
        gate, linear = gate.clamp(max=experts.limit), linear.clamp(-experts.limit, experts.limit)
        h = (linear + 1) * gate * torch.sigmoid(experts.alpha * gate)
    else:
        gate, linear = h.chunk(2)
        h = gate * torch.sigmoid(gate) * linear
    out = down @ h
    return out + experts.down_proj_bias[expert].double() if experts.has_bias else out


@torch.no_grad()
def stock_blocks(hf: PreTrainedModel, ids: Tensor, norm: str) -> dict[int, Seen]:
    """What every MoE block of an untouched float64 copy got, for one text."""
    model = copy.deepcopy(hf).double()
    model.set_experts_implementation("eager")
    seen: dict[int, Seen] = {}
    hooks = []
    for index, layer in enumerate(model.base_model.layers):
        block = layer.mlp
        router = getattr(block, "gate", None) or getattr(block, "router", None)
        if router is None:
            continue
        parts: dict[str, Tensor] = {}

        def keep_resid(module: Any, args: Any, parts: Any = parts) -> None:
            parts["resid"] = args[0][0]

        def keep_router(module: Any, args: Any, output: Any, parts: Any = parts) -> None:
            parts["x"] = args[0].reshape(-1, args[0].shape[-1])
            parts["logits"], parts["weights"], parts["experts"] = output

        def finish(
            module: Any, args: Any, output: Any, parts: Any = parts, at: int = index
        ) -> None:
            seen[at] = Seen(
                model.base_model.layers[at].mlp, parts["resid"].double(), parts["x"].double(),
                parts["experts"], parts["weights"].double(), parts["logits"].double(),
            )  # fmt: skip

        hooks.append(getattr(layer, norm).register_forward_pre_hook(keep_resid))
        hooks.append(router.register_forward_hook(keep_router))
        hooks.append(block.register_forward_hook(finish))
    model(input_ids=ids.unsqueeze(0), use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def brute_force(seen: Seen, *, scale: float) -> Brute:
    """The sums of one layer; `scale` is what the block multiplies its routed experts by."""
    experts: Any = seen.block.experts
    num_experts = experts.down_proj.shape[0]
    found = Brute(num_experts)
    for t in range(len(seen.x)):
        x, resid = seen.x[t], seen.resid[t]
        mixed = torch.zeros_like(x)
        for expert, weight in zip(seen.experts[t].tolist(), seen.weights[t].tolist(), strict=True):
            mixed += weight * scale * expert_output(experts, expert, x)
        cosine = float(resid @ (resid + mixed) / (resid.norm() * (resid + mixed).norm()))
        for expert, raw in zip(seen.experts[t].tolist(), seen.weights[t].tolist(), strict=True):
            out, weight = expert_output(experts, expert, x), raw * scale
            norm = float(out.norm())
            found.add("num_tokens", expert, 1)
            found.add("gate", expert, weight)
            found.add("norm", expert, norm)
            found.add("square", expert, norm**2)
            found.add("gate_norm", expert, weight * norm)
            found.add("easy", expert, weight * norm * max(1 - cosine, 0.0))
            peak = float(out.abs().max())
            before = found.of("peak")[expert]
            found.add("peak", expert, max(peak - before, 0.0))
    return found


@torch.no_grad()
def pruned_routed_sums(seen: Seen, gone: int, *, scale: float) -> Tensor:
    """M_k of every token when one expert's row is cut from the router."""
    block = copy.deepcopy(seen.block)
    router: Any = getattr(block, "gate", None) or block.router
    kept = torch.tensor([e for e in range(seen.logits.shape[1]) if e != gone])
    for slots in (router._parameters, router._buffers):
        for name, tensor in slots.items():
            if tensor is not None and tensor.shape[0] == seen.logits.shape[1]:
                small = tensor.detach()[kept]
                slots[name] = nn.Parameter(small) if isinstance(tensor, nn.Parameter) else small
    for holder in (router, block):
        for name in ("num_experts", "n_routed_experts"):
            if getattr(holder, name, None) == seen.logits.shape[1]:
                setattr(holder, name, len(kept))
    _, weights, ids = router(seen.x)
    sums = torch.zeros_like(seen.x)
    for t in range(len(seen.x)):
        for expert, weight in zip(ids[t].tolist(), weights[t].double().tolist(), strict=True):
            out = expert_output(seen.block.experts, int(kept[expert]), seen.x[t])
            sums[t] += weight * scale * out
    return sums


def routed_sums(seen: Seen, *, scale: float) -> Tensor:
    """M_k of every token."""
    sums = torch.zeros_like(seen.x)
    for t in range(len(seen.x)):
        for expert, weight in zip(seen.experts[t].tolist(), seen.weights[t].tolist(), strict=True):
            sums[t] += weight * scale * expert_output(seen.block.experts, expert, seen.x[t])
    return sums
