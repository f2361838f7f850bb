"""What a statistic is: sums that can be added to, merged, read, saved and restored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

from moe_lens.event import Field, LayerEvent

# `typing.Self` would say this, but the shape checker of the tests takes methods one by one.
Own = TypeVar("Own", bound="Accumulator")


class Accumulator(ABC):
    """Sums over tokens, per layer. Division happens when a result is read.

    A law holds for every subclass and is tested for each: however a corpus is split into events,
    in whatever order they come, and however partial accumulators are merged, the result is equal.
    Counts are int64 and equal to the last digit; sums are float64.
    """

    needs: frozenset[Field] = frozenset()

    @abstractmethod
    def update(self, event: LayerEvent) -> None:
        """Add one layer's work on some tokens."""

    @abstractmethod
    def merge(self: Own, other: Own) -> None:
        """Add what another accumulator of the same kind has seen."""

    @abstractmethod
    def state(self) -> Mapping[str, Tensor]:
        """Everything seen so far, as tensors that safetensors can hold."""

    @classmethod
    @abstractmethod
    def from_state(cls: type[Own], state: Mapping[str, Tensor]) -> Own:
        """The accumulator that `state` came from."""
