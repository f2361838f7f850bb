"""Norms and plain MLPs some rows at a time: the same numbers, from scratch that stays in cache.

What lies between the products of shared experts or a dense MLP, and within a norm, is as large as
the batch: tens of megabytes that are filled once, fresh from the kernel. Both treat every token
alone, so they may as well take some hundred tokens at a time, each part a job. What runs is the
module's own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, pairwise
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2CLS

from moe_lens.engine.workers import run_jobs
from moe_lens.engine.workspace import Workspace

_ROWS = 256
"""Of a part at least: enough for the full rate of a product."""
_NUMBERS = 2**19
"""Of a part's input, where rows are short."""
_FLOPS_PER_NUMBER = 32.0
"""What a norm's passes over its input cost, told as work that `run_jobs` can weigh."""
_NORMS = ("RMSNorm", "LayerNorm")
_ACTIVATIONS = frozenset(c[0] if isinstance(c, tuple) else c for c in ACT2CLS.values())


@contextmanager
def by_rows(root: nn.Module) -> Iterator[None]:
    """Within the block the norms and plain MLPs in `root` take long inputs in parts.

    Modules that somebody changed or hooked inside keep their own way.
    """
    modules = [module for module in root.modules() if _is_row_wise(module)]
    for module in modules:
        weights = sum(p.numel() for p in module.parameters())
        module.__dict__["forward"] = partial(_in_parts, module.forward, 2.0 * weights)
    try:
        yield
    finally:
        for module in modules:
            del module.__dict__["forward"]


def _is_row_wise(module: nn.Module) -> bool:
    """Whether what the module does to a row depends on that row alone, and may run in threads."""
    children = list(module.children())
    if any("forward" in m.__dict__ for m in (module, *children)):
        return False  # offloading moves a module's weights around its forward
    if not children:
        shape = getattr(module, "normalized_shape", (0,))
        return type(module).__name__.endswith(_NORMS) and len(shape) == 1
    if any(chain.from_iterable((m._forward_hooks, m._forward_pre_hooks) for m in children)):
        return False
    linear = [type(child) is nn.Linear for child in children]
    activations = [type(child) in _ACTIVATIONS for child in children]
    return any(linear) and any(activations) and sum(linear) + sum(activations) == len(children)


def _in_parts(whole: Callable[..., Any], flops_per_row: float, *args: Any, **kwargs: Any) -> Any:
    """What the module's forward gives, one part of the rows after the other or side by side."""
    if len(args) != 1 or kwargs or not _divisible(args[0]):
        return whole(*args, **kwargs)
    x: Float[Tensor, "... row d_model"] = args[0]
    *lead, width = x.shape
    rows = x.view(-1, width)
    num_parts = -(-len(rows) // max(_ROWS, _NUMBERS // width))
    if num_parts == 1:
        return whole(x)

    gathered = _Gathered(len(rows))

    def part(start: int, stop: int, workspace: Workspace) -> None:
        found: Tensor = whole(rows[start:stop].view(*[1] * (len(lead) - 1), stop - start, width))
        gathered.put(start, found.flatten(0, -2))

    bounds = [len(rows) * i // num_parts for i in range(num_parts + 1)]
    work = len(rows) * (flops_per_row + _FLOPS_PER_NUMBER * width)
    run_jobs([partial(part, start, stop) for start, stop in pairwise(bounds)], flops=work)
    return gathered.whole().view(*lead, -1)


class _Gathered:
    """The parts of an output whose width and dtype the first part tells."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows, self._lock = num_rows, Lock()
        self._out: Tensor | None = None

    def put(self, start: int, part: Float[Tensor, "row d_out"]) -> None:
        with self._lock:
            if self._out is None:
                self._out = part.new_empty(self._num_rows, part.shape[1])
        self._out[start : start + len(part)] = part

    def whole(self) -> Float[Tensor, "row d_out"]:
        assert self._out is not None
        return self._out


def _divisible(x: Any) -> bool:
    """Whether this is a matrix of rows, on the CPU, that nobody wants gradients through."""
    if not isinstance(x, Tensor) or torch.is_grad_enabled():
        return False
    return x.device.type == "cpu" and x.dim() > 1 and x.is_contiguous() and x.shape[-1] > 0
