"""Table `lens`: what states decode to, per domain and layer, from sums over documents."""

from __future__ import annotations

import numpy as np
import polars as pl

from moe_lens.analysis.counts import known, require
from moe_lens.analysis.intervals import Estimates, means, rates

_SUMS = ("agree_layer", "agree_output", "kl_output_nats", "logprob_true_nats")


def lens_table(sums: pl.DataFrame) -> pl.DataFrame:
    """Shares and means over sampled tokens, with intervals, for each domain, layer and state.

    Args:
        sums: Columns domain, document, layer, state, num_tokens, agree_layer, agree_output,
            kl_output_nats, logprob_true_nats, ranks_true: `CorpusLens.table`. A document may have
            several rows of a layer and state.

    Returns:
        The table of tables.md, by domain, layer, in the order of the states.
    """
    require(sums, ["domain", "document", "layer", "state", "num_tokens", *_SUMS], name="sums")
    keys = ["domain", "layer", "state", "document"]
    by_document = sums.group_by(keys, maintain_order=True).agg(
        pl.col("num_tokens", *_SUMS).sum(), pl.col("ranks_true").explode()
    )
    rows = []
    for key, group in by_document.group_by("domain", "layer", "state", maintain_order=True):
        tokens = group["num_tokens"].to_numpy()
        agree = rates(group.select("agree_layer", "agree_output").to_numpy(), tokens)
        mean = means(group.select("kl_output_nats", "logprob_true_nats").to_numpy(), tokens)
        ranks = group["ranks_true"].explode()
        row: dict[str, object] = dict(zip(("domain", "layer", "state"), key, strict=True))
        row["num_tokens"] = int(tokens.sum())
        row |= _with_interval("agree_layer", agree, 0) | _with_interval("agree_output", agree, 1)
        row |= _with_interval("kl_output_nats", mean, 0)
        row |= _with_interval("logprob_true_nats", mean, 1)
        row["rank_true_median"] = float(np.median(ranks.to_numpy()))
        rows.append(row)
    schema: dict[str, type[pl.DataType]] = {
        "domain": pl.String,
        "layer": pl.Int64,
        "state": pl.String,
        "num_tokens": pl.Int64,
    }
    schema |= {f"{name}{end}": pl.Float64 for name in _SUMS for end in ("", "_low", "_high")}
    schema["rank_true_median"] = pl.Float64
    return pl.DataFrame(rows, schema=schema).sort("domain", "layer", maintain_order=True)


def _with_interval(name: str, found: Estimates, place: int) -> dict[str, float | None]:
    return {
        name: float(found.value[place]),
        f"{name}_low": known(float(found.low[place])),
        f"{name}_high": known(float(found.high[place])),
    }
