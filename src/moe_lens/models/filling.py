"""`LayerPlan`: where the bytes of a checkpoint's files belong in a layer's fused tensors.

transformers fuses experts by stacking what it read, then joining what it stacked: three copies of
a layer, each into fresh memory. Where its own conversion does no more than that, bytes go straight
from the file to their place, in memory that is used again for layer after layer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from moe_lens.errors import CheckpointError
from moe_lens.freed_memory import pages
from moe_lens.models.shards import StoredTensor

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


_LINE = 64
"""Bytes of a cache line."""


class Piece(NamedTuple):
    """One stored tensor and its place.

    Attributes:
        file: Number of its file.
        stored: Where it lies there.
        target: Path of the parameter or buffer that it is a part of.
        expert: Its first index there; None where it is the whole tensor.
        row: Where it begins along the second axis.
    """

    file: int
    stored: StoredTensor
    target: str
    expert: int | None = None
    row: int = 0

    def view_of(self, tensor: Tensor) -> Tensor:
        """What it fills of its target."""
        if self.expert is None:
            return tensor
        return tensor[self.expert, self.row : self.row + self.stored.shape[0]]


class LayerPlan(NamedTuple):
    """Everything a layer is filled from, in the order of the files."""

    pieces: tuple[Piece, ...]


def plan_of(
    stored: Mapping[str, tuple[int, StoredTensor]],
    tensors: Mapping[str, Tensor],
    *,
    mapping: Sequence[Any],
    base_model_prefix: str,
    known: Mapping[str, Tensor],
) -> LayerPlan | None:
    """How a layer is filled; None where transformers does more than stack and join.

    Args:
        stored: File number and place of each of the layer's stored tensors.
        tensors: The layer's parameters and persistent buffers, by path.
        mapping: transformers' conversions for this model.
        base_model_prefix: Of the model.
        known: The model's state dict.
    """
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {p: one for one in converters for p in one.source_patterns}
    stacks: dict[str, dict[str, list[Piece]]] = {}
    pieces: list[Piece] = []
    for key in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, base_model_prefix, known)
        piece = Piece(*stored[key], name)
        if pattern is None:
            if name in tensors:  # others are leftovers, which transformers passes over too
                pieces.append(piece)
        elif _only_stacks(by_pattern[pattern]):
            stacks.setdefault(name, {}).setdefault(pattern, []).append(piece)
        else:
            return None
    for parts in stacks.values():
        row = 0
        for pattern in by_pattern[next(iter(parts))].source_patterns:
            stack = parts.get(pattern, [])
            pieces += [p._replace(expert=number, row=row) for number, p in enumerate(stack)]
            row += stack[0].stored.shape[0] if stack else 0
    pieces.sort(key=lambda piece: (piece.file, piece.stored.start))
    return LayerPlan(tuple(pieces)) if _fills(pieces, tensors) else None


def _as_stored(piece: Piece, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a target is one stored tensor, in the same dtype."""
    return piece.expert is None and _DTYPES[piece.stored.dtype] is tensors[piece.target].dtype


def _fills(pieces: Sequence[Piece], tensors: Mapping[str, Tensor]) -> bool:
    """Whether the pieces fit their targets, and fill all of them."""
    left = {name: tensor.numel() for name, tensor in tensors.items()}
    for piece in pieces:
        target = tensors.get(piece.target)
        if target is None or piece.stored.dtype not in _DTYPES:
            return False
        if piece.expert is not None and target.dim() != len(piece.stored.shape) + 1:
            return False
        if tuple(piece.view_of(target).shape) != piece.stored.shape:
            return False
        left[piece.target] -= piece.view_of(target).numel()
    return not any(left.values())


class Filled(NamedTuple):
    """A layer's tensors, and the memory that is lent for them."""

    tensors: dict[str, Tensor]
    lent: list[Tensor]


class Filler:
    """Fills plans from files, in memory that is used again.

    Args:
        files: The checkpoint's files, by number.
        device: Where the tensors are wanted.
    """

    def __init__(self, files: Sequence[Path], device: torch.device) -> None:
        self._files = [os.open(file, os.O_RDONLY) for file in files]
        self._device = device
        self._free: dict[int, list[Tensor]] = {}
        self._scratch = torch.empty(0, dtype=torch.uint8)

    def fill(self, plan: LayerPlan, tensors: Mapping[str, Tensor]) -> Filled:
        """The tensors of a plan with what the files hold, shaped and typed as `tensors`.

        On the CPU a tensor that is stored whole begins at the place within a cache line that it
        has in its file, where a model that is mapped into memory has it: the last bits of a
        product depend on it.
        """
        starts = {p.target: p.stored.start for p in plan.pieces if _as_stored(p, tensors)}
        found, lent = {}, []
        for name, like in tensors.items():
            memory = self._take(like.nbytes + _LINE)
            at = starts.get(name, 0) % _LINE
            at = at if at % like.dtype.itemsize == 0 else 0
            found[name] = memory[at : at + like.nbytes].view(like.dtype).view(like.shape)
            lent.append(memory)
        for piece in plan.pieces:
            self._read(piece, piece.view_of(found[piece.target]))
        if self._device.type == "cpu":
            return Filled(found, lent)
        there = {name: tensor.to(self._device) for name, tensor in found.items()}
        self.give_back(lent)
        return Filled(there, [])

    def give_back(self, lent: Iterable[Tensor]) -> None:
        """Memory of `fill` whose tensors nobody looks at any more."""
        for memory in lent:
            self._free.setdefault(memory.numel(), []).append(memory)

    def forget_all_but(self, num_bytes: Set[int]) -> None:
        """Let go of what no tensor of these sizes can use again."""
        wanted = {size + _LINE for size in num_bytes}
        self._free = {size: free for size, free in self._free.items() if size in wanted}

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file)

    def _take(self, num_bytes: int) -> Tensor:
        free = self._free.get(num_bytes)
        if free:
            return free.pop()
        if self._device.type == "cuda":
            return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        return pages(num_bytes)

    def _read(self, piece: Piece, place: Tensor) -> None:
        stored, dtype = piece.stored, _DTYPES[piece.stored.dtype]
        if dtype is place.dtype and place.is_contiguous():
            self._read_bytes(piece, place.view(-1).view(torch.uint8))
            return
        if self._scratch.numel() < stored.num_bytes:
            self._scratch = torch.empty(stored.num_bytes, dtype=torch.uint8)
        raw = self._scratch[: stored.num_bytes]
        self._read_bytes(piece, raw)
        place.copy_(raw.view(dtype).view(stored.shape))

    def _read_bytes(self, piece: Piece, into: Tensor) -> None:
        data, done = into.numpy().data, 0
        while done < piece.stored.num_bytes:
            got = os.preadv(self._files[piece.file], [data[done:]], piece.stored.start + done)
            if got == 0:
                raise CheckpointError(
                    f"a weight file became shorter while it was read: {piece.target} is not all "
                    f"there; fetch the checkpoint again"
                )
            done += got


def _only_stacks(converter: WeightConverter) -> bool:
    """Whether it stacks experts, and at most joins two projections along their rows."""
    kinds = [(type(op), getattr(op, "dim", None)) for op in converter.operations]
    if len(converter.target_patterns) != 1:
        return False
    if len(converter.source_patterns) == 1:
        return kinds == [(MergeModulelist, 0)]
    return kinds == [(MergeModulelist, 0), (Concatenate, 1)]
