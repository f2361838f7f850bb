"""`PairCounts`: counts of (id, expert) where ids are many and most pairs never occur."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from numpy.typing import NDArray
from torch import Tensor

from moe_lens.stats.sums import add_at

_BLOCK_BYTES = 128 << 20
_BLOCK_TOKENS = 1 << 30  # int32 counts cannot overflow before
_EXPERT_BITS = 16


class Pairs(NamedTuple):
    """The pairs that occurred at a layer, by rising id, then expert."""

    ids: NDArray[np.int64]
    experts: NDArray[np.int64]
    counts: NDArray[np.int64]


@final
class PairCounts:
    """For each layer, how often each (id, expert) occurred; 16 bytes for each that did.

    New pairs are counted in a small dense table of the ids seen lately. When its tables outgrow
    128 MB, or half of what is held already, their pairs are merged into the sorted ones.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._blocks: dict[int, Tensor] = {}
        self._num_experts: dict[int, int] = {}
        self._ids: Int64[Tensor, " row"] | None = None
        self._last: tuple[Tensor, Tensor] | None = None
        self._num_tokens = 0

    def add(
        self,
        layer: int,
        ids: Int[Tensor, " tok"],
        experts: Int[Tensor, "tok slot"],
        *,
        active: Bool[Tensor, "tok slot"],
        num_experts: int,
    ) -> None:
        """Count each token's id with each of its active experts.

        Raises:
            ValueError: The layer has more than 65,536 experts, or another number than before.
        """
        if num_experts > 1 << _EXPERT_BITS:
            raise ValueError(f"{num_experts} experts: at most {1 << _EXPERT_BITS} can be counted")
        before = self._num_experts.setdefault(layer, num_experts)
        if before != num_experts:
            raise ValueError(
                f"layer {layer}: {num_experts} experts after {before}; were the events recorded "
                f"from different models?"
            )
        moved = self._ids is not None and self._ids.device != ids.device
        if moved or self._num_tokens + len(ids) > _BLOCK_TOKENS or self._is_full():
            self._settle()
        rows = self._rows(ids)
        block = self._block(layer, num_experts)
        add_at(block, experts + rows[:, None] * num_experts, active)
        self._num_tokens += len(ids)

    def merge(self, other: PairCounts) -> None:
        """Add another's counts."""
        self._settle()
        other._settle()
        for layer, (keys, counts) in other._held.items():
            self._join(layer, keys, counts)

    def layers(self) -> Iterator[tuple[int, Pairs]]:
        """Layers in rising order with their pairs."""
        self._settle()
        for layer in sorted(self._held):
            keys, counts = self._held[layer]
            yield layer, Pairs(keys >> _EXPERT_BITS, keys & ((1 << _EXPERT_BITS) - 1), counts)

    @property
    def num_bytes(self) -> int:
        """Memory that the counts take once they are merged."""
        self._settle()
        return sum(keys.nbytes + counts.nbytes for keys, counts in self._held.values())

    def state(self, name: str) -> dict[str, Tensor]:
        """Keys (id * 65536 + expert) and counts of each layer."""
        self._settle()
        parts: dict[str, Tensor] = {}
        for layer, (keys, counts) in sorted(self._held.items()):
            parts[f"{name}_keys.{layer}"] = torch.from_numpy(keys.copy())
            parts[f"{name}_counts.{layer}"] = torch.from_numpy(counts.copy())
        return parts

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Tensor]) -> PairCounts:
        """The counts that were saved under this name; other names are passed over."""
        pairs = cls()
        for key, keys in state.items():
            head, _, layer = key.partition(".")
            if head == f"{name}_keys":
                counts = state[f"{name}_counts.{layer}"]
                pairs._held[int(layer)] = (keys.numpy().copy(), counts.numpy().copy())
        return pairs

    def _is_full(self) -> bool:
        if self._ids is None:
            return False
        widths = sum(block.shape[1] for block in self._blocks.values())
        block = 4 * widths * len(self._ids)
        if block <= _BLOCK_BYTES:
            return False
        held = sum(keys.nbytes + counts.nbytes for keys, counts in self._held.values())
        return block > held // 2

    def _rows(self, ids: Int[Tensor, " tok"]) -> Int64[Tensor, " tok"]:
        """The row of each id in the blocks; a batch's layers share their tokens, and the answer."""
        if self._last is not None and self._last[0] is ids:
            return self._last[1]
        wide = ids.long()
        known = wide.new_empty(0) if self._ids is None else self._ids
        unique = wide.unique()
        self._ids = torch.cat([known, unique[~torch.isin(unique, known)]])
        rising = self._ids.sort()
        rows = rising.indices[torch.searchsorted(rising.values, wide)]
        self._last = (ids, rows)
        return rows

    def _block(self, layer: int, num_experts: int) -> Tensor:
        """The layer's table, with a row for every id in `_ids` and some to spare."""
        assert self._ids is not None
        block, num_rows = self._blocks.get(layer), len(self._ids)
        if block is not None and block.device != self._ids.device:
            block = None  # empty: a change of device settles first
        if block is None or len(block) < num_rows:
            spare = num_rows if block is None else max(num_rows, 2 * len(block))
            grown = torch.zeros(spare, num_experts, dtype=torch.int32, device=self._ids.device)
            if block is not None:
                grown[: len(block)] = block
            block = self._blocks[layer] = grown
        return block

    def _settle(self) -> None:
        """Merge the blocks into the sorted pairs, one layer at a time."""
        if self._ids is None:
            return
        rising = self._ids.sort()
        for layer, block in sorted(self._blocks.items()):
            order = rising.indices[rising.indices < len(block)]
            counts = block[order].view(-1).cpu().numpy()
            place = np.flatnonzero(counts)
            row, expert = np.divmod(place, block.shape[1])
            keys = (self._ids[order].cpu().numpy()[row] << _EXPERT_BITS) + expert
            self._join(layer, keys, counts[place].astype(np.int64))
            block.zero_()  # kept: fresh memory costs more than cleared memory
        self._ids = self._last = None
        self._num_tokens = 0

    def _join(self, layer: int, keys: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Merge rising, distinct keys into the layer's."""
        held = self._held.get(layer)
        if held is None:
            self._held[layer] = (keys.copy(), counts.copy())
            return
        if len(keys) == 0:
            return
        both = np.concatenate([held[0], keys])
        order = np.argsort(both, kind="stable")  # two sorted runs merge in linear time
        both = both[order]
        starts = np.flatnonzero(np.concatenate([[True], both[1:] != both[:-1]]))
        sums = np.concatenate([held[1], counts])[order]
        self._held[layer] = (both[starts], np.add.reduceat(sums, starts))
