"""Counts and sums per layer, the parts that statistics are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

import torch
from jaxtyping import Bool, Int, Num, Shaped
from torch import Tensor


@final
class LayerSums:
    """A tensor of running totals for each layer; layers appear when first added to.

    Totals stay on the device of the first event, and are read on the CPU.

    Args:
        name: What is summed, for states and errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._totals: dict[int, Tensor] = {}

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers seen so far, in rising order."""
        return tuple(sorted(self._totals))

    def zeros(
        self, layer: int, shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """The layer's running total, to be added to in place.

        Raises:
            ValueError: The layer's total has another shape.
        """
        total = self._totals.get(layer)
        if total is None:
            total = self._totals[layer] = torch.zeros(shape, dtype=dtype, device=device)
        self._check_shape(layer, tuple(shape))
        return total

    def add(self, layer: int, amount: Tensor) -> None:
        """Add to a layer's total.

        Raises:
            ValueError: The layer's total has another shape.
        """
        total = self.zeros(layer, tuple(amount.shape), dtype=amount.dtype, device=amount.device)
        total += amount.to(total.device)

    def merge(self, other: LayerSums) -> None:
        """Add another's totals, layer by layer."""
        for layer, amount in other.items():
            self._check_shape(layer, tuple(amount.shape))
        for layer, amount in other.items():
            self.add(layer, amount)

    def items(self) -> Iterator[tuple[int, Tensor]]:
        """Layers in rising order with their totals."""
        for layer in self.layers:
            yield layer, self._totals[layer]

    def of(self, layer: int) -> Tensor:
        """A copy of one layer's total, on the CPU.

        Raises:
            ValueError: Nothing was added for the layer.
        """
        if layer not in self._totals:
            seen = ", ".join(map(str, self.layers)) or "none"
            raise ValueError(
                f"layer {layer}: no events were seen; layers with events: {seen} "
                f"(dense layers have no router)"
            )
        return self._totals[layer].cpu().clone()

    def state(self) -> dict[str, Tensor]:
        """The totals under `name.layer`, on the CPU."""
        return {f"{self._name}.{layer}": self.of(layer) for layer in self.layers}

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Tensor]) -> LayerSums:
        """The totals that were saved under this name; other names are passed over."""
        sums = cls(name)
        for key, total in state.items():
            head, _, layer = key.partition(".")
            if head == name:
                sums._totals[int(layer)] = total.clone()
        return sums

    def _check_shape(self, layer: int, shape: tuple[int, ...]) -> None:
        total = self._totals.get(layer)
        if total is not None and tuple(total.shape) != shape:
            raise ValueError(
                f"layer {layer}: {self._name} of shape {shape} cannot join "
                f"{tuple(total.shape)}; were the events recorded from different models?"
            )


def add_at(
    total: Num[Tensor, "*total"],
    index: Int[Tensor, "*index"],
    amount: Shaped[Tensor, "*index"],
) -> None:
    """Add each amount to the place of `total` that `index` names.

    Args:
        total: Contiguous sums, added to in place.
        index: Places in `total`, counted in row-major order.
        amount: What is added; where it says which slots are active, True adds 1.
    """
    flat = amount.reshape(-1).to(total.device, total.dtype)
    total.view(-1).scatter_add_(0, index.reshape(-1).to(total.device), flat)


def count_at(
    total: Int[Tensor, "*total"],
    index: Int[Tensor, "*index"],
    *,
    active: Bool[Tensor, "*index"] | None,
) -> None:
    """Count how often `index` names each place of `total`; None counts every time."""
    if active is not None:
        add_at(total, index.long(), active)
    elif index.is_cuda:
        add_at(total, index.long(), torch.ones_like(index))
    else:
        total.view(-1).add_(torch.bincount(index.reshape(-1), minlength=total.numel()))


def active_or_none(active: Bool[Tensor, "*index"]) -> Bool[Tensor, "*index"] | None:
    """None where all slots are active, which is quicker to count; on a GPU, never to wait."""
    return None if not active.is_cuda and bool(active.numpy().all()) else active
