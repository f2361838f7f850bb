"""Changes of loss with their intervals: by hand, and the contrast with the control."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from moe_lens.analysis.causal import CHANGES_SCHEMA, TEXT_SCHEMA, causal_table
from moe_lens.analysis.intervals import means

TEXT = pl.DataFrame(
    [("a", d, 100, 250.0) for d in range(6)] + [("b", d, 50, 90.0) for d in range(6, 8)],
    schema=TEXT_SCHEMA,
    orient="row",
)


def changes(*rows: tuple[str, int, int, float, float]) -> pl.DataFrame:
    full = [(1, 5, how, document, n, own, text) for how, document, n, own, text in rows]
    return pl.DataFrame(full, schema=CHANGES_SCHEMA, orient="row")


def test_a_case_by_hand() -> None:
    """Two documents with 10 and 30 tokens of the expert; the other six have none."""
    table = causal_table(changes(("drop", 0, 10, 2.0, 2.5), ("drop", 6, 30, 1.0, 0.5)), TEXT)
    everything, a, b = (
        table.filter(pl.col("domain") == name).row(0, named=True) for name in ("all", "a", "b")
    )
    assert (everything["num_documents"], everything["num_tokens"]) == (2, 40)
    assert everything["own_nats"] == pytest.approx(3 / 40)
    assert everything["own_nats_low"] is None  # two documents tell no interval
    assert everything["later_nats"] == pytest.approx((3.0 - 3.0) / 40)
    assert everything["text_nats"] == pytest.approx(3 / 700)
    assert (a["num_tokens"], a["own_nats"]) == (10, pytest.approx(0.2))
    assert a["later_nats"] == pytest.approx(0.05)
    assert a["text_nats"] == pytest.approx(2.5 / 600)
    assert b["text_nats"] == pytest.approx(0.5 / 100)


def test_intervals_are_those_of_documents_and_count_the_ones_without_the_expert() -> None:
    rows = [("drop", d, 10 + d, 0.5 + d * 0.1, 0.6 + d * 0.2) for d in range(2, 8)]
    row = causal_table(changes(*rows), TEXT).filter(pl.col("domain") == "all").row(0, named=True)
    own = means(np.array([[r[3]] for r in rows]), np.array([float(r[2]) for r in rows]))
    assert row["own_nats_low"] == pytest.approx(own.low[0])
    assert row["own_nats_high"] == pytest.approx(own.high[0])
    text = np.array([[0.0], [0.0]] + [[r[4]] for r in rows])
    whole = means(text, np.array([100.0] * 6 + [50.0] * 2))
    assert row["text_nats_low"] == pytest.approx(whole.low[0])


def test_the_contrast_is_paired() -> None:
    table = causal_table(
        changes(
            ("drop", 0, 10, 2.0, 3.0),
            ("random", 0, 10, 1.5, 1.0),
            ("drop", 1, 10, 1.0, 1.0),
            ("random", 1, 10, 2.0, 2.0),
        ),
        TEXT,
    ).filter(pl.col("domain") == "all")
    assert table["ablation"].to_list() == ["drop", "random", "drop_over_random"]
    row = table.row(2, named=True)
    assert row["own_nats"] == pytest.approx((0.5 - 1.0) / 20)
    assert row["text_nats"] == pytest.approx((2.0 - 1.0) / 700)
