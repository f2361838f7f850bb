"""`TokenVocabulary`: which vocabulary ids an expert gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import polars as pl
from torch import Tensor

from moe_lens.errors import TraceError
from moe_lens.event import LayerEvent
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.documents import pair_table
from moe_lens.stats.pair_counts import PairCounts


@final
class TokenVocabulary(Accumulator):
    """Tokens by vocabulary id that chose each expert, per layer.

    Holds the triples of (layer, vocabulary id, expert) that occurred, 16 bytes each: there are
    fewer of them than choices, and on natural text far fewer than the vocabulary allows.

    Source: terms.md#token-vocabulary
    """

    def __init__(self) -> None:
        self._pairs = PairCounts()

    def update(self, event: LayerEvent) -> None:
        """Add one layer's choices.

        Raises:
            TraceError: Vocabulary ids were not recorded (they are negative).
        """
        ids, routing = event.tokens.ids, event.routing
        if not ids.is_cuda and len(ids) and int(ids.min()) < 0:
            raise TraceError(
                f"layer {event.layer}: the vocabulary ids of these tokens were not recorded, so "
                f"no expert's vocabulary can be told; give the trace a token_id column"
            )
        self._pairs.add(
            event.layer,
            ids,
            routing.experts,
            active=routing.active,
            num_experts=routing.num_experts,
        )

    def merge(self, other: TokenVocabulary) -> None:
        """Add another's counts."""
        self._pairs.merge(other._pairs)

    def state(self) -> Mapping[str, Tensor]:
        """Keys and counts of (vocabulary id, expert), per layer."""
        return self._pairs.state("vocabulary")

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> TokenVocabulary:
        """The accumulator that `state` came from."""
        vocabulary = cls()
        vocabulary._pairs = PairCounts.from_state("vocabulary", state)
        return vocabulary

    @property
    def num_bytes(self) -> int:
        """Memory that the counts take."""
        return self._pairs.num_bytes

    def table(self) -> pl.DataFrame:
        """One row for each layer, vocabulary id and expert that occurred together.

        Columns: layer, token_id, expert, num_tokens, share (of the expert's tokens at the layer).
        """
        total = pl.col("num_tokens").sum().over("layer", "expert")
        table = pair_table(self._pairs, id_name="token_id")
        return table.with_columns(share=pl.col("num_tokens") / total)

    def top_tokens(self, num_top: int = 10) -> pl.DataFrame:
        """Each expert's most frequent vocabulary ids, most frequent first, equals by id.

        Columns: layer, expert, rank (from 1), token_id, num_tokens, share.
        """
        order = self.table().sort(
            "layer", "expert", "num_tokens", "token_id", descending=[False, False, True, False]
        )
        top = order.group_by("layer", "expert", maintain_order=True).head(num_top)
        rank = pl.int_range(1, pl.len() + 1).over("layer", "expert")
        return top.select("layer", "expert", rank.alias("rank"), "token_id", "num_tokens", "share")
