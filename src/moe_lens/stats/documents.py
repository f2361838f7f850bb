"""`DocumentUsage`: usage of each document, so that intervals can resample documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np
import polars as pl
from torch import Tensor

from moe_lens.event import LayerEvent
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.pair_counts import PairCounts


@final
class DocumentUsage(Accumulator):
    """Tokens of each document that chose each expert, per layer.

    Source: terms.md#document-resampling
    """

    def __init__(self) -> None:
        self._chosen = PairCounts()
        self._tokens = PairCounts()

    def update(self, event: LayerEvent) -> None:
        """Add one layer's choices."""
        routing, document = event.routing, event.tokens.document
        self._chosen.add(
            event.layer,
            document,
            routing.experts,
            active=routing.active,
            num_experts=routing.num_experts,
        )
        everyone = document.new_zeros(len(document), 1)
        self._tokens.add(event.layer, document, everyone, active=everyone == 0, num_experts=1)

    def merge(self, other: DocumentUsage) -> None:
        """Add another's counts."""
        self._chosen.merge(other._chosen)
        self._tokens.merge(other._tokens)

    def state(self) -> Mapping[str, Tensor]:
        """Keys and counts of (document, expert), and of documents' tokens, per layer."""
        return self._chosen.state("chosen") | self._tokens.state("tokens")

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> DocumentUsage:
        """The accumulator that `state` came from."""
        usage = cls()
        usage._chosen = PairCounts.from_state("chosen", state)
        usage._tokens = PairCounts.from_state("tokens", state)
        return usage

    def table(self) -> pl.DataFrame:
        """One row for each layer, document and expert that occurred together.

        Columns: layer, document, expert, num_tokens.
        """
        return pair_table(self._chosen, id_name="document")

    def tokens(self) -> pl.DataFrame:
        """One row for each layer and document.

        Columns: layer, document, num_tokens (of the document, whatever they chose).
        """
        return pair_table(self._tokens, id_name="document").drop("expert")


def pair_table(pairs: PairCounts, *, id_name: str) -> pl.DataFrame:
    """One row for each pair. Columns: layer, the id, expert, num_tokens."""
    schema = dict.fromkeys(("layer", id_name, "expert", "num_tokens"), pl.Int64)
    parts = [
        pl.DataFrame(
            [np.full(len(found.ids), layer), found.ids, found.experts, found.counts],
            schema=schema,
        )
        for layer, found in pairs.layers()
    ]
    return pl.concat(parts) if parts else pl.DataFrame(schema=schema)
