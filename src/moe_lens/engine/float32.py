"""Compute a small module in float32 for a while, and give back exactly what was there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def float32_parameters(module: nn.Module) -> Iterator[None]:
    """Swap a module's floating parameters and buffers for float32 copies within the block.

    The originals are put back as the same objects, so nothing is rounded twice.
    """
    swapped: list[tuple[dict[str, Any], str, Tensor]] = []
    for part in module.modules():
        stores: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for slots in stores:
            for name, tensor in slots.items():
                if tensor is None or not tensor.is_floating_point():
                    continue
                swapped.append((slots, name, tensor))
                wide = tensor.detach().float()
                slots[name] = (
                    nn.Parameter(wide, requires_grad=False)
                    if isinstance(tensor, nn.Parameter)
                    else wide
                )
    try:
        yield
    finally:
        for slots, name, tensor in swapped:
            slots[name] = tensor
