"""Two runs side by side: a base and its chat tune, or two models."""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Float64
from scipy import stats

from moe_lens.analysis.counts import filled, require
from moe_lens.analysis.intervals import CONFIDENCE
from moe_lens.analysis.multiplicity import FALSE_DISCOVERY_RATE, q_values

_KEY = ["domain", "layer", "expert"]
_RATES = ("domain", "layer", "expert", "rate", "rate_low", "rate_high")


def same_experts(a: pl.DataFrame, b: pl.DataFrame) -> bool:
    """Whether two tables `specialization` have the same layers and experts.

    That they are also the same experts (one model a tune of the other) is for the caller to know.
    """

    def places(table: pl.DataFrame) -> set[tuple[int, ...]]:
        return set(table.select("layer", "expert").unique().rows())

    return places(a) == places(b)


def compare_specialization(a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    """How the rate of each expert differs between two runs, on the domains that both have.

    The interval combines those of the two rates (Newcombe's method of variance estimates
    recovery), as for independent runs; for runs on the same documents it is too wide rather than
    too narrow. The p-value comes from the same distances, so it is below 0.05 just where the
    interval leaves out 0.

    Args:
        a: Table `specialization` of one run.
        b: Table `specialization` of the other, with the same layers and experts.

    Returns:
        One row for each domain, layer, expert. Columns: domain, layer, expert, rate_a, rate_b,
        difference (b - a), difference_low, difference_high, p_value, q_value, verdict (`higher`,
        `lower` in b, `not told`).

    Raises:
        ValueError: Layers or experts differ: compare concentration instead.
    """
    for name, table in (("a", a), ("b", b)):
        require(table, _RATES, name=name)
    if not same_experts(a, b):
        raise ValueError(
            "the runs have other layers or experts, so no expert can be compared with itself; "
            "compare_concentration needs none"
        )
    both = a.select(_RATES).join(b.select(_RATES), on=_KEY, suffix="_b").sort(_KEY)
    p, low, high = (filled(both[name]) for name in ("rate", "rate_low", "rate_high"))
    q, low_b, high_b = (filled(both[name]) for name in ("rate_b", "rate_low_b", "rate_high_b"))
    difference = q - p
    below = np.hypot(q - low_b, high - p)
    above = np.hypot(high_b - q, p - low)
    p_value = _p_value(difference, below=below, above=above)
    table = pl.DataFrame(
        {
            **{name: both[name] for name in _KEY},
            "rate_a": p,
            "rate_b": q,
            "difference": difference,
            "difference_low": difference - below,
            "difference_high": difference + above,
            "p_value": p_value,
            "q_value": q_values(p_value),
        }
    ).fill_nan(None)
    told = pl.col("q_value") < FALSE_DISCOVERY_RATE
    return table.with_columns(
        verdict=pl.when(told & (pl.col("difference") > 0))
        .then(pl.lit("higher"))
        .when(told & (pl.col("difference") < 0))
        .then(pl.lit("lower"))
        .otherwise(pl.lit("not told"))
    )


def compare_concentration(a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    """Concentration of two runs by domain and layer, whatever their experts.

    Layers are matched by index; one that only one run has keeps its row, null on the other side.

    Args:
        a: Table `concentration` of one run.
        b: Table `concentration` of the other.

    Returns:
        Columns: domain, layer, and for n50_experts, n50_experts_low, n50_experts_high,
        n50_experts_uniform, entropy_normalized, gini, largest_specialization one each with `_a`
        and `_b`; `n50_share_difference`: n50 / N of b less that of a.
    """
    measures = (
        "n50_experts",
        "n50_experts_low",
        "n50_experts_high",
        "n50_experts_uniform",
        "entropy_normalized",
        "gini",
        "largest_specialization",
    )
    sides = []
    for name, table in (("a", a), ("b", b)):
        require(table, ("domain", "layer", *measures), name=name)
        sides.append(
            table.select("domain", "layer", *(pl.col(m).alias(f"{m}_{name}") for m in measures))
        )
    share = {
        side: pl.col(f"n50_experts_{side}") / (2 * pl.col(f"n50_experts_uniform_{side}"))
        for side in "ab"
    }
    return (
        sides[0]
        .join(sides[1], on=["domain", "layer"], how="full", coalesce=True)
        .with_columns(n50_share_difference=share["b"] - share["a"])
        .sort("domain", "layer")
    )


def compare_perplexity(a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    """What fewer active experts cost each of two runs, where both were run.

    Each run's ratio is against its own full model, so models of different quality, and even of
    different vocabularies, can be compared. The interval of the change combines those of the two
    ratios on the logarithmic scale, as for independent runs.

    Args:
        a: Table `perplexity` of one run.
        b: Table `perplexity` of the other.

    Returns:
        One row for each domain, renorm and k below the full one. Columns: domain, renorm, k,
        ratio_tokens, ratio_tokens_low, ratio_tokens_high one each with `_a` and `_b`; `change`:
        ratio of b over that of a (above 1: b loses more), with change_low and change_high.
    """
    key, ratios = (
        ["domain", "renorm", "k"],
        ("ratio_tokens", "ratio_tokens_low", "ratio_tokens_high"),
    )
    sides = []
    for name, table in (("a", a), ("b", b)):
        require(table, (*key, *ratios), name=name)
        reduced = table.filter(pl.col("k") < pl.col("k").max().over("domain"))
        sides.append(reduced.select(*key, *(pl.col(r).alias(f"{r}_{name}") for r in ratios)))
    both = sides[0].join(sides[1], on=key).sort(key)
    logs = {name: np.log(filled(both[name])) for name in both.columns if name not in key}
    low, mid, high = (logs[f"{r}_a"] for r in (ratios[1], ratios[0], ratios[2]))
    low_b, mid_b, high_b = (logs[f"{r}_b"] for r in (ratios[1], ratios[0], ratios[2]))
    change = mid_b - mid
    return both.with_columns(
        change=np.exp(change),
        change_low=np.exp(change - np.hypot(mid_b - low_b, high - mid)),
        change_high=np.exp(change + np.hypot(high_b - mid_b, mid - low)),
    ).fill_nan(None)


def _p_value(
    difference: Float64[np.ndarray, " row"],
    *,
    below: Float64[np.ndarray, " row"],
    above: Float64[np.ndarray, " row"],
) -> Float64[np.ndarray, " row"]:
    """Normal tail of the distance to 0, in units of the interval's half on that side."""
    side = np.where(difference > 0, below, above)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(difference) / side * stats.norm.isf((1 - CONFIDENCE) / 2)
    p_value = 2 * stats.norm.sf(distance)
    return np.where(difference == 0, np.where(np.isnan(side), np.nan, 1.0), p_value)
