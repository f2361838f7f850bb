"""Table `compared_identity`: whether expert e of one run is expert e of the other.

A tune keeps its base's experts. Two models that were trained apart number theirs by chance, and
then no difference between experts of the same number means anything.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Float64

from moe_lens.analysis.counts import frame, require

NUM_SHUFFLES = 999
HIGH = 0.95

SCHEMA = pl.Schema(
    {
        "layer": pl.Int64,
        "num_experts": pl.Int64,
        "correlation": pl.Float64,
        "shuffled_mean": pl.Float64,
        "shuffled_high": pl.Float64,
        "p_value": pl.Float64,
    }
)


def expert_identity(a: pl.DataFrame, b: pl.DataFrame, *, seed: int = 0) -> pl.DataFrame:
    """How alike experts of the same number are used in two runs, per layer, against chance.

    The correlation is that of all rates of a layer (domains x experts), less each domain's mean.
    The control renumbers the experts of `b`, all domains in the same way.

    Args:
        a: Table `specialization` of one run.
        b: Table `specialization` of the other, with the same layers and experts.
        seed: Of the renumbering.

    Returns:
        One row for each layer. Columns: layer, num_experts, correlation, shuffled_mean,
        shuffled_high (95th percentile), p_value (one-sided; at least 1 / 1,000).
    """
    key = ["layer", "domain", "expert"]
    for name, table in (("a", a), ("b", b)):
        require(table, (*key, "rate"), name=name)
    both = a.select(*key, "rate").join(b.select(*key, "rate"), on=key, suffix="_b").sort(key)
    rows = []
    for (layer,), here in sorted(both.partition_by("layer", as_dict=True).items()):
        shape = (here["domain"].n_unique(), here["expert"].n_unique())
        x, y = (_centred(here[name].to_numpy().reshape(shape)) for name in ("rate", "rate_b"))
        scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
        if scale == 0:
            continue
        rng = np.random.default_rng([seed, int(layer)])
        places = rng.permuted(np.tile(np.arange(shape[1]), (NUM_SHUFFLES, 1)), axis=1)
        # <x, y renumbered> only needs the products of columns: x' y is experts x experts.
        products = x.T @ y
        shuffled = products[np.arange(shape[1]), places].sum(axis=1) / scale
        found = float(np.trace(products)) / scale
        rows.append(
            {
                "layer": layer,
                "num_experts": shape[1],
                "correlation": found,
                "shuffled_mean": float(shuffled.mean()),
                "shuffled_high": float(np.quantile(shuffled, HIGH)),
                # Not below up to rounding: the same numbering among the shuffles is as large.
                "p_value": float((1 + (shuffled >= found - 1e-12).sum()) / (1 + NUM_SHUFFLES)),
            }
        )
    return frame(rows, SCHEMA)


def _centred(
    rates: Float64[np.ndarray, "domain expert"],
) -> Float64[np.ndarray, "domain expert"]:
    return np.asarray(rates - rates.mean(axis=1, keepdims=True))
