"""Table `information`: what a token's experts tell about its domain."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64, Num
from scipy import special, stats

from moe_lens.analysis.counts import LayerCounts, frame, layer_counts
from moe_lens.analysis.intervals import CONFIDENCE, MIN_DOCUMENTS

SCHEMA = pl.Schema(
    {
        "layer": pl.Int64,
        "num_tokens": pl.Int64,
        "information_bits": pl.Float64,
        "information_bits_low": pl.Float64,
        "information_bits_high": pl.Float64,
        "shuffled_bits_mean": pl.Float64,
        "shuffled_bits_high": pl.Float64,
        "p_value": pl.Float64,
    }
)


_SHUFFLES_AT_ONCE = 100
"""So that memory stays at 100 x documents x domains numbers."""


class _Interval(NamedTuple):
    low: float
    high: float


def information_table(
    usage: pl.DataFrame,
    tokens: pl.DataFrame,
    documents: pl.DataFrame,
    *,
    num_experts: int,
    num_shuffles: int = 999,
    seed: int = 0,
) -> pl.DataFrame:
    """Mutual information between the domain and the expert of a decision, per layer.

    The estimate is the plain one, from counts, which is never below 0 even by chance. Its bias is
    not subtracted by formula (those assume independent tokens); it is shown, as what is left when
    domain labels are shuffled among documents. The interval leaves out one document at a time, and
    holds for the plain estimate at this sample size.

    Args:
        usage: Columns layer, document, expert, num_tokens: `DocumentUsage.table`.
        tokens: Columns layer, document, num_tokens: `DocumentUsage.tokens`.
        documents: Columns document, domain.
        num_experts: Routed experts of a layer.
        num_shuffles: How often labels are shuffled; p-values are at least 1 / (num_shuffles + 1).
        seed: Of the shuffling.

    Returns:
        The table of tables.md, by layer; no rows with fewer than two domains. Interval, shuffled
        control and p-value are null where a domain has fewer than 5 documents.
    """
    rows = []
    for layer in layer_counts(usage, tokens, documents, num_experts=num_experts):
        sizes = np.bincount(layer.domain_of, minlength=len(layer.domains))
        if (sizes > 0).sum() < 2 or not layer.chosen.any():
            continue
        found = float(mutual_information_bits(_by_domain(layer.domain_of, layer.chosen)))
        row = {
            "layer": layer.layer,
            "num_tokens": int(layer.tokens.sum()),
            "information_bits": found,
        }
        if sizes[sizes > 0].min() >= MIN_DOCUMENTS:
            interval = _jackknife(layer, found)
            shuffled = _shuffled(layer, num_shuffles=num_shuffles, seed=seed)
            row |= {
                "information_bits_low": interval.low,
                "information_bits_high": interval.high,
                "shuffled_bits_mean": float(shuffled.mean()),
                "shuffled_bits_high": float(np.quantile(shuffled, 0.95)),
                # Not below up to rounding: a shuffle that changes nothing is as large.
                "p_value": float((1 + (shuffled >= found - 1e-12).sum()) / (1 + num_shuffles)),
            }
        rows.append({name: row.get(name) for name in SCHEMA})
    return frame(rows, SCHEMA)


def mutual_information_bits(
    counts: Num[np.ndarray, "*batch row column"],
) -> Float64[np.ndarray, "*batch"]:
    """Mutual information of rows and columns of tables of counts, in bits: the plain estimate."""
    joint = counts / counts.sum(axis=(-2, -1), keepdims=True)
    entropies = (
        special.entr(joint.sum(axis=-1)).sum(axis=-1)
        + special.entr(joint.sum(axis=-2)).sum(axis=-1)
        - special.entr(joint).sum(axis=(-2, -1))
    )
    return np.asarray(np.maximum(entropies, 0.0) / np.log(2), dtype=np.float64)


def _by_domain(
    domain_of: Int64[np.ndarray, " doc"], chosen: Int64[np.ndarray, "doc expert"]
) -> Float64[np.ndarray, "domain expert"]:
    member = domain_of == np.arange(domain_of.max() + 1)[:, None]
    return np.asarray(member.astype(np.float64) @ chosen)


def _shuffled(layer: LayerCounts, *, num_shuffles: int, seed: int) -> Float64[np.ndarray, " draw"]:
    """The same number with domain labels shuffled among documents, never among tokens."""
    rng = np.random.default_rng([seed, layer.layer])
    domains = np.arange(layer.domain_of.max() + 1)
    chosen = layer.chosen.astype(np.float64)
    parts = []
    for first in range(0, num_shuffles, _SHUFFLES_AT_ONCE):
        draws = min(_SHUFFLES_AT_ONCE, num_shuffles - first)
        labels = rng.permuted(np.tile(layer.domain_of, (draws, 1)), axis=1)
        member = (labels[:, None, :] == domains[:, None]).astype(np.float64)
        parts.append(mutual_information_bits(member @ chosen))
    return np.concatenate(parts)


def _jackknife(layer: LayerCounts, found: float) -> _Interval:
    """Student's t with the jackknife's spread, documents left out within their domain."""
    total = _by_domain(layer.domain_of, layer.chosen)
    variances, dofs = [], []
    for domain in np.unique(layer.domain_of):
        here = layer.chosen[layer.domain_of == domain]
        without = np.repeat(total[None], len(here), axis=0)
        without[:, domain] -= here
        values = mutual_information_bits(without)
        variances.append((len(here) - 1) / len(here) * ((values - values.mean()) ** 2).sum())
        dofs.append(len(here) - 1)
    parts = np.array(variances)
    if parts.sum() == 0:
        return _Interval(found, found)
    dof = parts.sum() ** 2 / (parts**2 / np.array(dofs)).sum()
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, dof) * np.sqrt(parts.sum()))
    return _Interval(max(found - reach, 0.0), found + reach)
