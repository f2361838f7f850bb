"""Table `stability`: would other documents have ranked the experts alike?

Halves of a domain's documents say how much a ranking is worth on this much text; two domains say
whether what can go on one can go on the other. Both are needed: two domains cannot agree better
than a domain agrees with itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float64

from moe_lens.analysis.counts import known, require
from moe_lens.analysis.ranks import spearman

PRUNED_SHARES = (0.125, 0.25, 0.5)

SCHEMA = pl.Schema(
    {
        "domain_a": pl.String,
        "domain_b": pl.String,
        "layer": pl.Int64,
        "criterion": pl.String,
        "pruned_share": pl.Float64,
        "num_kept": pl.Int64,
        "num_splits": pl.Int64,
        "overlap": pl.Float64,
        "overlap_uniform": pl.Float64,
        "spearman": pl.Float64,
    }
)


class _Pair(NamedTuple):
    domain_a: str
    domain_b: str
    left: list[pl.DataFrame]
    right: list[pl.DataFrame]


def stability_table(
    halves: pl.DataFrame, wholes: pl.DataFrame, criteria: Sequence[str]
) -> pl.DataFrame:
    """Agreement of rankings between halves of a domain, and between domains.

    Args:
        halves: Columns domain, split, half (0 or 1), layer, expert and one of each criterion; null
            where a criterion was not computed for a split.
        wholes: The same without split and half.
        criteria: Which columns are rankings; one that depends on no text has no place here.

    Returns:
        One row for each pair of domains, layer, criterion and share of pruned experts. A domain
        beside itself: means over its splits. `overlap` is the part of the kept experts that is
        kept both times, `overlap_uniform` what two random choices share; `spearman` is null where
        a ranking is constant.
    """
    columns = ("domain", "layer", "expert", *criteria)
    require(halves, (*columns, "split", "half"), name="halves")
    require(wholes, columns, name="wholes")
    rows = []
    for pair in (*_within(halves), *_across(wholes)):
        rows += _rows(pair, criteria)
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def kept(
    scores: Float64[np.ndarray, "row expert"], num_kept: int
) -> Float64[np.ndarray, "row expert"]:
    """1 for the experts with the largest scores, 0 for the others; equal scores by lower id."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :num_kept]
    chosen = np.zeros_like(scores)
    np.put_along_axis(chosen, order, 1.0, axis=1)
    return chosen


def _within(halves: pl.DataFrame) -> list[_Pair]:
    pairs = []
    for domain in halves["domain"].unique(maintain_order=True):
        here = halves.filter(pl.col("domain") == domain)
        parts = {
            half: [
                part.sort("layer", "expert")
                for part in here.filter(pl.col("half") == half).partition_by("split")
            ]
            for half in (0, 1)
        }
        if parts[0]:
            pairs.append(_Pair(domain, domain, parts[0], parts[1]))
    return pairs


def _across(wholes: pl.DataFrame) -> list[_Pair]:
    names = wholes["domain"].unique(maintain_order=True).to_list()
    frames = {
        name: wholes.filter(pl.col("domain") == name).sort("layer", "expert") for name in names
    }
    return [
        _Pair(a, b, [frames[a]], [frames[b]])
        for a, b in combinations([name for name in names if name != "all"], 2)
    ]


def _rows(pair: _Pair, criteria: Sequence[str]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for layer in pair.left[0]["layer"].unique().sort().to_list():
        for criterion in criteria:
            left = _matrix(pair.left, layer, criterion)
            right = _matrix(pair.right, layer, criterion)
            agreement = spearman(left, right)
            told = agreement[~np.isnan(agreement)]
            mean = known(float(told.mean())) if len(told) else None
            num_experts = left.shape[1]
            for share in PRUNED_SHARES:
                num_kept = num_experts - round(num_experts * share)
                both = (kept(left, num_kept) * kept(right, num_kept)).sum(axis=1) / num_kept
                rows.append(
                    (pair.domain_a, pair.domain_b, layer, criterion, share, num_kept, len(left),
                     float(both.mean()), num_kept / num_experts, mean)
                )  # fmt: skip
    return rows


def _matrix(
    frames: Sequence[pl.DataFrame], layer: int, criterion: str
) -> Float64[np.ndarray, "split expert"]:
    columns = [frame.filter(pl.col("layer") == layer)[criterion] for frame in frames]
    told = [column.to_numpy() for column in columns if column.null_count() == 0]
    return np.stack(told).astype(np.float64)
