"""`Workspace`: buffers that are used again, since fresh ones are slow to fill."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

_Key = tuple[str, torch.dtype, torch.device]


@dataclass(eq=False)
class Workspace:
    """Named buffers, each as large as the largest tensor taken from it.

    Fresh tensors of many megabytes are filled up to ten times slower than reused ones: the kernel
    hands out their pages one fault at a time.
    """

    _buffers: dict[_Key, Tensor] = field(default_factory=dict, repr=False)

    def take(
        self, name: str, *shape: int, like: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """An uninitialised tensor of this shape, on the device of `like` and of its dtype.

        It shares memory with the last one taken under the same name.
        """
        key = (name, like.dtype if dtype is None else dtype, like.device)
        size = prod(shape)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            buffer = torch.empty(size, dtype=key[1], device=key[2])
            self._buffers[key] = buffer
        return buffer[:size].view(shape)
