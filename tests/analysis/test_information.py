from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from moe_lens.analysis.information import information_table, mutual_information_bits
from tests.analysis.cases import lengths, random_study, study

COLUMNS = [
    "layer",
    "num_tokens",
    "information_bits",
    "information_bits_low",
    "information_bits_high",
    "shuffled_bits_mean",
    "shuffled_bits_high",
    "p_value",
]


def test_by_hand() -> None:
    # Domains apart in layer 1: one bit. Alike in layer 2: none.
    chosen = {1: [[4, 0], [0, 4]], 2: [[2, 2], [2, 2]]}
    found = information_table(*study(chosen, [4, 4], ["a", "b"]), num_experts=2)
    assert found.columns == COLUMNS
    assert found["information_bits"].to_list() == pytest.approx([1.0, 0.0])
    assert found["num_tokens"].to_list() == [8, 8]
    assert found["p_value"].null_count() == 2, "one document a domain"


def test_against_the_definition() -> None:
    joint = np.array([[3, 1, 2], [0, 5, 4]])
    p = joint / joint.sum()
    expected = sum(
        p[i, j] * np.log2(p[i, j] / (p[i].sum() * p[:, j].sum()))
        for i in range(2)
        for j in range(3)
        if p[i, j]
    )
    assert float(mutual_information_bits(joint)) == pytest.approx(expected)


def test_one_domain_tells_nothing() -> None:
    assert information_table(*random_study(1, domains=("a",)), num_experts=6).is_empty()


def test_real_information_is_found() -> None:
    rows = [[9, 1]] * 6 + [[1, 9]] * 6
    case = study({1: rows}, [10] * 12, ["a"] * 6 + ["b"] * 6)
    row = information_table(*case, num_experts=2, num_shuffles=199).row(0, named=True)
    # Of 12! / (6! 6!) = 924 labellings two tell as much; 199 shuffles meet at most a few.
    assert row["p_value"] <= 0.02
    assert row["shuffled_bits_mean"] < row["information_bits"] / 3
    assert row["information_bits_low"] <= row["information_bits"] <= row["information_bits_high"]


def test_labels_are_shuffled_among_documents() -> None:
    """Documents that differ, domains that do not: tokens would say otherwise, documents do not."""
    rng = np.random.default_rng(2)
    low = 0
    for trial in range(120):
        tokens = lengths(rng, 16, 0.5)
        own = rng.dirichlet(np.full(8, 1.5), 16)
        chosen = [rng.multinomial(n, p).tolist() for n, p in zip(tokens, own, strict=True)]
        case = study({1: chosen}, tokens.tolist(), ["a", "b"] * 8)
        found = information_table(*case, num_experts=8, num_shuffles=99, seed=trial)
        low += found["p_value"][0] <= 0.05
    assert low / 120 <= 0.11  # 5 % and three standard errors


def test_the_jackknife_has_the_right_width() -> None:
    rng = np.random.default_rng(3)
    values, halves = [], []
    base = rng.dirichlet(np.full(8, 2.0), 2)
    for _ in range(200):
        tokens = lengths(rng, 40, 0.5)
        own = np.concatenate([rng.dirichlet(p * 30, 20) for p in base])
        chosen = [rng.multinomial(n, p).tolist() for n, p in zip(tokens, own, strict=True)]
        case = study({1: chosen}, tokens.tolist(), ["a"] * 20 + ["b"] * 20)
        row = information_table(*case, num_experts=8, num_shuffles=1).row(0, named=True)
        values.append(row["information_bits"])
        halves.append((row["information_bits_low"], row["information_bits_high"]))
    low, high = np.array(halves).T
    expected = np.mean(values)  # of the plain estimate at this sample size
    assert 0.90 <= np.mean((low <= expected) & (expected <= high)) <= 0.99


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_bounds_and_exchangeable_experts(seed: int) -> None:
    case = random_study(seed)
    found = information_table(*case, num_experts=6, num_shuffles=19)
    assert found["information_bits"].is_between(0, 1).all(), "two domains: at most a bit"
    place = np.random.default_rng(seed).permutation(6)
    renamed = case.usage.with_columns(expert=pl.Series(place[case.usage["expert"].to_numpy()]))
    other = information_table(*case._replace(usage=renamed), num_experts=6, num_shuffles=19)
    assert_frame_equal(found, other)
