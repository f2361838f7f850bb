"""The section about scores: its sentences say what the tables hold."""

from __future__ import annotations

import polars as pl
import pytest

from moe_lens.analysis.importance import criteria_agreement
from moe_lens.report import figures
from moe_lens.report.sections.worth import AGREEMENT, CAUSAL, PREDICTION, STABILITY

CAUSAL_COLUMNS = {
    "domain": "all", "num_documents": 9, "num_tokens": 90, "later_nats": 0.0, "text_nats": 0.001,
    "text_nats_low": 0.0, "text_nats_high": 0.002,
}  # fmt: skip


def importance(**scores: list[float]) -> pl.DataFrame:
    rows = [
        {"domain": "all", "layer": 1, "expert": e, "criterion": c, "score": s, "num_tokens": 5}
        for c, values in scores.items()
        for e, s in enumerate(values)
    ]
    return pl.DataFrame(rows)


def test_agreement_names_the_most_and_the_least_alike() -> None:
    frame = importance(reap=[1, 2, 3, 4], msan=[1, 2, 4, 3], aimer=[4, 3, 1, 2])
    pairs = {(a, b): s for a, b, s in criteria_agreement(frame).iter_rows()}
    assert len(pairs) == 9
    assert pairs["reap", "reap"] == 1
    assert pairs["reap", "msan"] == pairs["msan", "reap"] == pytest.approx(0.8)
    assert pairs["msan", "aimer"] == pytest.approx(-1.0)
    said = AGREEMENT.finding(frame)
    assert "reap and msan" in said or "msan and reap" in said
    assert "Spearman 0.80" in said
    assert "(-1.00)" in said
    alone = AGREEMENT.finding(importance(reap=[1, 2]))
    assert alone == "There is no second criterion to compare with."


def test_stability_tells_domains_apart() -> None:
    rows = [
        {"domain_a": a, "domain_b": b, "layer": 1, "criterion": c, "pruned_share": 0.25,
         "num_kept": 6, "num_splits": 7, "overlap": o, "overlap_uniform": 0.75, "spearman": 0.5}
        for a, b, c, o in (
            ("a", "a", "reap", 0.9), ("a", "a", "msan", 0.95), ("a", "b", "reap", 0.8),
            ("a", "b", "msan", 0.76), ("all", "all", "reap", 0.1),
        )
    ]  # fmt: skip
    assert STABILITY.finding(pl.DataFrame(rows)) == (
        "With a quarter pruned, halves of one domain keep 90 % (reap) to 95 % (msan) of the "
        "experts in common; two domains keep 76 % (msan) to 80 % (reap) of the experts in common; "
        "two random choices 75 %."
    )


def causal_rows(*rows: tuple[str, int, float, float | None, float | None]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {**CAUSAL_COLUMNS, "layer": 1, "expert": e, "ablation": how, "own_nats": v,
             "own_nats_low": low, "own_nats_high": high}
            for how, e, v, low, high in rows
        ]
    )  # fmt: skip


def test_ablations_are_counted_by_what_is_sure() -> None:
    frame = causal_rows(
        ("drop", 0, 0.2, 0.1, 0.3), ("drop", 1, 0.1, -0.1, 0.3), ("drop", 2, -0.2, -0.3, -0.1),
        ("random", 0, 0.0, -0.1, 0.1), ("drop_over_random", 0, 0.2, 0.1, 0.3),
    )  # fmt: skip
    assert CAUSAL.finding(frame) == (
        "Of 3 experts, taking one away (drop) raises the loss at its own tokens for 1 (95 % "
        "interval above 0) and lowers it for 1; chance alone would give about 0.075 of each. 1 do "
        "more than another of the same tokens' experts does (interval above 0). The largest: "
        "expert 0 of layer 1, 0.2 nats (95 % interval 0.1 to 0.3)."
    )
    few = causal_rows(("replace", 3, 0.2, None, None))
    assert "(too few documents for an interval)" in CAUSAL.finding(few)
    figures.causal(few)


def prediction_rows(*rows: tuple[str, float, float, float]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"ablation": "drop", "effect": "text", "layer": None, "criterion": c, "num_experts": 30,
             "spearman": s, "spearman_low": low, "spearman_high": high}
            for c, s, low, high in rows
        ],
        schema_overrides={"layer": pl.Int64},
    )  # fmt: skip


def test_prediction_says_none_where_none_does_and_names_the_ceiling() -> None:
    control = (("random", 0.1, 0.05, 0.4), ("other_half", 0.31, 0.2, 0.4))
    none = prediction_rows(("reap", 0.2, -0.1, 0.5), ("msan", -0.4, -0.6, -0.1), *control)
    assert PREDICTION.finding(none) == (
        "None of 2 criteria foretells the change of loss over the text (no interval above 0). The "
        "effect itself agrees with its own value on other documents at 0.31; nothing can be "
        "expected to do much better."
    )
    some = prediction_rows(("reap", 0.2, 0.1, 0.5), ("msan", 0.4, 0.1, 0.6), *control)
    assert PREDICTION.finding(some).startswith(
        "2 of 2 criteria foretell the change of loss over the text with an interval above 0: "
        "msan (0.40), reap (0.20); chance alone would give 0.05."
    )
