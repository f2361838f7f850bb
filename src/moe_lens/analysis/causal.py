"""Table `causal`: what becomes of the loss when an expert is taken from its tokens."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float64

from moe_lens.analysis.counts import frame, known, require
from moe_lens.analysis.intervals import means

ALL = "all"
CONTRAST = "drop_over_random"
"""Dropping the expert, less dropping another of the same tokens' experts."""

SCHEMA = pl.Schema(
    {
        "domain": pl.String,
        "layer": pl.Int64,
        "expert": pl.Int64,
        "ablation": pl.String,
        "num_documents": pl.Int64,
        "num_tokens": pl.Int64,
        "own_nats": pl.Float64,
        "own_nats_low": pl.Float64,
        "own_nats_high": pl.Float64,
        "later_nats": pl.Float64,
        "text_nats": pl.Float64,
        "text_nats_low": pl.Float64,
        "text_nats_high": pl.Float64,
    }
)

CHANGES_SCHEMA = pl.Schema(
    {
        "layer": pl.Int64,
        "expert": pl.Int64,
        "ablation": pl.String,
        "document": pl.Int64,
        "num_tokens": pl.Int64,
        "own_nats": pl.Float64,
        "text_nats": pl.Float64,
    }
)
"""Sums for each ablated expert and document that has a token of it."""

TEXT_SCHEMA = pl.Schema(
    {
        "domain": pl.String,
        "document": pl.Int64,
        "num_predicted": pl.Int64,
        "nll_nats": pl.Float64,
    }
)
"""The full model's loss on every document of the causal text, summed."""


def with_contrast(changes: pl.DataFrame) -> pl.DataFrame:
    """With one more ablation, `drop_over_random`, where both of its parts are there."""
    require(changes, CHANGES_SCHEMA.names(), name="changes")
    drop = changes.filter(pl.col("ablation") == "drop")
    random = changes.filter(pl.col("ablation") == "random")
    pairs = drop.join(random, on=["layer", "expert", "document"], suffix="_random")
    contrast = pairs.with_columns(
        ablation=pl.lit(CONTRAST),
        own_nats=pl.col("own_nats") - pl.col("own_nats_random"),
        text_nats=pl.col("text_nats") - pl.col("text_nats_random"),
    )
    return pl.concat([changes, contrast.select(changes.columns)])


def causal_table(changes: pl.DataFrame, text: pl.DataFrame) -> pl.DataFrame:
    """Changes of loss for each domain, and for all of them, with intervals over documents.

    Args:
        changes: `CHANGES_SCHEMA`: sums over the tokens of a document.
        text: `TEXT_SCHEMA`: every document of the text, also those without such a token.

    Returns:
        One row for each domain, layer, expert and ablation. `own_nats`: mean change of the loss
        of the predictions made at ablated tokens (`num_tokens` of them, in `num_documents`);
        `later_nats`: change at all other tokens, per ablated one; `text_nats`: mean change over
        all predictions of the text.
    """
    require(text, TEXT_SCHEMA.names(), name="text")
    changes = with_contrast(changes).join(text, on="document")
    rows = []
    domains = text["domain"].unique(maintain_order=True).to_list()
    for domain in (ALL, *domains):
        here = text if domain == ALL else text.filter(pl.col("domain") == domain)
        documents = here.sort("document")["document"].to_numpy()
        weights = here.sort("document")["num_predicted"].to_numpy().astype(np.float64)
        parts = changes if domain == ALL else changes.filter(pl.col("domain") == domain)
        for key, part in parts.partition_by(
            "layer", "expert", "ablation", as_dict=True, maintain_order=True
        ).items():
            place = np.searchsorted(documents, part["document"].to_numpy())
            rows.append(
                {"domain": domain, "layer": key[0], "expert": key[1], "ablation": key[2]}
                | _row(part, place, weights)
            )
    return frame(rows, SCHEMA)


def _row(
    part: pl.DataFrame, place: Float64[np.ndarray, " doc"] | np.ndarray, weights: np.ndarray
) -> dict[str, float | int | None]:
    counts = part["num_tokens"].to_numpy().astype(np.float64)
    own = part["own_nats"].to_numpy().astype(np.float64)
    text = np.zeros_like(weights)
    text[place] = part["text_nats"].to_numpy()
    total = _Mean.of(text, weights)
    near = _Mean.of(own, counts) if counts.sum() else _Mean(None, None, None)
    spread = float((part["text_nats"].sum() - own.sum()) / counts.sum()) if counts.sum() else None
    return {
        "num_documents": int((counts > 0).sum()),
        "num_tokens": int(counts.sum()),
        "own_nats": near.value,
        "own_nats_low": near.low,
        "own_nats_high": near.high,
        "later_nats": spread,
        "text_nats": total.value,
        "text_nats_low": total.low,
        "text_nats_high": total.high,
    }


class _Mean(NamedTuple):
    value: float | None
    low: float | None
    high: float | None

    @staticmethod
    def of(sums: np.ndarray, weights: np.ndarray) -> _Mean:
        kept = weights > 0
        found = means(sums[kept, None], weights[kept])
        ends = (found.value[0], found.low[0], found.high[0])
        return _Mean(*(known(float(end)) for end in ends))
