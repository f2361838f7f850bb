"""Agreement of rankings: by hand, and against scipy."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from moe_lens.analysis.ranks import spearman
from moe_lens.analysis.stability import kept, stability_table


def scores(domain: str, values: list[float], **more: int) -> pl.DataFrame:
    rows = [
        {"domain": domain, **more, "layer": 2, "expert": e, "reap": v} for e, v in enumerate(values)
    ]
    return pl.DataFrame(rows)


def test_a_case_by_hand() -> None:
    """Four experts, half pruned. Halves of a keep {0, 1} and {0, 2}; b keeps {2, 3}."""
    halves = pl.concat(
        [scores("a", [4, 3, 2, 1], split=0, half=0), scores("a", [4, 2, 3, 1], split=0, half=1)]
    )
    wholes = pl.concat(
        [scores("all", [1, 2, 3, 4]), scores("a", [8, 5, 5, 2]), scores("b", [1, 2, 3, 4])]
    )
    table = stability_table(halves, wholes, ["reap"]).filter(pl.col("pruned_share") == 0.5)
    same, other = table.to_dicts()
    assert (same["domain_a"], same["domain_b"], same["layer"]) == ("a", "a", 2)
    assert (same["num_kept"], same["num_splits"]) == (2, 1)
    assert (same["overlap"], same["overlap_uniform"]) == (0.5, 0.5)
    assert same["spearman"] == pytest.approx(0.8)
    assert (other["domain_a"], other["domain_b"]) == ("a", "b")
    assert other["overlap"] == 0.0  # a keeps 0 and, of the equal two, 1
    assert other["spearman"] == pytest.approx(stats.spearmanr([8, 5, 5, 2], [1, 2, 3, 4]).statistic)


def test_splits_are_averaged_and_a_constant_ranking_has_no_correlation() -> None:
    falling, rising = [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]
    pairs = [(falling, falling), (falling, rising), ([0.0] * 4, rising)]
    parts = [
        scores("a", left, split=index, half=0).vstack(scores("a", right, split=index, half=1))
        for index, (left, right) in enumerate(pairs)
    ]
    table = stability_table(pl.concat(parts), scores("a", [1, 2, 3, 4]), ["reap"])
    row = table.filter(pl.col("pruned_share") == 0.5).row(0, named=True)
    assert row["num_splits"] == 3
    assert row["spearman"] == pytest.approx(0.0)  # of 1 and -1
    assert row["overlap"] == pytest.approx((1 + 0 + 0) / 3)
    constant = stability_table(parts[2], scores("a", [1, 2, 3, 4]), ["reap"])
    assert constant["spearman"].to_list() == [None, None, None]


def test_splits_without_a_criterion_do_not_count() -> None:
    falling, rising = [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]
    known = [scores("a", v, split=0, half=h) for h, v in enumerate((falling, falling))]
    unknown = [
        scores("a", v, split=1, half=h).with_columns(reap=pl.lit(None, pl.Float64))
        for h, v in enumerate((falling, rising))
    ]
    table = stability_table(pl.concat([*known, *unknown]), scores("a", falling), ["reap"])
    assert set(table["num_splits"]) == {1}
    assert table["spearman"].to_list() == pytest.approx([1.0] * 3)


def test_spearman_equals_scipy_with_ties() -> None:
    draw = np.random.default_rng(0)
    left, right = draw.integers(0, 6, (20, 12)), draw.normal(size=(20, 12))
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(left, right, strict=True)]
    assert spearman(left.astype(float), right) == pytest.approx(expected)


def test_kept_takes_the_largest_and_of_equals_the_lower_id() -> None:
    found = kept(np.array([[1.0, 3, 3, 2], [5, 5, 5, 5]]), 2)
    assert found.tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]
