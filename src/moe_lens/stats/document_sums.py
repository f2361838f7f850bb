"""`DocumentSums`: float64 sums and counts of tokens for each layer and document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float64, Int, Int64
from torch import Tensor


@final
class DocumentSums:
    """For each layer, a row of float64 sums and a count of tokens for each document."""

    def __init__(self) -> None:
        self._documents: dict[int, Int64[Tensor, " doc"]] = {}
        self._counts: dict[int, Int64[Tensor, " doc"]] = {}
        self._sums: dict[int, Float64[Tensor, "doc quantity"]] = {}

    def add(
        self,
        layer: int,
        documents: Int[Tensor, " tok"],
        values: Float64[Tensor, "tok quantity"],
        counts: Int64[Tensor, " tok"] | None = None,
    ) -> None:
        """Add a row of values for each token (or, with counts, for several tokens at once)."""
        documents, values = documents.cpu().long(), values.cpu()
        counts = torch.ones_like(documents) if counts is None else counts.cpu()
        if layer in self._documents:
            documents = torch.cat([self._documents[layer], documents])
            counts = torch.cat([self._counts[layer], counts])
            values = torch.cat([self._sums[layer], values])
        unique, row = documents.unique(return_inverse=True)
        self._documents[layer] = unique
        self._counts[layer] = torch.zeros_like(unique).index_add_(0, row, counts)
        empty = values.new_zeros(len(unique), values.shape[1])
        self._sums[layer] = empty.index_add_(0, row, values)

    def merge(self, other: DocumentSums) -> None:
        """Add another's sums."""
        for layer, documents in other._documents.items():
            self.add(layer, documents, other._sums[layer], other._counts[layer])

    def rows(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Documents in rising order, their counts and their sums."""
        return self._documents[layer], self._counts[layer], self._sums[layer]

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers seen so far, in rising order."""
        return tuple(sorted(self._documents))

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors of their own."""
        parts: dict[str, Tensor] = {}
        for layer in self.layers:
            parts[f"documents.{layer}"] = self._documents[layer].clone()
            parts[f"document_counts.{layer}"] = self._counts[layer].clone()
            parts[f"document_sums.{layer}"] = self._sums[layer].clone()
        return parts

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> DocumentSums:
        """The sums that `state` came from; other names are passed over."""
        sums = cls()
        for key, documents in state.items():
            head, _, layer = key.partition(".")
            if head == "documents":
                sums._documents[int(layer)] = documents.clone()
                sums._counts[int(layer)] = state[f"document_counts.{layer}"].clone()
                sums._sums[int(layer)] = state[f"document_sums.{layer}"].clone()
        return sums
