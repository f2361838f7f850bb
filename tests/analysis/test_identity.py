"""Whether experts of the same number are the same, on tables where that is known."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from moe_lens.analysis.identity import expert_identity


def table(rates: NDArray[np.float64], *, layer: int = 1) -> pl.DataFrame:
    """Rates [domain, expert] as rows of `specialization`."""
    domains, experts = rates.shape
    return pl.DataFrame(
        {
            "layer": [layer] * rates.size,
            "domain": np.repeat([f"d{i}" for i in range(domains)], experts).tolist(),
            "expert": np.tile(np.arange(experts), domains).tolist(),
            "rate": rates.ravel(),
        }
    )


def test_by_hand_and_by_all_numberings() -> None:
    a, b = np.array([[0.1, 0.2, 0.6], [0.5, 0.3, 0.1]]), np.array([[0.2, 0.1, 0.6], [0.6, 0.3, 0]])
    row = expert_identity(table(a), table(b)).row(0, named=True)

    def correlation(y: NDArray[np.float64]) -> float:
        return float(np.corrcoef((a - a.mean(1)[:, None]).ravel(), y.ravel())[0, 1])

    centred = b - b.mean(1)[:, None]
    every = [correlation(centred[:, list(order)]) for order in permutations(range(3))]
    assert row["correlation"] == pytest.approx(every[0])
    # All six numberings are drawn alike, so the mean over 999 is near their mean.
    assert row["shuffled_mean"] == pytest.approx(np.mean(every), abs=0.06)
    assert row["num_experts"] == 3


def test_a_tune_keeps_its_experts_and_a_stranger_has_others() -> None:
    rng = np.random.default_rng(3)
    base = rng.dirichlet(np.ones(32), size=4)
    tune = base * rng.uniform(0.8, 1.2, base.shape)
    stranger = tune[:, rng.permutation(32)]
    kept = expert_identity(table(base), table(tune)).row(0, named=True)
    assert kept["correlation"] > 0.9
    assert kept["p_value"] == 0.001
    other = expert_identity(table(base), table(stranger)).row(0, named=True)
    assert other["p_value"] > 0.05
    assert abs(other["correlation"]) < other["shuffled_high"] + 0.2


def test_p_values_of_strangers_are_uniform() -> None:
    rng = np.random.default_rng(5)
    found = [
        expert_identity(
            table(rng.dirichlet(np.ones(12), size=2)),
            table(rng.dirichlet(np.ones(12), size=2)),
            seed=draw,
        )["p_value"][0]
        for draw in range(300)
    ]
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.09
    assert 0.44 <= np.mean(found) <= 0.56


@given(st.permutations(range(6)), st.integers(0, 99))
def test_renumbering_both_alike_changes_nothing(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.dirichlet(np.ones(6), size=3), rng.dirichlet(np.ones(6), size=3)
    before = expert_identity(table(a), table(b))["correlation"][0]
    after = expert_identity(table(a[:, order]), table(b[:, order]))["correlation"][0]
    assert after == pytest.approx(before)


def test_even_use_tells_nothing() -> None:
    even = table(np.full((2, 4), 0.25))
    assert expert_identity(even, even).is_empty()
