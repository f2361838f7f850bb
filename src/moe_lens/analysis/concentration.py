"""Table `concentration`: how few experts do the work, with an interval for n50."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float64, Num
from scipy import stats

from moe_lens.analysis.counts import DomainCounts, frame, layer_counts, require
from moe_lens.analysis.intervals import (
    CONFIDENCE,
    MIN_DOCUMENTS,
    bootstrap_weights,
    effective_documents,
)
from moe_lens.stats.concentration import (
    busiest_share,
    gini,
    largest_specialization,
    n50,
    normalized_entropy,
)

SCHEMA = pl.Schema(
    {
        "domain": pl.String,
        "layer": pl.Int64,
        "num_tokens": pl.Int64,
        "n50_experts": pl.Int64,
        "n50_experts_low": pl.Int64,
        "n50_experts_high": pl.Int64,
        "n50_experts_uniform": pl.Float64,
        "entropy_normalized": pl.Float64,
        "gini": pl.Float64,
        "busiest_share": pl.Float64,
        "largest_specialization": pl.Float64,
        "busiest_expert": pl.Int64,
        "weight_sum_mean": pl.Float64,
        "rank1_share_mean": pl.Float64,
    }
)


class _Interval(NamedTuple):
    low: int | None
    high: int | None


def concentration_table(
    usage: pl.DataFrame,
    tokens: pl.DataFrame,
    documents: pl.DataFrame,
    *,
    num_experts: int,
    top_k: int,
    weights: pl.DataFrame | None = None,
    num_draws: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """Concentration of each domain and layer.

    Args:
        usage: Columns layer, document, expert, num_tokens: `DocumentUsage.table`.
        tokens: Columns layer, document, num_tokens: `DocumentUsage.tokens`.
        documents: Columns document, domain.
        num_experts: N, routed experts of a layer.
        top_k: k, the busiest experts that `busiest_share` adds up.
        weights: Columns domain, layer, weight_sum_mean, rank1_share_mean: `WeightMass.table` of
            each domain. Without it these columns are null.
        num_draws: Draws of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        The table of tables.md, by domain, layer. Layers without a decision have no row.

    Source: terms.md#concentration
    """
    rows = []
    for layer in layer_counts(usage, tokens, documents, num_experts=num_experts):
        for here in layer.by_domain():
            counts = here.chosen.sum(axis=0)
            if not counts.any():
                continue
            interval = _n50_interval(here, num_draws=num_draws, seed=seed)
            num_tokens = int(here.tokens.sum())
            rows.append(
                {
                    "domain": here.domain,
                    "layer": here.layer,
                    "num_tokens": num_tokens,
                    "n50_experts": n50(counts),
                    "n50_experts_low": interval.low,
                    "n50_experts_high": interval.high,
                    "n50_experts_uniform": num_experts / 2,
                    "entropy_normalized": normalized_entropy(counts),
                    "gini": gini(counts),
                    "busiest_share": busiest_share(counts, top_k),
                    "largest_specialization": largest_specialization(counts, num_tokens),
                    "busiest_expert": int(counts.argmax()),
                }
            )
    columns = [name for name in SCHEMA if name not in ("weight_sum_mean", "rank1_share_mean")]
    table = frame(rows, pl.Schema({name: SCHEMA[name] for name in columns})).sort("domain", "layer")
    needed = ("domain", "layer", "weight_sum_mean", "rank1_share_mean")
    if weights is None:
        weights = pl.DataFrame(schema={name: SCHEMA[name] for name in needed})
    require(weights, needed, name="weights")
    return table.join(
        weights.select(needed), on=["domain", "layer"], how="left", maintain_order="left"
    )


def smooth_n50(counts: Num[np.ndarray, "*batch expert"]) -> Float64[np.ndarray, "*batch"]:
    """n50 with the part of the last expert that is needed; rounded up it is n50."""
    falling = np.sort(counts.astype(np.float64), axis=-1)[..., ::-1]
    sums = falling.cumsum(axis=-1)
    half = sums[..., -1:] / 2
    last = (sums < half).sum(axis=-1, keepdims=True)
    beyond = np.take_along_axis(sums, last, axis=-1) - half
    part = beyond / np.take_along_axis(falling, last, axis=-1)
    return np.asarray((last + 1 - part)[..., 0], dtype=np.float64)


def _n50_interval(here: DomainCounts, *, num_draws: int, seed: int) -> _Interval:
    """The basic bootstrap interval, on the smooth n50, rounded up, never without the estimate.

    Chance makes usage look more concentrated than it is, in the sample and once more in every
    draw: draws are therefore mirrored about the estimate, not read as they are. Their spread is
    widened for few documents as Student's t is wider than the normal.
    """
    used = here.chosen[here.chosen.any(axis=1)]
    if len(used) < MIN_DOCUMENTS:
        return _Interval(None, None)
    found = float(smooth_n50(used.sum(axis=0)))
    weights = bootstrap_weights(len(used), num_draws=num_draws, seed=seed)
    drawn = smooth_n50(weights @ used)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    effective = effective_documents(used.sum(axis=1))
    dof = max(effective - 1, 1.0)
    wider = stats.t.isf(tail, dof) / stats.norm.isf(tail) * np.sqrt((dof + 1) / dof)
    mirrored = 2 * found - drawn.mean()
    ends = mirrored - wider * (high - drawn.mean()), mirrored + wider * (drawn.mean() - low)
    estimate = int(np.ceil(found - 1e-9))
    return _Interval(
        low=max(min(int(np.ceil(ends[0] - 1e-9)), estimate), 1),
        high=min(max(int(np.ceil(ends[1] - 1e-9)), estimate), here.chosen.shape[1]),
    )
