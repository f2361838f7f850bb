"""How unevenly experts are used: pure functions of one row of counts. No torch here.

Source: terms.md#concentration
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray


def n50(counts: ArrayLike) -> int:
    """The smallest number of experts that together take at least half of the decisions.

    Uniform use of N experts gives N / 2, rounded up; one expert alone gives 1.

    Raises:
        ValueError: Counts are not a row of numbers from 0 up, or all are 0.
    """
    falling = _row(counts)[::-1]
    # The last sum is the total itself, so that rounding of float counts cannot part them.
    sums = np.cumsum(falling)
    return int(np.searchsorted(2 * sums, sums[-1])) + 1


def normalized_entropy(counts: ArrayLike) -> float:
    """Entropy of the shares over that of uniform use: 1 uniform, 0 for one expert alone.

    Raises:
        ValueError: As for `n50`, or there is only one expert.
    """
    row = _row(counts)
    if len(row) == 1:
        raise ValueError("1 expert: entropy over that of uniform use needs at least 2 experts")
    shares = row[row > 0] / row.sum()
    return float(np.clip(-(shares * np.log(shares)).sum() / np.log(len(row)), 0.0, 1.0))


def gini(counts: ArrayLike) -> float:
    """The Gini coefficient: 0 for uniform use, (N - 1) / N for one expert alone.

    Half the mean absolute difference between two experts' shares, times N.

    Raises:
        ValueError: As for `n50`.
    """
    row = _row(counts)
    size = len(row)
    place = 2 * np.arange(1, size + 1) - size - 1
    return float(max((place * (row / row.sum())).sum() / size, 0.0))


def busiest_share(counts: ArrayLike, num_experts: int) -> float:
    """The share of all decisions that the busiest `num_experts` experts take.

    Raises:
        ValueError: As for `n50`, or `num_experts` is not 1 to the number of experts.
    """
    row = _row(counts)
    if not 1 <= num_experts <= len(row):
        raise ValueError(f"the {num_experts} busiest experts: the layer has 1 to {len(row)}")
    return float(min(row[::-1][:num_experts].sum() / row.sum(), 1.0))


def largest_specialization(counts: ArrayLike, num_tokens: int) -> float:
    """The largest share of tokens that chose one and the same expert.

    Raises:
        ValueError: As for `n50`, or an expert has more tokens than there are.
    """
    most = _row(counts)[-1]
    if most > num_tokens:
        raise ValueError(
            f"an expert was chosen by {most:g} tokens of {num_tokens}; a token can choose an "
            f"expert once: is num_tokens the number of tokens of one layer?"
        )
    return float(most / num_tokens)


def concentration_table(
    usage: pl.DataFrame, *, by: Sequence[str] = ("layer",), num_busiest: int = 1
) -> pl.DataFrame:
    """Concentration of each group of a usage table.

    Args:
        usage: Columns `num_tokens` and, where known, `specialization`, one row for each expert,
            as `Usage.table` gives; experts with no tokens have their row too.
        by: Columns that tell one row of counts from another, such as domain and layer.
        num_busiest: How many experts the column busiest_share adds up.

    Returns:
        One row for each group. Columns: those of `by`, n50_experts, entropy_normalized, gini,
        busiest_share, and largest_specialization where the table has specialization.
    """
    rows = []
    for key, group in usage.group_by(*by, maintain_order=True):
        counts = group["num_tokens"].to_numpy()
        row = dict(zip(by, key, strict=True)) | {
            "n50_experts": n50(counts),
            "entropy_normalized": normalized_entropy(counts),
            "gini": gini(counts),
            "busiest_share": busiest_share(counts, num_busiest),
        }
        if "specialization" in group.columns:
            row["largest_specialization"] = group["specialization"].max()
        rows.append(row)
    return pl.DataFrame(rows)


def _row(counts: ArrayLike) -> NDArray[np.float64]:
    """The counts in rising order, as float64 (exact up to 2**53)."""
    row = np.asarray(counts, dtype=np.float64)
    if row.ndim != 1 or len(row) == 0:
        raise ValueError(
            f"counts of shape {row.shape}: give one row, the counts of one layer's experts"
        )
    if not np.isfinite(row).all() or row.min() < 0:
        raise ValueError("counts must be finite and not negative")
    if row.sum() == 0:
        raise ValueError("all counts are 0: no expert was chosen, so there is no concentration")
    return np.sort(row)
