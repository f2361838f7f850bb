from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from moe_lens.analysis.specialization import specialization_table
from tests.analysis.cases import Study, lengths, overdispersed, random_study, study

COLUMNS = [
    "domain",
    "layer",
    "expert",
    "num_tokens",
    "num_domain_tokens",
    "rate",
    "rate_low",
    "rate_high",
    "baseline",
    "p_value",
    "q_value",
    "verdict",
]


def test_by_hand() -> None:
    # Two documents of 4 and 6 tokens, one expert of three for each token.
    case = study({3: [[4, 0, 0], [1, 5, 0]]}, [4, 6], ["d", "d"])
    found = specialization_table(*case, num_experts=3, top_k=1)
    assert found.columns == COLUMNS
    assert found["num_tokens"].to_list() == [5, 5, 0]
    assert found["num_domain_tokens"].to_list() == [10] * 3
    assert found["rate"].to_list() == [0.5, 0.5, 0.0]
    assert found["baseline"].to_list() == [1 / 3] * 3
    for name in ("rate_low", "rate_high", "p_value", "q_value"):
        assert found[name].null_count() == 3, "two documents have no interval"
    assert found["verdict"].to_list() == ["not told"] * 3


def test_true_differences_are_found_and_named() -> None:
    rng = np.random.default_rng(1)
    tokens = lengths(rng, 40, 0.5)
    chosen = np.concatenate(
        [overdispersed(rng, tokens, r, 0.02, 1) for r in (0.5, 0.25, 0.05)], axis=1
    )
    case = study({1: chosen.tolist()}, tokens.tolist(), ["d"] * 40)
    found = specialization_table(*case, num_experts=4, top_k=1)
    assert found["verdict"].to_list() == ["above", "not told", "below", "below"]
    assert found["rate"][3] == 0.0, "expert 3 was never chosen, and has its row"
    assert (found["q_value"] >= found["p_value"]).all()


def test_top_k_out_of_range() -> None:
    with pytest.raises(ValueError, match="top_k 7"):
        specialization_table(*random_study(1), num_experts=6, top_k=7)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_rates_sum_to_k_and_order_does_not_matter(seed: int) -> None:
    case = random_study(seed)
    found = specialization_table(*case, num_experts=6, top_k=2)
    assert found.group_by("domain", "layer").agg(pl.col("rate").sum())["rate"].to_list() == (
        pytest.approx([2.0] * 4)
    )
    mixed = Study(*(table.sample(fraction=1, shuffle=True, seed=seed) for table in case))
    assert_frame_equal(specialization_table(*mixed, num_experts=6, top_k=2), found)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_experts_are_exchangeable(seed: int) -> None:
    case = random_study(seed)
    place = np.random.default_rng(seed).permutation(6)
    renamed = case.usage.with_columns(expert=pl.Series(place[case.usage["expert"].to_numpy()]))
    found = specialization_table(*case, num_experts=6, top_k=2)
    other = specialization_table(*case._replace(usage=renamed), num_experts=6, top_k=2)
    back = found.with_columns(expert=pl.Series(place[found["expert"].to_numpy()]))
    assert_frame_equal(back.sort("domain", "layer", "expert"), other)
