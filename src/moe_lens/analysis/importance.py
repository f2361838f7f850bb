"""Table `importance`: from sums over tokens to the scores of experts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import polars as pl

from moe_lens.analysis.counts import require
from moe_lens.analysis.ranks import spearman

SCHEMA = pl.Schema(
    {
        "domain": pl.String,
        "layer": pl.Int64,
        "expert": pl.Int64,
        "criterion": pl.String,
        "score": pl.Float64,
        "num_tokens": pl.Int64,
    }
)


def _mean(column: str) -> pl.Expr:
    """A mean over the tokens that chose the expert; 0 where none did, since nothing is known."""
    counted = pl.col("num_tokens") > 0
    return pl.when(counted).then(pl.col(column) / pl.col("num_tokens")).otherwise(0.0)


FROM_SUMS: dict[str, pl.Expr] = {
    "frequency": pl.col("num_tokens").cast(pl.Float64),
    "gate_mass": pl.col("gate_sum"),
    "soft_count": pl.col("soft_sum"),
    "ean_sum": pl.col("norm_sum"),
    "ean_mean": _mean("norm_sum"),
    "msan": _mean("norm_square_sum"),
    "reap": _mean("gate_norm_sum"),
    "gate_norm_sum": pl.col("gate_norm_sum"),
    "easy_ep": pl.col("easy_ep_sum"),
    "reroute_error": pl.col("reroute_square_sum").sqrt(),
    "max_abs": pl.col("max_abs"),
}
"""How each criterion follows from the sums of `stats.importance`. Source: terms.md#importance."""

_ADDED = (
    "num_tokens",
    "gate_sum",
    "norm_sum",
    "norm_square_sum",
    "gate_norm_sum",
    "easy_ep_sum",
    "soft_sum",
    "reroute_square_sum",
)


def scores_of(sums: pl.DataFrame, groups: Collection[int], criteria: Sequence[str]) -> pl.DataFrame:
    """Scores over the documents of some groups.

    Args:
        sums: `stats.importance.Importance.table`.
        groups: Which groups count.
        criteria: Of `FROM_SUMS`.

    Returns:
        One row for each layer and expert, in order. Columns: layer, expert, num_tokens (that
        chose the expert), and one of each criterion.
    """
    require(sums, ("group", "layer", "expert", "max_abs", *_ADDED), name="importance sums")
    added = (
        sums.filter(pl.col("group").is_in(list(groups)))
        .group_by("layer", "expert")
        .agg(pl.col(_ADDED).sum(), pl.col("max_abs").max())
        .sort("layer", "expert")
    )
    columns = [FROM_SUMS[name].alias(name) for name in criteria]
    return added.select("layer", "expert", "num_tokens", *columns)


def importance_table(scores: pl.DataFrame, criteria: Sequence[str]) -> pl.DataFrame:
    """The table of tables.md, one row for each domain, layer, criterion and expert.

    Args:
        scores: Columns domain, layer, expert, num_tokens, and one of each criterion.
        criteria: In the order of the result.
    """
    require(scores, ("domain", "layer", "expert", "num_tokens", *criteria), name="scores")
    parts = [
        scores.select(
            "domain",
            "layer",
            "expert",
            pl.lit(name).alias("criterion"),
            pl.col(name).alias("score"),
            "num_tokens",
        )
        for name in criteria
    ]
    domains = {
        name: place for place, name in enumerate(scores["domain"].unique(maintain_order=True))
    }
    places = {name: place for place, name in enumerate(criteria)}
    return (
        pl.concat([pl.DataFrame(schema=SCHEMA), *parts])
        .with_columns(
            _domain=pl.col("domain").replace_strict(domains, return_dtype=pl.Int64),
            _criterion=pl.col("criterion").replace_strict(places, return_dtype=pl.Int64),
        )
        .sort("_domain", "layer", "_criterion", "expert")
        .select(SCHEMA.names())
    )


def criteria_agreement(importance: pl.DataFrame) -> pl.DataFrame:
    """How alike every two criteria rank the experts of a layer, over all domains together.

    Args:
        importance: The table `importance`.

    Returns:
        Columns criterion_a, criterion_b (each pair both ways, and each with itself), spearman:
        the mean over layers; null where a ranking is constant in all of them.
    """
    here = importance.filter(pl.col("domain") == "all")
    names = here["criterion"].unique(maintain_order=True).to_list()
    rows = []
    layers = [
        layer.pivot("criterion", index="expert", values="score")
        .select(pl.col(names).cast(pl.Float64))
        .to_numpy()
        .T
        for layer in here.partition_by("layer")
    ]
    for a, first in enumerate(names):
        for b, second in enumerate(names):
            found = np.array([spearman(m[a : a + 1], m[b : b + 1])[0] for m in layers])
            told = found[~np.isnan(found)]
            rows.append((first, second, float(told.mean()) if len(told) else None))
    schema = {"criterion_a": pl.String, "criterion_b": pl.String, "spearman": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")
