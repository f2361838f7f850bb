"""How well scores foretell effects: known answers, and intervals that cover."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from moe_lens.analysis.causal import CHANGES_SCHEMA, TEXT_SCHEMA
from moe_lens.analysis.prediction import prediction_table

NUM_DOCUMENTS = 12


def importance(scores: dict[str, dict[tuple[int, int], float]]) -> pl.DataFrame:
    rows = [
        {"domain": "all", "layer": layer, "expert": e, "criterion": name, "score": s}
        for name, values in scores.items()
        for (layer, e), s in values.items()
    ]
    return pl.DataFrame(rows)


def tables(
    effect: dict[tuple[int, int], float], noise: float = 0.0, seed: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Every document has ten tokens of every expert; the text has a hundred predictions each."""
    draw = np.random.default_rng(seed)
    rows = []
    for (layer, expert), mean in effect.items():
        for document in range(NUM_DOCUMENTS):
            value = 10 * mean + noise * draw.normal()
            rows.append((layer, expert, "drop", document, 10, value, 2 * value))
    text = [("a", d, 100, 300.0) for d in range(NUM_DOCUMENTS)]
    return (
        pl.DataFrame(rows, schema=CHANGES_SCHEMA, orient="row"),
        pl.DataFrame(text, schema=TEXT_SCHEMA, orient="row"),
    )


def test_known_correlations() -> None:
    places = [(layer, e) for layer in (1, 2) for e in range(6)]
    effect = {(layer, e): e + 10.0 * layer for layer, e in places}
    mixed = [2.0, 0, 1, 3, 5, 4]
    scores = {
        "same": {place: effect[place] * 3 for place in places},
        "opposite": {place: -effect[place] for place in places},
        "by_layer": {(layer, e): float(layer) for layer, e in places},
        "mixed": {(layer, e): mixed[e] - 100.0 * layer for layer, e in places},
    }
    table = prediction_table(importance(scores), *tables(effect), seed=0)
    rows = table.filter(pl.col("effect") == "own")
    overall = {r["criterion"]: r for r in rows.filter(pl.col("layer").is_null()).to_dicts()}
    assert list(overall) == ["same", "opposite", "by_layer", "mixed", "random", "other_half"]
    assert overall["same"]["spearman"] == pytest.approx(1.0)
    assert overall["opposite"]["spearman"] == pytest.approx(-1.0)
    assert overall["by_layer"]["spearman"] is None  # within a layer it says nothing
    expected = stats.spearmanr(mixed, range(6)).statistic
    assert overall["mixed"]["spearman"] == pytest.approx(expected)
    assert overall["mixed"]["spearman_low"] < expected < overall["mixed"]["spearman_high"]
    assert overall["mixed"]["num_experts"] == 12
    one = rows.filter((pl.col("layer") == 2) & (pl.col("criterion") == "mixed")).row(0, named=True)
    assert one["spearman"] == pytest.approx(expected)
    assert one["num_experts"] == 6
    assert one["spearman_high"] - one["spearman_low"] > (
        overall["mixed"]["spearman_high"] - overall["mixed"]["spearman_low"]
    )
    assert overall["other_half"]["spearman"] == pytest.approx(1.0)  # no noise


def test_few_experts_tell_no_interval() -> None:
    effect = {(1, e): float(e) for e in range(3)}
    scores = {"same": effect}
    table = prediction_table(importance(scores), *tables(effect), seed=0)
    row = table.filter((pl.col("criterion") == "same") & pl.col("layer").is_null()).row(
        0, named=True
    )
    assert row["spearman"] == pytest.approx(1.0)
    assert row["spearman_low"] is None


def test_effects_that_are_noise_do_not_agree_with_themselves() -> None:
    effect = {(1, e): 0.0 for e in range(30)}
    found = prediction_table(importance({"any": effect}), *tables(effect, noise=1.0), seed=0)
    halves = found.filter(pl.col("criterion") == "other_half")["spearman"].to_list()
    assert all(abs(value) < 0.35 for value in halves)


def test_intervals_cover_the_correlation_of_all_experts() -> None:
    """A population of 2,000 experts with noisy effects; samples of 24; 95 % within 4 points."""
    draw = np.random.default_rng(5)
    score = draw.normal(size=2000)
    effect = 0.5 * score + draw.normal(size=2000)
    truth = float(stats.spearmanr(score, effect).statistic)
    covered = 0
    num = 200
    for trial in range(num):
        chosen = draw.choice(2000, size=24, replace=False)
        there = {(1, int(e)): float(effect[e]) for e in chosen}
        scores = {"score": {(1, int(e)): float(score[e]) for e in chosen}}
        table = prediction_table(importance(scores), *tables(there, 0.1, trial), seed=trial)
        row = table.filter(
            (pl.col("criterion") == "score")
            & (pl.col("effect") == "own")
            & pl.col("layer").is_null()
        ).row(0, named=True)
        covered += row["spearman_low"] <= truth <= row["spearman_high"]
    assert covered / num >= 0.91
