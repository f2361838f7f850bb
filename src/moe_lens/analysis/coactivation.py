"""Table `coactivation`: pairs of experts that go together, or avoid each other."""

from __future__ import annotations

import numpy as np
import polars as pl

from moe_lens.analysis.counts import frame, require

SCHEMA = pl.Schema(
    {
        "layer": pl.Int64,
        "expert_a": pl.Int64,
        "expert_b": pl.Int64,
        "num_tokens": pl.Int64,
        "expected_tokens": pl.Float64,
        "lift": pl.Float64,
    }
)


def coactivation_table(
    pairs: pl.DataFrame, usage: pl.DataFrame, tokens: pl.DataFrame, *, num_pairs: int = 50
) -> pl.DataFrame:
    """The pairs that stand out most from independent choice, per layer.

    Expected are n_a n_b / tokens. A pair stands out by |found - expected| / sqrt(expected): often
    together, or seldom although both are busy; pairs that never met are among the candidates. A
    token has k slots for different experts, so even without any affinity the mean lift is a
    little below 1, about (k - 1) / k.

    Args:
        pairs: Columns layer, expert, other_expert, num_tokens: `Coactivation.table`.
        usage: Columns layer, expert, num_tokens, summed where a layer and expert have several
            rows: `Usage.table`, or `DocumentUsage.table`.
        tokens: Columns layer, num_tokens, summed likewise: `DocumentUsage.tokens`.
        num_pairs: How many to keep of each layer.

    Returns:
        The table of tables.md, by layer and falling distance from what was expected.

    Source: terms.md#coactivation
    """
    require(pairs, ("layer", "expert", "other_expert", "num_tokens"), name="pairs")
    require(usage, ("layer", "expert", "num_tokens"), name="usage")
    require(tokens, ("layer", "num_tokens"), name="tokens")
    rows = []
    layers = sorted(usage.filter(pl.col("num_tokens") > 0)["layer"].unique())
    for layer in layers:
        at = pl.col("layer") == layer
        total = int(tokens.filter(at)["num_tokens"].sum())
        own = usage.filter(at).group_by("expert").agg(pl.col("num_tokens").sum())
        if total == 0 or int(own["num_tokens"].max() or 0) > total:  # type: ignore[arg-type]
            raise ValueError(f"layer {layer}: an expert was chosen by more than the {total} tokens")
        found = pairs.filter(at)
        size = 1 + max(int(own["expert"].max() or 0), int(found["other_expert"].max() or 0))  # type: ignore[arg-type]
        used = np.zeros(size, dtype=np.int64)
        used[own["expert"].to_numpy()] = own["num_tokens"].to_numpy()
        both = np.zeros((size, size), dtype=np.int64)
        both[found["expert"].to_numpy(), found["other_expert"].to_numpy()] = found[
            "num_tokens"
        ].to_numpy()
        both = both + both.T
        a, b = np.triu_indices(size, k=1)
        possible = (used[a] > 0) & (used[b] > 0)
        a, b = a[possible], b[possible]
        met, expected = both[a, b], used[a] * (used[b] / total)
        distance = np.abs(met - expected) / np.sqrt(expected)
        rows += [
            {
                "layer": layer,
                "expert_a": int(a[i]),
                "expert_b": int(b[i]),
                "num_tokens": int(met[i]),
                "expected_tokens": float(expected[i]),
                "lift": float(met[i] / expected[i]),
            }
            for i in np.lexsort((b, a, -distance))[:num_pairs]
        ]
    return frame(rows, SCHEMA)
