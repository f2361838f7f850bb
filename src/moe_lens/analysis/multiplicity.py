"""Many tests at once: q-values."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from scipy import stats

FALSE_DISCOVERY_RATE = 0.05
"""Largest expected share of wrong ones among the experts called above or below."""


def q_values(p_values: Float64[np.ndarray, " test"]) -> Float64[np.ndarray, " test"]:
    """Benjamini and Hochberg's adjusted p-values; nan is no test and stays nan.

    Calling all tests with q below a rate keeps the expected share of false ones among them below
    that rate, for independent tests and for those that rise and fall together.

    Raises:
        ValueError: A p-value outside 0 to 1.
    """
    told = ~np.isnan(p_values)
    known = p_values[told]
    if ((known < 0) | (known > 1)).any():
        raise ValueError("p-values lie between 0 and 1")
    q = np.full_like(p_values, np.nan)
    if known.size:
        q[told] = stats.false_discovery_control(known)
    return q
