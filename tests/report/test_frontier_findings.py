"""Sentences on a frontier small enough to read by eye."""

from __future__ import annotations

import polars as pl

from moe_lens.report import frontier_findings as findings


def policies(**columns: object) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "policy": ["full", "k:2", "k:1", "min-p:0.5"],
            "family": ["full", "k", "k", "min-p"],
            "domain": ["all"] * 4,
            "mean_k": [3.0, 2.0, 1.0, 1.5],
            "loss_ratio": [1.0, 1.005, 1.2, 1.004],
            "loss_ratio_high": [1.0, 1.008, 1.3, 1.009],
            "distinct_experts_measured": [20.0, 15.0, 8.0, 16.0],
        }
        | columns
    )


def test_the_fewest_experts_that_are_enough() -> None:
    assert findings.frontier(policies()) == (
        "Over all domains, where the full model uses 3 experts: to lose less than 1 %, interval "
        "included, 1.5 experts do, under min-p:0.5 (the same k everywhere: 2); to lose less than "
        "5 %, interval included, 1.5 experts do, under min-p:0.5 (the same k everywhere: 2)."
    )
    unsure = policies(loss_ratio_high=[None] * 4)
    assert "no policy is sure to lose less than 1 %" in findings.frontier(unsure)
    assert findings.frontier_reads(policies()) == (
        "A step of the full model reads 20 experts of a layer; 15 under k:2, the fewest of a "
        "policy that loses less than 1 %, interval included."
    )
    assert "raise the tokens of a batch" in findings.frontier_reads(
        policies(distinct_experts_measured=pl.Series([None] * 4, dtype=pl.Float64))
    )
