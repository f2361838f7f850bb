from __future__ import annotations

import polars as pl
import pytest

from moe_lens.analysis.coactivation import coactivation_table

USAGE = pl.DataFrame({"layer": [2] * 4, "expert": [0, 1, 2, 3], "num_tokens": [8, 6, 4, 2]})
TOKENS = pl.DataFrame({"layer": [2, 2], "document": [0, 1], "num_tokens": [4, 6]})
PAIRS = pl.DataFrame(
    {"layer": [2] * 3, "expert": [0, 0, 2], "other_expert": [1, 2, 3], "num_tokens": [6, 2, 2]}
)


def test_by_hand() -> None:
    found = coactivation_table(PAIRS, USAGE, TOKENS)
    assert found.columns == [
        "layer",
        "expert_a",
        "expert_b",
        "num_tokens",
        "expected_tokens",
        "lift",
    ]
    # distance: (2,3) 1.2/sqrt.8, (1,2) 2.4/sqrt2.4, (0,3) sqrt1.6, (1,3) sqrt1.2, ...
    assert found.select("expert_a", "expert_b").rows() == [
        (1, 2), (2, 3), (0, 3), (1, 3), (0, 2), (0, 1),
    ]  # fmt: skip
    assert found["num_tokens"].to_list() == [0, 2, 0, 0, 2, 6]
    assert found["expected_tokens"].to_list() == pytest.approx([2.4, 0.8, 1.6, 1.2, 3.2, 4.8])
    assert found["lift"].to_list() == pytest.approx([0, 2.5, 0, 0, 0.625, 1.25])


def test_only_the_pairs_that_stand_out() -> None:
    found = coactivation_table(PAIRS, USAGE, TOKENS, num_pairs=2)
    assert found.select("expert_a", "expert_b").rows() == [(1, 2), (2, 3)]


def test_usage_of_documents_is_summed() -> None:
    parts = pl.concat([USAGE, USAGE]).with_columns(num_tokens=pl.col("num_tokens") // 2)
    assert coactivation_table(PAIRS, parts, TOKENS).equals(coactivation_table(PAIRS, USAGE, TOKENS))


def test_scale() -> None:
    ten = pl.col("num_tokens") * 10
    found = coactivation_table(*(t.with_columns(ten) for t in (PAIRS, USAGE, TOKENS)))
    assert found["lift"].to_list() == coactivation_table(PAIRS, USAGE, TOKENS)["lift"].to_list()


def test_more_usage_than_tokens() -> None:
    with pytest.raises(ValueError, match="layer 2: an expert was chosen by more than the 4 tokens"):
        coactivation_table(PAIRS, USAGE, TOKENS[:1])
