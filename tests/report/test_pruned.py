"""What is said of a plan is what its tables say, for better and for worse."""

from __future__ import annotations

import polars as pl
import pytest

from moe_lens.report import pruned
from tests.report.synthetic_pruning import pruning_tables


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    return pruning_tables(0, domains=("code", "prose"), layers=(1, 2), num_experts=8)


def edited(frame: pl.DataFrame, kind: str, **values: float | None) -> pl.DataFrame:
    return frame.with_columns(
        pl.when(pl.col("kind") == kind).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )


def test_a_plan_that_beats_its_controls(tables: dict[str, pl.DataFrame]) -> None:
    said = pruned.simulation(tables["simulation"])
    assert "Without the experts that go, perplexity over all domains is 1.05 times" in said
    assert "It beats the most frequent experts (0.93" in said
    assert "It beats random experts (0.8" in said
    assert "the best draw" in said
    assert "scored" not in said


def test_a_plan_that_does_not(tables: dict[str, pl.DataFrame]) -> None:
    table = tables["simulation"]
    worse = edited(table, "frequency", plan_ratio=1.2, plan_ratio_low=1.1, plan_ratio_high=1.3)
    assert "It is worse than the most frequent experts (1.2 times" in pruned.simulation(worse)
    open_ = edited(table, "random", plan_ratio=0.99, plan_ratio_low=0.9, plan_ratio_high=1.1)
    assert "Against random experts the difference cannot be told" in pruned.simulation(open_)
    few = edited(table, "random", plan_ratio_low=None)
    assert "beats random experts cannot be told from so few" in pruned.simulation(few)


def test_the_text_that_was_scored_is_named(tables: dict[str, pl.DataFrame]) -> None:
    flattered = tables["simulation"].with_columns(text=pl.lit("calibration"))
    assert "This is the text that was scored" in pruned.simulation(flattered)


def test_how_far_a_plan_is_the_choice_by_frequency() -> None:
    """Layer 1 keeps the two most frequent of four, layer 2 one of its two: 3 of 4."""
    frame = pl.DataFrame(
        {
            "layer": [1, 1, 1, 1, 2, 2, 2, 2],
            "expert": [0, 1, 2, 3] * 2,
            "kept": [1, 0, 1, 0, 1, 1, 0, 0],
            "frequency_rank": [0, 3, 1, 2, 0, 2, 1, 3],
        }
    )
    said = pruned.plan(frame)
    assert said.startswith("2 of 4 experts stay in each of 2 layers. 75 % of them are also among")
    assert said.endswith("chance would give 50 %.")
    unknown = frame.with_columns(frequency_rank=pl.lit(None, pl.Int64))
    assert pruned.plan(unknown) == "2 of 4 experts stay in each of 2 layers."
