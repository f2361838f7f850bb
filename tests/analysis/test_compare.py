from __future__ import annotations

from math import sqrt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_lens.analysis.compare import (
    compare_concentration,
    compare_perplexity,
    compare_specialization,
    same_experts,
)
from moe_lens.analysis.concentration import concentration_table
from moe_lens.analysis.specialization import specialization_table
from tests.analysis.cases import lengths, overdispersed, random_study, study


def one_rate(rate: float, low: float | None, high: float | None) -> pl.DataFrame:
    return pl.DataFrame(
        {"domain": ["d"], "layer": [1], "expert": [0], "rate": [rate], "rate_low": [low],
         "rate_high": [high]},
        schema_overrides={"rate_low": pl.Float64, "rate_high": pl.Float64},
    )  # fmt: skip


def test_by_hand() -> None:
    row = compare_specialization(one_rate(0.2, 0.17, 0.26), one_rate(0.5, 0.42, 0.54)).row(
        0, named=True
    )
    assert row["difference"] == pytest.approx(0.3)
    assert row["difference_low"] == pytest.approx(0.3 - sqrt(0.08**2 + 0.06**2))
    assert row["difference_high"] == pytest.approx(0.3 + sqrt(0.04**2 + 0.03**2))
    assert row["verdict"] == "higher"
    back = compare_specialization(one_rate(0.5, 0.42, 0.54), one_rate(0.2, 0.17, 0.26)).row(
        0, named=True
    )
    assert back["difference_high"] == pytest.approx(-row["difference_low"])
    assert (back["p_value"], back["verdict"]) == (pytest.approx(row["p_value"]), "lower")


def test_without_intervals_nothing_is_told() -> None:
    row = compare_specialization(one_rate(0.2, None, None), one_rate(0.5, 0.4, 0.6)).row(
        0, named=True
    )
    assert (row["difference_low"], row["p_value"], row["verdict"]) == (None, None, "not told")


def test_other_experts_are_refused() -> None:
    other = one_rate(0.2, 0.1, 0.3).with_columns(expert=pl.lit(1, dtype=pl.Int64))
    assert not same_experts(one_rate(0.2, 0.1, 0.3), other)
    with pytest.raises(ValueError, match="compare_concentration"):
        compare_specialization(one_rate(0.2, 0.1, 0.3), other)


def test_differences_cover_and_the_null_stays_untold() -> None:
    rng = np.random.default_rng(1)
    hits, wrong = 0, 0
    for _ in range(60):
        tables = []
        for rate in (0.1, 0.15):
            tokens = lengths(rng, 40, 0.5)
            chosen = overdispersed(rng, tokens, rate, 0.03, 10)
            fixed = overdispersed(rng, tokens, 0.1, 0.03, 10)
            case = study({1: np.hstack([chosen, fixed]).tolist()}, tokens.tolist(), ["d"] * 40)
            tables.append(specialization_table(*case, num_experts=20, top_k=2))
        found = compare_specialization(*tables)
        moved, same = found[:10], found[10:]
        hits += ((moved["difference_low"] <= 0.05) & (moved["difference_high"] >= 0.05)).sum()
        wrong += (same["p_value"] < 0.05).sum()
        assert (
            (found["p_value"] < 0.05)
            == ((found["difference_low"] > 0) | (found["difference_high"] < 0))
        ).all()
    assert 0.92 <= hits / 600 <= 0.985
    assert wrong / 600 <= 0.08


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_a_run_against_itself(seed: int) -> None:
    table = specialization_table(*random_study(seed), num_experts=6, top_k=2)
    found = compare_specialization(table, table)
    assert (found["difference"] == 0).all()
    assert (found["p_value"] == 1).all()
    assert (found["verdict"] == "not told").all()


def test_concentration_of_models_of_other_sizes() -> None:
    a = concentration_table(*random_study(1, num_layers=1), num_experts=6, top_k=2)
    b = concentration_table(*random_study(2, num_layers=2, num_experts=9), num_experts=9, top_k=2)
    found = compare_concentration(a, b)
    assert found.height == 4
    shared = found.row(0, named=True)
    assert shared["n50_share_difference"] == pytest.approx(
        shared["n50_experts_b"] / 9 - shared["n50_experts_a"] / 6
    )
    assert found.filter(pl.col("layer") == 2)["n50_experts_a"].null_count() == 2


def costs(rows: list[tuple[str, int, float, float | None, float | None]]) -> pl.DataFrame:
    names = ["domain", "k", "ratio_tokens", "ratio_tokens_low", "ratio_tokens_high"]
    schema = dict(zip(names, (pl.String, pl.Int64, *(pl.Float64,) * 3), strict=True))
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(renorm=pl.lit("native"))


def test_costs_by_hand() -> None:
    a = costs([("d", 1, 1.2, 1.1, 1.3), ("d", 2, 1.0, 1.0, 1.0), ("x", 1, 2.0, 1.9, 2.1)])
    b = costs([("d", 1, 1.8, 1.5, 2.0), ("d", 2, 1.1, 1.0, 1.2), ("d", 4, 1.0, 1.0, 1.0)])
    row = compare_perplexity(a, b).row(0, named=True)
    assert compare_perplexity(a, b).height == 1  # k = 2 is all of a, x is in a alone
    assert (row["domain"], row["k"], row["change"]) == ("d", 1, pytest.approx(1.5))
    below = sqrt(np.log(1.8 / 1.5) ** 2 + np.log(1.3 / 1.2) ** 2)
    above = sqrt(np.log(2.0 / 1.8) ** 2 + np.log(1.2 / 1.1) ** 2)
    assert row["change_low"] == pytest.approx(1.5 * np.exp(-below))
    assert row["change_high"] == pytest.approx(1.5 * np.exp(above))


def test_costs_without_intervals_have_no_interval() -> None:
    bare = costs([("d", 1, 1.2, None, None), ("d", 2, 1.0, 1.0, 1.0)])
    row = compare_perplexity(bare, bare).row(0, named=True)
    assert (row["change"], row["change_low"], row["change_high"]) == (1.0, None, None)
