from __future__ import annotations

from itertools import combinations
from math import sqrt

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_lens.analysis.counts import domain_usage
from moe_lens.analysis.overlap import expected_jaccard, overlap_table
from tests.analysis.cases import random_study, study


def test_by_hand() -> None:
    # n50: a needs {0, 1} (5 + 4 of 10, 5 is half: {0}), b {1, 2}, c nothing.
    case = study({1: [[5, 4, 1, 0], [0, 4, 4, 2], [0, 0, 0, 0]]}, [10, 10, 1], ["a", "b", "c"])
    found = overlap_table(domain_usage(*case, num_experts=4))
    assert found.columns == [
        "layer",
        "domain_a",
        "domain_b",
        "cosine",
        "shared_busiest",
        "shared_busiest_uniform",
    ]
    assert found.height == 1, "c chose no expert"
    row = found.row(0, named=True)
    assert (row["layer"], row["domain_a"], row["domain_b"]) == (1, "a", "b")
    assert row["cosine"] == pytest.approx(20 / sqrt(42 * 36))
    assert row["shared_busiest"] == 0.0
    # One random expert is among two of four with chance 1/2, and then the union has two.
    assert row["shared_busiest_uniform"] == pytest.approx(0.25)


def test_expected_jaccard_by_enumeration() -> None:
    sets = [set(x) for x in combinations(range(6), 3)]
    others = [set(x) for x in combinations(range(6), 2)]
    every = [len(a & b) / len(a | b) for a in sets for b in others]
    assert expected_jaccard(3, 2, num_experts=6) == pytest.approx(sum(every) / len(every))


def test_missing_rows_are_refused() -> None:
    usage = domain_usage(*random_study(1), num_experts=6)
    with pytest.raises(ValueError, match="5 rows for 6 experts"):
        overlap_table(usage[1:])


@given(seed=st.integers(0, 10**6), scale=st.integers(1, 9))
def test_scale_and_order(seed: int, scale: int) -> None:
    usage = domain_usage(*random_study(seed), num_experts=6)
    found = overlap_table(usage)
    a_only = pl.when(pl.col("domain") == "a").then(scale).otherwise(1)
    scaled = usage.with_columns(num_tokens=pl.col("num_tokens") * a_only)
    other = overlap_table(scaled.sample(fraction=1, shuffle=True, seed=seed))
    assert other["cosine"].to_list() == pytest.approx(found["cosine"].to_list())
    assert other["shared_busiest"].to_list() == found["shared_busiest"].to_list()
    assert found["cosine"].is_between(0, 1 + 1e-12).all()
