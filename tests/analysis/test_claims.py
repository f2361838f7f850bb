from __future__ import annotations

import polars as pl
import pytest

from moe_lens.analysis.claims import (
    claims_table,
    few_experts,
    highest_similarity,
    rank1_decodes_layer,
    similar_states,
    single_expert_cost,
    specialized_experts,
)
from moe_lens.analysis.judging import Measure, above, below, closes

Ends = tuple[float, float | None, float | None]


def costs(
    *rows: tuple[int, float, float | None, float | None], renorm: str = "native"
) -> pl.DataFrame:
    return pl.DataFrame(
        [("all", k, renorm, *ends) for k, *ends in rows],
        schema={
            "domain": pl.String,
            "k": pl.Int64,
            "renorm": pl.String,
            "ratio_tokens": pl.Float64,
            "ratio_tokens_low": pl.Float64,
            "ratio_tokens_high": pl.Float64,
        },
        orient="row",
    )


def n50s(*rows: Ends) -> pl.DataFrame:
    names = ("n50_experts", "n50_experts_low", "n50_experts_high")
    table = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.Float64), orient="row")
    return table.with_columns(n50_experts_uniform=pl.lit(32.0))


def cosines(one: list[Ends], alone: list[Ends]) -> pl.DataFrame:
    rows = [
        ("d", layer, quantity, *ends)
        for quantity, values in (("cos_h1_hk", one), ("cos_resid_hk", alone))
        for layer, ends in enumerate(values)
    ]
    kinds = [pl.String, pl.Int64, pl.String, pl.Float64, pl.Float64, pl.Float64]
    names = ("domain", "layer", "quantity", "mean", "mean_low", "mean_high")
    return pl.DataFrame(rows, schema=dict(zip(names, kinds, strict=True)), orient="row")


def agreements(one: Ends, alone: Ends) -> pl.DataFrame:
    names = ("state", "agree_layer", "agree_layer_low", "agree_layer_high")
    rows = [("rank1", *one), ("resid", *alone)]
    return pl.DataFrame(rows, schema=list(names), orient="row")


def experts(*rows: tuple[str, int, float, float | None, float | None]) -> pl.DataFrame:
    names = ("domain", "expert", "rate", "rate_low", "rate_high")
    kinds = [pl.String, pl.Int64, pl.Float64, pl.Float64, pl.Float64]
    table = pl.DataFrame(rows, schema=dict(zip(names, kinds, strict=True)), orient="row")
    return table.with_columns(layer=pl.lit(1), baseline=pl.lit(0.1))


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((1.04, 1.03, 1.05), "holds"),
        ((1.06, 1.04, 1.08), "cannot be told"),
        ((1.38, 1.30, 1.46), "does not hold"),
        ((1.38, None, None), "cannot be told"),
    ],
)
def test_single_expert_cost(ends: Ends, verdict: str) -> None:
    found = single_expert_cost(costs((1, *ends), (3, 1.05, 1.04, 1.06), (6, 1.0, 1.0, 1.0)))
    assert found is not None
    assert found.verdict == verdict
    assert (found.published, found.measured) == (1.05, ends[0])
    assert found.control == (1 if ends[0] < 1.055 else 3)


def test_the_sentence_of_a_cost() -> None:
    found = single_expert_cost(costs((1, 1.381, 1.30, 1.46), (3, 1.05, 1.04, 1.06), (6, 1.0, 1, 1)))
    assert found is not None
    assert found.sentence == (
        "With one active expert perplexity changes by +38.1 % (95 % interval +30.0 % to +46.0 %), "
        "published +5 %; the fewest active experts that cost at most 5 % are 3: the claim does "
        "not hold."
    )


def test_native_costs_come_first() -> None:
    both = pl.concat(
        [
            costs((1, 1.2, 1.1, 1.3), (6, 1.0, 1.0, 1.0), renorm="keep_mass"),
            costs((1, 1.4, 1.3, 1.5), (6, 1.0, 1.0, 1.0)),
        ]
    )
    found = single_expert_cost(both)
    assert found is not None
    assert found.measured == 1.4


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (((14.0, 13.0, 15.0), (16.0, 15.0, 17.0)), "holds"),
        (((14.0, 13.0, 15.0), (18.0, 16.0, 19.0)), "cannot be told"),
        (((18.0, 17.0, 20.0), (27.0, 26.0, 28.0)), "does not hold"),
        (((18.0, None, None),), "cannot be told"),
        (((14.0, 13.0, 15.0), (60.0, None, None)), "holds"),  # without an interval: left out
    ],
)
def test_few_experts(rows: tuple[Ends, ...], verdict: str) -> None:
    found = few_experts(n50s(*rows))
    assert found is not None
    assert (found.verdict, found.control) == (verdict, 32.0)


@pytest.mark.parametrize(
    ("one", "alone", "verdict"),
    [
        ((0.96, 0.955, 0.965), (0.90, 0.89, 0.905), "holds"),  # closes 60 %
        ((0.96, 0.955, 0.965), (0.95, 0.949, 0.951), "does not hold"),  # closes 20 %: residual
        ((0.96, 0.94, 0.98), (0.92, 0.91, 0.93), "cannot be told"),
        ((0.96, 0.955, 0.965), (0.90, None, None), "cannot be told"),
        ((0.96, None, None), (0.90, 0.89, 0.905), "cannot be told"),
    ],
)
def test_similar_states_and_rank1_need_more_than_the_residual(
    one: Ends, alone: Ends, verdict: str
) -> None:
    for found in (
        similar_states(cosines([one], [alone])),
        rank1_decodes_layer(agreements(one, alone)),
    ):
        assert found is not None
        assert (found.verdict, found.control) == (verdict, alone[0])
        assert found.control_name == "residual only"


def test_an_expert_that_leads_away_is_said_so() -> None:
    found = similar_states(cosines([(0.90, 0.89, 0.91)], [(0.95, 0.94, 0.96)]))
    assert found is not None
    assert found.verdict == "does not hold"
    assert "further away than the residual alone" in found.sentence


@pytest.mark.parametrize(
    ("one", "alone", "verdict"),
    [
        ((0.96, 0.95, 0.97), (0.90, 0.89, 0.91), "holds"),
        ((0.96, 0.95, 0.97), (0.955, 0.95, 0.96), "does not hold"),  # the residual does it
        ((0.92, 0.91, 0.93), (0.80, 0.79, 0.81), "does not hold"),
        ((0.95, 0.93, 0.97), (0.90, 0.89, 0.91), "cannot be told"),
        ((0.96, 0.95, 0.97), (0.944, 0.93, 0.96), "cannot be told"),
    ],
)
def test_highest_similarity(one: Ends, alone: Ends, verdict: str) -> None:
    low: Ends = (0.1, 0.1, 0.1)
    found = highest_similarity(cosines([low, one], [low, alone]))
    assert found is not None
    assert (found.verdict, found.measured, found.published) == (verdict, one[0], 0.95)
    assert "layer 1 on d" in found.sentence


@pytest.mark.parametrize(
    ("rows", "control", "verdict"),
    [
        (
            [("a", 0, 0.5, 0.45, 0.55), ("b", 0, 0.1, 0.05, 0.15), ("b", 1, 0.4, 0.35, 0.45)],
            0.1,
            "holds",
        ),
        ([("a", 0, 0.12, 0.1, 0.15)], 0.1, "does not hold"),
        ([("a", 0, 0.22, 0.15, 0.3)], 0.1, "cannot be told"),
        ([("a", 0, 0.5, None, None)], 0.1, "cannot be told"),
        # Busy in both domains alike: not specialised, however busy.
        ([("a", 0, 0.5, 0.45, 0.54), ("b", 0, 0.5, 0.45, 0.54)], 0.5, "cannot be told"),
    ],
)  # fmt: skip
def test_specialized_experts(
    rows: list[tuple[str, int, float, float | None, float | None]], control: float, verdict: str
) -> None:
    found = specialized_experts(experts(*rows))
    assert found is not None
    assert (found.verdict, found.control) == (verdict, pytest.approx(control))


def test_the_table() -> None:
    found = claims_table(
        perplexity=costs((1, 1.4, 1.3, 1.5), (6, 1.0, 1.0, 1.0)),
        concentration=n50s((18.0, 17.0, 20.0)),
        similarity=cosines([(0.96, 0.955, 0.965)], [(0.90, 0.89, 0.905)]),
        lens=agreements((0.6, 0.5, 0.7), (0.5, 0.4, 0.6)),
        specialization=experts(("a", 0, 0.5, 0.45, 0.55)),
    )
    assert found.columns == [
        "claim",
        "statement",
        "published",
        "measured",
        "measured_low",
        "measured_high",
        "control",
        "control_name",
        "verdict",
        "sentence",
    ]
    assert found["claim"].to_list() == [
        "specialized_experts",
        "few_experts",
        "rank1_decodes_layer",
        "similar_states",
        "highest_similarity",
        "single_expert_cost",
    ]
    assert found["sentence"].str.contains("nan|None|null").sum() == 0
    assert found["sentence"].str.ends_with(".").all()


def test_missing_tables_leave_their_claims_out() -> None:
    assert claims_table().is_empty()
    assert claims_table(concentration=n50s((18.0, 17.0, 20.0)))["claim"].to_list() == [
        "few_experts"
    ]
    empty = claims_table(
        perplexity=costs((6, 1.0, 1.0, 1.0)),  # k = 1 was not run
        concentration=n50s(),
        similarity=cosines([(0.9, 0.8, 1.0)], []),  # no control, no claim
        lens=agreements((0.6, 0.5, 0.7), (0.5, 0.4, 0.6))[:1],
        specialization=experts(),
    )
    assert empty.is_empty()


def test_intervals_decide() -> None:
    assert above(Measure(2.0, 1.0, 3.0), 1.0) == "holds"
    assert above(Measure(2.0, 1.0, 3.0), 3.0) == "cannot be told"
    assert above(Measure(2.0, 1.0, 3.0), 3.1) == "does not hold"
    assert below(Measure(2.0, 1.0, 3.0), 3.0) == "holds"
    assert below(Measure(2.0, 1.0, 3.0), 1.0) == "cannot be told"
    assert below(Measure(2.0, 1.0, 3.0), 0.9) == "does not hold"
    assert closes(Measure(0.8, 0.76, 0.9), Measure(0.5, 0.4, 0.51)) == "holds"
    assert closes(Measure(0.8, 0.74, 0.9), Measure(0.5, 0.4, 0.51)) == "cannot be told"
    assert closes(Measure(0.6, 0.5, 0.69), Measure(0.5, 0.4, 0.51)) == "does not hold"
