from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_lens.stats import concentration
from moe_lens.stats.concentration import (
    busiest_share,
    concentration_table,
    gini,
    largest_specialization,
    n50,
    normalized_entropy,
)

rows = st.lists(st.integers(0, 10**9), min_size=2, max_size=70).filter(any)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([5, 5, 5, 5], 2),
        ([5, 5, 5], 2),
        ([1, 2, 3], 1),
        ([3, 2, 2, 2], 2),
        ([0, 9, 0], 1),
        ([7], 1),
        ([2**52 + 1, 2**52, 1], 1),
    ],
)
def test_n50_by_hand(counts: list[int], expected: int) -> None:
    assert n50(counts) == expected


def test_entropy_by_hand() -> None:
    assert normalized_entropy([1, 1, 2]) == pytest.approx(1.5 * math.log(2) / math.log(3))


def test_gini_by_hand() -> None:
    # Shares 1/6, 2/6, 3/6: differences 1/6, 1/6 and 2/6, each twice, over 2 * 3.
    assert gini([3, 1, 2]) == pytest.approx(2 / 9)


def test_busiest_share_by_hand() -> None:
    assert busiest_share([1, 4, 2, 3], 2) == 0.7


def test_largest_specialization_by_hand() -> None:
    assert largest_specialization([1, 4, 2, 3], 5) == 0.8


@settings(max_examples=50, deadline=None)
@given(size=st.integers(2, 100), count=st.integers(1, 10**9))
def test_uniform_use(size: int, count: int) -> None:
    counts = [count] * size
    assert n50(counts) == math.ceil(size / 2)
    assert normalized_entropy(counts) == pytest.approx(1, abs=1e-12)
    assert gini(counts) == pytest.approx(0, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(size=st.integers(2, 100), data=st.data())
def test_one_expert_alone(size: int, data: st.DataObject) -> None:
    counts = [0] * size
    counts[data.draw(st.integers(0, size - 1))] = 3
    assert n50(counts) == 1
    assert normalized_entropy(counts) == 0
    assert gini(counts) == pytest.approx((size - 1) / size)
    assert busiest_share(counts, 1) == 1


@settings(max_examples=50, deadline=None)
@given(counts=rows, seed=st.integers(0, 99))
def test_order_of_experts_does_not_matter(counts: list[int], seed: int) -> None:
    mixed = np.random.default_rng(seed).permutation(counts)
    for metric in (n50, normalized_entropy, gini, lambda c: busiest_share(c, 2)):
        assert metric(mixed) == metric(counts)


@settings(max_examples=50, deadline=None)
@given(counts=rows)
def test_bounds_and_an_oracle_that_shares_no_code(counts: list[int]) -> None:
    size, total = len(counts), sum(counts)
    smallest = next(
        m for m in range(1, size + 1) if 2 * sum(sorted(counts, reverse=True)[:m]) >= total
    )
    assert n50(counts) == smallest <= math.ceil(size / 2)
    assert 0 <= normalized_entropy(counts) <= 1
    spread = sum(abs(a - b) for a in counts for b in counts) / (2 * size * total)
    assert gini(counts) == pytest.approx(spread, abs=1e-9)
    assert 0 <= gini(counts) < 1
    shares = [busiest_share(counts, m) for m in range(1, size + 1)]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_table_of_groups() -> None:
    usage = pl.DataFrame(
        {
            "domain": ["a"] * 2 + ["b"] * 2,
            "layer": [1] * 4,
            "num_tokens": [3, 1, 2, 2],
            "specialization": [0.75, 0.25, 0.5, 0.5],
        }
    )
    table = concentration_table(usage, by=("domain", "layer"))
    assert table.select("domain", "layer", "n50_experts", "busiest_share").rows() == [
        ("a", 1, 1, 0.75),
        ("b", 1, 1, 0.5),
    ]
    assert table["largest_specialization"].to_list() == [0.75, 0.5]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([], r"counts of shape \(0,\): give one row"),
        ([[1, 2]], r"counts of shape \(1, 2\): give one row"),
        ([1, -1], "finite and not negative"),
        ([1.0, math.nan], "finite and not negative"),
        ([0, 0], "all counts are 0: no expert was chosen"),
    ],
)
def test_rows_that_are_no_counts(counts: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        n50(counts)


def test_numbers_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="the 3 busiest experts: the layer has 1 to 2"):
        busiest_share([1, 2], 3)
    with pytest.raises(ValueError, match="1 expert: entropy"):
        normalized_entropy([4])
    with pytest.raises(ValueError, match="chosen by 4 tokens of 3"):
        largest_specialization([4, 1], 3)


def test_no_torch_is_needed() -> None:
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1]); "
        "sys.exit('torch' in sys.modules or 'moe_lens' in sys.modules)"
    )
    command = [sys.executable, "-c", code, concentration.__file__]
    assert subprocess.run(command, check=False).returncode == 0
