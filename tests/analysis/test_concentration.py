from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from moe_lens.analysis.concentration import concentration_table, smooth_n50
from moe_lens.stats.concentration import n50
from tests.analysis.cases import lengths, published, random_study, study

COLUMNS = [
    "domain",
    "layer",
    "num_tokens",
    "n50_experts",
    "n50_experts_low",
    "n50_experts_high",
    "n50_experts_uniform",
    "entropy_normalized",
    "gini",
    "busiest_share",
    "largest_specialization",
    "busiest_expert",
    "weight_sum_mean",
    "rank1_share_mean",
]


def test_by_hand() -> None:
    # 10 tokens, 2 experts each: 8, 6, 4, 2 decisions. 8 < 10 <= 14, so two experts take half.
    case = study({2: [[8, 6, 4, 2]]}, [10], ["d"])
    found = concentration_table(*case, num_experts=4, top_k=2)
    assert found.columns == COLUMNS
    row = found.row(0, named=True)
    assert (row["n50_experts"], row["n50_experts_uniform"], row["busiest_expert"]) == (2, 2.0, 0)
    assert (row["n50_experts_low"], row["n50_experts_high"]) == (None, None)
    assert row["busiest_share"] == pytest.approx(0.7)
    assert row["largest_specialization"] == pytest.approx(0.8)
    assert row["gini"] == pytest.approx((3 * 0.4 + 0.3 - 0.2 - 3 * 0.1) / 4)
    assert row["weight_sum_mean"] is None


def test_weights_are_joined() -> None:
    case = study({2: [[8, 6, 4, 2]], 5: [[4, 6, 8, 2]]}, [10], ["d"])
    weights = pl.DataFrame(
        {"domain": ["d"], "layer": [5], "weight_sum_mean": [0.4], "rank1_share_mean": [0.3]}
    )
    found = concentration_table(*case, num_experts=4, top_k=2, weights=weights)
    assert found["weight_sum_mean"].to_list() == [None, 0.4]
    assert found["rank1_share_mean"].to_list() == [None, 0.3]


def test_published_n50() -> None:
    counts = published("moe_lens_routing_counts_base.parquet")
    domains = sorted(counts["domain"].unique())
    index = {name: i for i, name in enumerate(domains)}
    usage = counts.select(
        "layer", "expert", "num_tokens", document=pl.col("domain").replace_strict(index)
    )
    tokens = usage.group_by("layer", "document").agg(pl.col("num_tokens").sum() // 6)
    documents = pl.DataFrame({"document": range(len(domains)), "domain": domains})
    found = concentration_table(usage, tokens, documents, num_experts=64, top_k=6)
    mean = found.group_by("domain").agg(
        pl.col("n50_experts").mean().round(1), largest=pl.col("largest_specialization").max()
    )
    assert dict(mean.select("domain", "n50_experts").iter_rows()) == {
        "gsm8k": 14.7,
        "aime-math": 17.9,
        "arxiv": 19.5,
        "english": 20.1,
        "french-qa": 23.1,
        "github": 27.3,
        "chinese": 27.6,
    }
    gsm = found.filter(pl.col("domain") == "gsm8k")["n50_experts"]
    assert (gsm.min(), gsm.max()) == (8, 21)
    assert mean["largest"].max() == pytest.approx(0.728, abs=5e-4)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20).filter(any))
def test_smooth_n50_rounds_up_to_n50(counts: list[int]) -> None:
    smooth = float(smooth_n50(np.array(counts)))
    assert np.ceil(smooth - 1e-9) == n50(counts)


def n50_coverage(num_documents: int, flatness: float, corpora: int) -> float:
    """How often the interval holds the population's n50; an n50 is whole, so some are wide."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(corpora):
        shares = rng.dirichlet(np.full(64, flatness))
        tokens = lengths(rng, num_documents, 0.6)
        own = rng.dirichlet(shares * 49, num_documents)  # overlap of 0.02
        chosen = np.stack([rng.multinomial(n, p) for n, p in zip(tokens, own, strict=True)])
        case = study({1: chosen.tolist()}, tokens.tolist(), ["d"] * num_documents)
        row = concentration_table(*case, num_experts=64, top_k=1, num_draws=200).row(0, named=True)
        hits += row["n50_experts_low"] <= n50(shares) <= row["n50_experts_high"]
    return hits / corpora


@pytest.mark.parametrize(("num_documents", "flatness"), [(60, 2.0), (60, 8.0)])
def test_intervals_of_n50_cover(num_documents: int, flatness: float) -> None:
    # 120 corpora: the standard error at 95 % is 2 points.
    assert n50_coverage(num_documents, flatness, 120) >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("num_documents", [20, 60])
@pytest.mark.parametrize("flatness", [0.5, 2.0, 8.0])
def test_intervals_of_n50_cover_many(num_documents: int, flatness: float) -> None:
    assert n50_coverage(num_documents, flatness, 500) >= 0.93


def test_same_seed_same_table_and_the_estimate_is_inside() -> None:
    case = random_study(3, num_documents=14)
    found = concentration_table(*case, num_experts=6, top_k=2, seed=5)
    assert_frame_equal(found, concentration_table(*case, num_experts=6, top_k=2, seed=5))
    assert (found["n50_experts_low"] <= found["n50_experts"]).all()
    assert (found["n50_experts"] <= found["n50_experts_high"]).all()
