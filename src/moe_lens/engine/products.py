"""The products of fused experts: one expert on its rows, or all of them in one call."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from moe_lens.engine.workers import Job, run_jobs
from moe_lens.engine.workspace import Workspace

MAX_ROWS = 256
"""Rows of a job: enough for the full rate of a product, few enough that jobs end together."""
_ROW_STEP = 8
"""Of the rows of a product, the last of an expert filled up with zeros: oneDNN compiles and keeps a
program of half a megabyte for every number of rows that it meets."""


class SortedRows(NamedTuple):
    """The chosen (token, slot) pairs, sorted by expert.

    Attributes:
        experts: Of each row, never falling.
        tokens: Of each row.
        places: Row of the flat output that each goes to.
    """

    experts: Int[Tensor, " row"]
    tokens: Int[Tensor, " row"]
    places: Int[Tensor, " row"]


def num_experts_of(module: nn.Module) -> int:
    """How many experts a fused module holds."""
    return module.get_parameter("down_proj").shape[0]


def output_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype of experts' outputs: the model's, or float32 where products are widened."""
    return torch.float32 if slow_dtype(hidden) else hidden.dtype


def fill(
    module: nn.Module,
    hidden: Float[Tensor, "tok d_model"],
    rows: SortedRows,
    out: Float[Tensor, "place d_model"],
) -> None:
    """Run each chosen expert once on its rows, and put its ungated outputs in their places."""
    if _has_grouped_mm(hidden):
        out.index_copy_(0, rows.places, grouped(module, hidden[rows.tokens], rows.experts))
        return
    counts = torch.bincount(rows.experts, minlength=num_experts_of(module)).tolist()
    jobs: list[Job] = []
    start = 0
    for expert, count in enumerate(counts):
        for size in _even_parts(count):
            span = slice(start, start + size)
            tokens, places = rows.tokens[span], rows.places[span]
            jobs.append(partial(_one_expert, module, expert, hidden, tokens, places, out))
            start += size
    run_jobs(jobs, flops=2.0 * start * _num_weights(module))


def _even_parts(count: int) -> list[int]:
    """A number of rows as few parts of at most `MAX_ROWS`, of one size; the last has the rest."""
    if count == 0:
        return []
    num_parts = -(-count // MAX_ROWS)
    size = _rounded_up(-(-count // num_parts))
    return [min(size, count - start) for start in range(0, count, size)]


def _rounded_up(rows: int) -> int:
    return -(-rows // _ROW_STEP) * _ROW_STEP


def _num_weights(module: nn.Module) -> int:
    """Weights of one expert."""
    total = sum(p.numel() for n, p in module.named_parameters() if n.endswith("proj"))
    return total // num_experts_of(module)


def _one_expert(
    module: Any,
    expert: int,
    hidden: Float[Tensor, "tok d_model"],
    tokens: Int[Tensor, " row"],
    places: Int[Tensor, " row"],
    out: Float[Tensor, "place d_model"],
    workspace: Workspace,
) -> None:
    """One expert on some of its rows, with the module's own activation and biases."""
    x = workspace.take("x", _rounded_up(len(tokens)), hidden.shape[1], like=hidden)
    torch.index_select(hidden, 0, tokens, out=x[: len(tokens)])
    x[len(tokens) :] = 0
    wide = slow_dtype(hidden)
    name = "gate_up_proj" if module.has_gate else "up_proj"
    up = _linear(module, name, expert, x, wide, workspace)
    inner = module._apply_gate(up) if module.has_gate else module.act_fn(up)
    output = _linear(module, "down_proj", expert, inner, wide, workspace)[: len(tokens)]
    if module.has_post_expert_norm:
        output = module.post_expert_norm(output)
    out.index_copy_(0, places, output.to(out.dtype))


def _linear(
    module: Any, name: str, expert: int, x: Tensor, wide: bool, workspace: Workspace
) -> Tensor:
    weight = getattr(module, name)[expert]
    bias = getattr(module, name + "_bias")[expert] if module.has_bias else None
    if module.is_transposed:
        weight = weight.T
    if wide:
        x, weight = x.float(), weight.float()
        bias = None if bias is None else bias.float()
    out = workspace.take(name, x.shape[0], weight.shape[0], like=x)
    if bias is None:
        return torch.mm(x, weight.T, out=out)
    return torch.addmm(bias, x, weight.T, out=out)


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


def grouped(
    module: Any, x: Float[Tensor, "row d_model"], ids: Int[Tensor, " row"]
) -> Float[Tensor, "row d_model"]:
    """All experts in one call per projection, over rows that are sorted by expert."""
    ends = torch.bincount(ids, minlength=num_experts_of(module)).cumsum(0).to(torch.int32)

    def project(name: str, rows: Tensor) -> Tensor:
        weight = getattr(module, name)
        weight = weight if module.is_transposed else weight.transpose(-2, -1)
        out = nn.functional.grouped_mm(rows.to(weight.dtype), weight, offs=ends)
        return out + getattr(module, name + "_bias")[ids] if module.has_bias else out

    up = project("gate_up_proj" if module.has_gate else "up_proj", x)
    hidden = module._apply_gate(up) if module.has_gate else module.act_fn(up)
    output = project("down_proj", hidden)
    return module.post_expert_norm(output) if module.has_post_expert_norm else output
