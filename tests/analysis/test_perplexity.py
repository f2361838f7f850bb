from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from moe_lens.analysis.perplexity import perplexity_table
from tests.analysis.cases import published


def losses(rows: list[tuple[str, int, int, str, int, float]]) -> pl.DataFrame:
    names = ("domain", "document", "k", "renorm", "num_tokens", "nll_nats")
    return pl.DataFrame(rows, schema=list(names), orient="row")


def random_losses(seed: int, *, num_documents: int = 8) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for document in range(num_documents):
        tokens, base = int(rng.integers(5, 50)), rng.uniform(1, 3)
        rows += [
            ("ab"[document % 2], document, k, "native", tokens, tokens * (base + rng.gamma(2) / k))
            for k in (1, 2, 4)
        ]
    return losses(rows)


def test_by_hand() -> None:
    # Documents of 1 and 3 tokens; perplexities 4 and 2 with one expert, 2 and 2 with two.
    found = perplexity_table(
        losses(
            [
                ("d", 0, 1, "native", 1, log(4)),
                ("d", 1, 1, "native", 3, 3 * log(2)),
                ("d", 0, 2, "native", 1, log(2)),
                ("d", 1, 2, "native", 3, 3 * log(2)),
            ]
        )
    )
    assert found.columns == [
        "domain",
        "k",
        "renorm",
        "num_documents",
        "num_tokens",
        "nll_nats",
        "perplexity_tokens",
        "perplexity_mean",
        "perplexity_geometric",
        "ratio_tokens",
        "ratio_tokens_low",
        "ratio_tokens_high",
        "ratio_geometric",
        "ratio_geometric_low",
        "ratio_geometric_high",
        "minmax",
    ]
    assert found["domain"].to_list() == ["all", "all", "d", "d"]
    one, two = found.filter(pl.col("domain") == "d").iter_rows(named=True)
    assert (one["k"], one["num_documents"], one["num_tokens"]) == (1, 2, 4)
    assert one["nll_nats"] == pytest.approx(1.25 * log(2))
    assert one["perplexity_tokens"] == pytest.approx(2**1.25)
    assert one["perplexity_mean"] == pytest.approx(3.0)
    assert one["perplexity_geometric"] == pytest.approx(sqrt(8))
    assert one["ratio_tokens"] == pytest.approx(2**0.25)
    assert one["ratio_geometric"] == pytest.approx(sqrt(2))
    assert one["ratio_tokens_low"] is None
    assert (one["minmax"], two["minmax"]) == (1.0, 0.0)
    assert (two["ratio_tokens"], two["ratio_geometric"]) == (1.0, 1.0)


def test_published_ratios() -> None:
    table = published("moe_lens_perplexity_by_top_k.parquet")
    # Only perplexities were released: a document counts as one token. English has one index for
    # all its documents, so they are numbered by place.
    counted = table.with_columns(
        document=pl.int_range(pl.len()).over("domain", "top_k")
        + 1000 * pl.col("domain").rank("dense")
    )
    rows = counted.select(
        "domain",
        "document",
        k=pl.col("top_k").cast(pl.Int64),
        renorm=pl.lit("native"),
        num_tokens=pl.lit(1),
        nll_nats=pl.col("perplexity").log(),
    )
    found = perplexity_table(rows)
    at = {
        (domain, k): row
        for domain, k, *row in found.select(
            "domain", "k", "perplexity_geometric", "ratio_geometric", "ratio_geometric_low",
            "ratio_geometric_high",
        ).iter_rows()
    }  # fmt: skip
    for domain, one, full, change in (
        ("english", 4.579, 3.316, 38.1),
        ("github", 6.981, 5.291, 31.9),
        ("french-qa", 12.612, 5.829, 116.4),
    ):
        geometric, ratio, low, high = at[domain, 1]
        assert geometric == pytest.approx(one, abs=6e-4)
        assert at[domain, 6][0] == pytest.approx(full, abs=6e-4)
        assert 100 * (ratio - 1) == pytest.approx(change, abs=0.06)
        assert 1.05 < low < ratio < high, "one expert costs far more than 5 %"
    assert at["gsm8k", 1][1] is None, "released without the full model"


def test_a_reference_may_come_from_another_renorm() -> None:
    rows = [("d", 0, 2, "native", 10, 10.0), ("d", 0, 1, "keep_mass", 10, 12.0)]
    found = perplexity_table(losses(rows)).filter(pl.col("domain") == "d")
    assert found["ratio_tokens"].to_list() == pytest.approx([exp(0.2), 1.0])


def test_only_documents_that_both_ran_are_paired() -> None:
    rows = [
        ("d", 0, 1, "native", 10, 12.0),
        ("d", 1, 1, "native", 10, 90.0),
        ("d", 0, 2, "native", 10, 10.0),
    ]
    found = perplexity_table(losses(rows)).row(0, named=True)
    assert (found["num_documents"], found["ratio_tokens"]) == (2, pytest.approx(exp(0.2)))


def test_pairing_beats_the_spread_between_documents() -> None:
    rng = np.random.default_rng(1)
    rows = []
    for document in range(30):
        base = rng.uniform(1, 5)
        rows += [
            ("d", document, k, "native", 20, 20 * (base + 0.1 * (k == 1) + 0.01 * rng.normal()))
            for k in (1, 2)
        ]
    one = perplexity_table(losses(rows)).row(0, named=True)
    assert one["ratio_tokens_high"] - one["ratio_tokens_low"] < 0.02
    assert one["ratio_tokens_low"] < exp(0.1) < one["ratio_tokens_high"]


def test_rows_that_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="named 'all'"):
        perplexity_table(losses([("all", 0, 1, "native", 1, 1.0)]))
    with pytest.raises(ValueError, match="two rows for one k"):
        perplexity_table(losses([("d", 0, 1, "native", 1, 1.0)] * 2))
    with pytest.raises(ValueError, match="document 0 is in two domains"):
        perplexity_table(losses([("d", 0, 1, "none", 1, 1.0), ("e", 0, 2, "none", 1, 1.0)]))
    with pytest.raises(ValueError, match="document 0 has another number of tokens"):
        perplexity_table(losses([("d", 0, 1, "none", 1, 1.0), ("d", 0, 2, "none", 2, 1.0)]))


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_laws(seed: int) -> None:
    rows = random_losses(seed)
    found = perplexity_table(rows)
    assert_frame_equal(perplexity_table(rows.sample(fraction=1, shuffle=True, seed=seed)), found)
    full = found.filter(pl.col("k") == 4)
    assert (full["ratio_tokens"] == 1).all()
    assert (found["perplexity_mean"] >= found["perplexity_geometric"] - 1e-9).all()
    assert found["minmax"].is_between(0, 1).all()
    # The same factor on every perplexity leaves the ratios as they are.
    harder = rows.with_columns(nll_nats=pl.col("nll_nats") + pl.col("num_tokens") * 0.7)
    ratios = [name for name in found.columns if name.startswith("ratio")]
    assert_frame_equal(perplexity_table(harder).select(ratios), found.select(ratios))
