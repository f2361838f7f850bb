"""The table of a simulation: worked by hand, and its refusals."""

from __future__ import annotations

import math

import polars as pl
import pytest

from moe_lens.analysis.simulation import simulation_table, text_of

KINDS = {"plan": "plan", "random:0": "random"}


def documents(**nll: list[float]) -> pl.DataFrame:
    """Six documents of 10 predicted tokens in two domains; losses by policy."""
    rows = [
        (policy.replace("_", ":"), "left" if i < 5 else "right", i, 10, value, value / 10, 7)
        for policy, values in nll.items()
        for i, value in enumerate(values)
    ]
    columns = ["policy", "domain", "document", "num_tokens", "nll_nats", "kl_nats"]
    return pl.DataFrame(rows, schema=[*columns, "num_top1_agree"], orient="row")


FOUND = documents(
    full=[10.0, 12.0, 14.0, 16.0, 18.0, 20.0],
    plan=[11.0, 13.0, 15.0, 17.0, 19.0, 26.0],
    random_0=[13.0, 15.0, 17.0, 19.0, 21.0, 20.0],
)
TEXT = {"all": "mixed", "left": "held-out", "right": "other domain"}


def test_ratios_worked_by_hand() -> None:
    """In `left` the plan loses 1 nat on each 10 tokens, a random choice 3."""
    table = simulation_table(FOUND, kinds=KINDS, text=TEXT)
    assert table["domain"].unique(maintain_order=True).to_list() == ["all", "left", "right"]
    row = {(r["policy"], r["domain"]): r for r in table.to_dicts()}
    left = row["plan", "left"]
    assert left["loss_ratio"] == pytest.approx(math.exp(0.1))
    assert left["loss_ratio_low"] == pytest.approx(math.exp(0.1))  # all documents agree
    assert row["random:0", "left"]["loss_ratio"] == pytest.approx(math.exp(0.3))
    assert row["random:0", "left"]["plan_ratio"] == pytest.approx(math.exp(-0.2))
    assert row["plan", "all"]["loss_ratio"] == pytest.approx(math.exp((5 * 1 + 6) / 60))
    assert row["full", "all"]["loss_ratio"] == row["plan", "all"]["plan_ratio"] == 1.0
    assert row["plan", "right"]["loss_ratio_low"] is None  # one document tells no interval
    assert row["plan", "left"]["nll_nats"] == pytest.approx(1.5)
    assert row["plan", "left"]["kl_nats"] == pytest.approx(0.15)
    assert row["plan", "left"]["agreement"] == pytest.approx(0.7)
    assert [row[p, "left"]["kind"] for p in ("full", *KINDS)] == ["full", "plan", "random"]
    assert row["plan", "right"]["text"] == "other domain"


def test_policies_must_have_seen_the_same_tokens() -> None:
    with pytest.raises(ValueError, match="document 5: policies saw different tokens of it"):
        simulation_table(FOUND.head(17), kinds=KINDS, text=TEXT)
    wrong = FOUND.with_columns(
        num_tokens=pl.when(pl.col("document") == 2)
        .then(pl.col("nll_nats").cast(pl.Int64))
        .otherwise(10)
    )
    with pytest.raises(ValueError, match="document 2: policies saw different tokens of it"):
        simulation_table(wrong, kinds=KINDS, text=TEXT)
    with pytest.raises(ValueError, match="a domain is named 'all'"):
        simulation_table(FOUND.with_columns(domain=pl.lit("all")), kinds=KINDS, text=TEXT)


def test_what_the_text_is_to_the_plan() -> None:
    assert text_of(["a", "b"], scored=["a"], same_text=False) == {
        "all": "mixed",
        "a": "held-out",
        "b": "other domain",
    }
    assert text_of(["a"], scored=["a", "b"], same_text=True) == {
        "all": "calibration",
        "a": "calibration",
    }
