"""Table `similarity`: how close states are, per domain and layer, from sums over documents."""

from __future__ import annotations

import polars as pl

from moe_lens.analysis.counts import known, require
from moe_lens.analysis.intervals import means

_QUANTILES = ("p05", "p25", "p50", "p75", "p95")


def similarity_table(
    sums: pl.DataFrame, documents: pl.DataFrame, quantiles: pl.DataFrame
) -> pl.DataFrame:
    """The mean of every quantity over tokens, with an interval, and its spread over tokens.

    Args:
        sums: Columns layer, document, quantity, num_tokens, value_sum: `Similarity.documents`.
        documents: Columns document, domain.
        quantiles: Columns layer, domain (by name), quantity, p05 .. p95: `Similarity.quantiles`.

    Returns:
        The table of tables.md, by domain, layer, in the order of the quantities.
    """
    require(sums, ["layer", "document", "quantity", "num_tokens", "value_sum"], name="sums")
    require(quantiles, ["layer", "domain", "quantity", *_QUANTILES], name="quantiles")
    rows = []
    joined = sums.join(documents.select("document", "domain"), on="document")
    for (domain, layer), group in joined.group_by("domain", "layer", maintain_order=True):
        names = group["quantity"].unique(maintain_order=True).to_list()
        wide = group.pivot("quantity", index=["document", "num_tokens"], values="value_sum")
        found = means(wide.select(names).to_numpy(), wide["num_tokens"].to_numpy())
        for i, name in enumerate(names):
            rows.append(
                {
                    "domain": domain,
                    "layer": layer,
                    "quantity": name,
                    "num_tokens": int(wide["num_tokens"].sum()),
                    "mean": float(found.value[i]),
                    "mean_low": known(float(found.low[i])),
                    "mean_high": known(float(found.high[i])),
                }
            )
    spread = quantiles.select("domain", "layer", "quantity", *_QUANTILES)
    schema = {
        "domain": pl.String,
        "layer": pl.Int64,
        "quantity": pl.String,
        "num_tokens": pl.Int64,
        "mean": pl.Float64,
        "mean_low": pl.Float64,
        "mean_high": pl.Float64,
    }
    table = pl.DataFrame(rows, schema=schema)
    keys = ["domain", "layer", "quantity"]
    return table.join(spread, on=keys, how="left", maintain_order="left").sort(
        "domain", "layer", maintain_order=True
    )
