"""Rank correlation of many rankings at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from scipy import stats


def spearman(
    left: Float64[np.ndarray, "row expert"], right: Float64[np.ndarray, "row expert"]
) -> Float64[np.ndarray, " row"]:
    """Rank correlation of each row; nan where a row is constant."""
    a, b = stats.rankdata(left, axis=1), stats.rankdata(right, axis=1)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(size > 0, (a * b).sum(axis=1) / size, np.nan))
