"""Table `specialization`: is an expert specialised, or is it chance?"""

from __future__ import annotations

import numpy as np
import polars as pl

from moe_lens.analysis.counts import layer_counts
from moe_lens.analysis.intervals import rates
from moe_lens.analysis.multiplicity import FALSE_DISCOVERY_RATE, q_values

SCHEMA = pl.Schema(
    {
        "domain": pl.String,
        "layer": pl.Int64,
        "expert": pl.Int64,
        "num_tokens": pl.Int64,
        "num_domain_tokens": pl.Int64,
        "rate": pl.Float64,
        "rate_low": pl.Float64,
        "rate_high": pl.Float64,
        "baseline": pl.Float64,
        "p_value": pl.Float64,
    }
)


def specialization_table(
    usage: pl.DataFrame,
    tokens: pl.DataFrame,
    documents: pl.DataFrame,
    *,
    num_experts: int,
    top_k: int,
) -> pl.DataFrame:
    """The rate at which each expert is chosen in each domain, tested against k / N.

    An expert is `above` or `below` where its q-value over the whole table is under 0.05;
    `not told` otherwise, and always with fewer than 5 documents.

    Args:
        usage: Columns layer, document, expert, num_tokens: `DocumentUsage.table`.
        tokens: Columns layer, document, num_tokens: `DocumentUsage.tokens`.
        documents: Columns document, domain.
        num_experts: N, routed experts of a layer.
        top_k: k, active experts of a token.

    Returns:
        The table of tables.md, by domain, layer, expert; every expert has its row.

    Source: terms.md#specialization
    """
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"top_k {top_k}: a token uses 1 to {num_experts} experts")
    baseline = top_k / num_experts
    parts = [pl.DataFrame(schema=SCHEMA)]
    for layer in layer_counts(usage, tokens, documents, num_experts=num_experts):
        for here in layer.by_domain():
            found = rates(here.chosen, here.tokens, baseline=baseline)
            columns = {
                "domain": [here.domain] * num_experts,
                "layer": [here.layer] * num_experts,
                "expert": range(num_experts),
                "num_tokens": here.chosen.sum(axis=0),
                "num_domain_tokens": [int(here.tokens.sum())] * num_experts,
                "rate": found.value,
                "rate_low": found.low,
                "rate_high": found.high,
                "baseline": [baseline] * num_experts,
                "p_value": found.p_value,
            }
            parts.append(pl.DataFrame(columns, schema=SCHEMA))
    table = pl.concat(parts).sort("domain", "layer", "expert")
    q = q_values(table["p_value"].to_numpy().astype(np.float64))
    told = pl.col("q_value") < FALSE_DISCOVERY_RATE
    return (
        table.with_columns(q_value=pl.Series(q, dtype=pl.Float64))
        .fill_nan(None)
        .with_columns(
            verdict=pl.when(told & (pl.col("rate") > pl.col("baseline")))
            .then(pl.lit("above"))
            .when(told & (pl.col("rate") < pl.col("baseline")))
            .then(pl.lit("below"))
            .otherwise(pl.lit("not told"))
        )
    )
