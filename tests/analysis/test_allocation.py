"""Allocation against every possibility."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_lens.analysis.allocation import allocate


def test_by_hand() -> None:
    # The second layer loses little with one expert, the first much.
    errors = np.array([[9.0, 4.0, 0.0], [1.0, 0.5, 0.0]])
    assert allocate(errors, budget=2) == (1, 1)
    assert allocate(errors, budget=3) == (2, 1)
    assert allocate(errors, budget=4) == (3, 1)
    assert allocate(errors, budget=5) == (3, 2)
    assert allocate(errors, budget=99) == (3, 3)


@given(
    st.integers(1, 4).flatmap(
        lambda most: st.lists(
            st.lists(st.integers(0, 20), min_size=most, max_size=most), min_size=1, max_size=4
        )
    ),
    st.integers(0, 16),
)
def test_law_nothing_within_the_budget_is_better(rows: list[list[int]], more: int) -> None:
    """Oracle: enumeration. Whole numbers, so that sums are exact and ties are many."""
    errors = np.array(rows, dtype=np.float64)
    num_layers, most = errors.shape
    budget = num_layers + more
    options = [
        (sum(errors[layer, k - 1] for layer, k in enumerate(ks)), ks)
        for ks in product(range(1, most + 1), repeat=num_layers)
        if sum(ks) <= budget
    ]
    assert allocate(errors, budget=budget) == min(options)[1]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="1 active experts for 2 layers: each layer needs"):
        allocate(np.ones((2, 2)), budget=1)
    with pytest.raises(ValueError, match="an error is not finite"):
        allocate(np.array([[np.nan]]), budget=1)
