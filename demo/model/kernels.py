"""Training kernels for a CPU: grouped experts and a fused head with its loss.

Both have a hand-written backward that keeps the working set in cache. On one Zen 3 core
the stock implementations train the demo's shapes at 0.45 (eager) and 0.84 (grouped_mm) of
this speed; results agree to float32 rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

IMPLEMENTATION = "demo_grouped"


def _per_group(a: Tensor, b: Tensor, counts: list[int], out: Tensor) -> Tensor:
    """Rows of `a`, in groups of `counts`, times that group's matrix of `b`."""
    start = 0
    for group, count in enumerate(counts):
        if count:
            torch.mm(a[start : start + count], b[group], out=out[start : start + count])
        start += count
    return out


def _weight_gradient(grad: Tensor, rows: Tensor, counts: list[int], like: Tensor) -> Tensor:
    """Gradient of each group's matrix in `rows @ matrix.T`."""
    out = torch.empty_like(like)
    start = 0
    for group, count in enumerate(counts):
        torch.mm(grad[start : start + count].t(), rows[start : start + count], out=out[group])
        start += count
    return out


class GroupedExperts(torch.autograd.Function):
    """Sum of the chosen SwiGLU experts' outputs, each times its weight."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
    ) -> Tensor:
        """Sort the slots by expert; one pair of GEMMs per expert on contiguous rows."""
        width = down.shape[2]
        flat = experts.reshape(-1)
        order = torch.argsort(flat, stable=True)
        tokens = torch.div(order, experts.shape[1], rounding_mode="floor")
        counts = torch.bincount(flat, minlength=len(down)).tolist()
        rows = x.index_select(0, tokens)
        slot_weights = weights.reshape(-1)[order]
        hidden = _per_group(rows, gate_up.mT, counts, rows.new_empty(len(rows), 2 * width))
        inner = functional.silu(hidden[:, :width]) * hidden[:, width:]
        out = _per_group(inner, down.mT, counts, torch.empty_like(rows))
        ctx.save_for_backward(rows, hidden, inner, out, slot_weights, order, tokens, gate_up, down)
        ctx.counts, ctx.shape = counts, weights.shape
        return torch.zeros_like(x).index_add_(0, tokens, out * slot_weights[:, None])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the input, the weights and both expert tensors."""
        rows, hidden, inner, out, slot_weights, order, tokens, gate_up, down = ctx.saved_tensors
        width, counts = down.shape[2], ctx.counts
        grad = grads[0].index_select(0, tokens)
        grad_weights = torch.empty_like(slot_weights)
        grad_weights[order] = torch.einsum("sd,sd->s", grad, out)
        grad.mul_(slot_weights[:, None])

        grad_down = _weight_gradient(grad, inner, counts, down)
        grad_inner = _per_group(grad, down, counts, torch.empty_like(inner))
        gate, up = hidden[:, :width], hidden[:, width:]
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        grad_hidden = torch.empty_like(hidden)
        torch.mul(grad_inner, silu, out=grad_hidden[:, width:])
        torch.mul(grad_inner * up, sigmoid + silu - silu * sigmoid, out=grad_hidden[:, :width])

        grad_gate_up = _weight_gradient(grad_hidden, rows, counts, gate_up)
        grad_rows = _per_group(grad_hidden, gate_up, counts, grad)
        grad_x = torch.zeros_like(grads[0]).index_add_(0, tokens, grad_rows)
        return grad_x, None, grad_weights.view(ctx.shape), grad_gate_up, grad_down


def _experts_forward(self: nn.Module, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    output: Tensor = GroupedExperts.apply(x, experts, weights, self.gate_up_proj, self.down_proj)
    return output


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _experts_forward)


class HeadLoss(torch.autograd.Function):
    """Mean cross-entropy (nats) of `hidden @ head.T`, its gradients taken chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        """Loss of all rows; keeps the gradients rather than the logits."""
        chunk = 512
        grad_hidden, grad_head = torch.empty_like(hidden), torch.zeros_like(head)
        total = hidden.new_zeros(())
        for start in range(0, len(hidden), chunk):
            x, y = hidden[start : start + chunk], targets[start : start + chunk, None]
            logits = x @ head.t()
            logits -= logits.amax(-1, keepdim=True)
            target_logits = logits.gather(1, y)
            sums = logits.exp_().sum(-1, keepdim=True)
            total += (sums.log() - target_logits).sum()
            logits /= sums
            logits.scatter_add_(1, y, logits.new_full(y.shape, -1.0))
            torch.mm(logits, head, out=grad_hidden[start : start + chunk])
            grad_head.addmm_(logits.t(), x)
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.num_rows = len(hidden)
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The kept gradients, scaled."""
        grad_hidden, grad_head = ctx.saved_tensors
        scale = grads[0] / ctx.num_rows
        return grad_hidden * scale, grad_head * scale, None
