"""Sentences on tables small enough to read by eye."""

from __future__ import annotations

import polars as pl

from moe_lens.report import figures, findings
from moe_lens.report.grid import read_grid
from moe_lens.report.words import cell, flatten, model_name, visible
from tests.report.conftest import small_tables
from tests.report.synthetic import claims


def rates(**columns: object) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "domain": ["code", "code", "prose", "prose"],
            "layer": [3, 3, 3, 3],
            "expert": [0, 1, 0, 1],
            "rate": [0.75, 0.25, 0.5, 0.5],
            "rate_low": [0.7, 0.2, 0.4, 0.4],
            "rate_high": [0.8, 0.3, 0.6, 0.6],
            "baseline": [0.5] * 4,
            "verdict": ["above", "below", "not told", "not told"],
        }
        | columns
    )


def test_the_most_specialised_expert() -> None:
    assert findings.specialization(rates()) == (
        "The most specialised expert is number 0 of layer 3: it works on 75.0 % of the tokens of "
        "code (95 % interval 70.0 % to 80.0 %), where chance (k/N) is 50.0 %."
    )
    alone = findings.specialization(rates(rate_low=[None] * 4))
    assert "75.0 % of the tokens of code (too few documents for an interval)" in alone


def test_how_many_cells_differ_from_chance() -> None:
    assert findings.heatmap(rates()).startswith(
        "Of 4 combinations of domain, layer and expert, 1 (25 %) are chosen more often than chance "
        "and 1 (25 %) less often; for 2 it cannot be told."
    )


def test_concentration_names_both_ends() -> None:
    frame = pl.DataFrame(
        {
            "domain": ["a", "a", "b", "b"],
            "n50_experts": [2, 4, 6, 7],
            "n50_experts_uniform": [8.0] * 4,
        }
    )
    assert findings.concentration(frame) == (
        "Half of the decisions need 3 experts for a, the most concentrated domain, and 6.5 for b, "
        "the least; uniform use would need 8 (means over layers)."
    )


def test_information_counts_layers_above_the_control() -> None:
    frame = pl.DataFrame(
        {
            "layer": [0, 1],
            "information_bits": [0.1, 0.3],
            "shuffled_bits_mean": [0.09, 0.02],
            "shuffled_bits_high": [0.12, 0.04],
        }
    )
    assert findings.information(frame).startswith("In 1 of 2 layers")
    assert "the most in layer 1, 0.3 bits a token against 0.02 shuffled" in findings.information(
        frame
    )


def test_similarity_never_stands_without_its_control() -> None:
    frame = pl.DataFrame(
        {
            "domain": ["a", "a", "all"],
            "quantity": ["cos_h1_hk", "cos_resid_hk", "cos_h1_hk"],
            "mean": [0.98, 0.95, 0.1],
        }
    )
    assert findings.similarity(frame) == (
        "On average over domains and layers: the top expert with the residual stream has cosine "
        "0.980 with the whole layer; the residual stream with no expert at all has 0.950."
    )


def test_perplexity_names_the_fewest_experts_within_five_per_cent() -> None:
    frame = pl.DataFrame(
        {
            "domain": ["all"] * 3,
            "k": [1, 2, 3],
            "renorm": ["native"] * 3,
            "ratio_tokens": [1.4, 1.04, 1.0],
            "ratio_tokens_low": [1.3, 1.0, 1.0],
            "ratio_tokens_high": [1.5, 1.1, 1.0],
        }
    )
    assert findings.perplexity(frame) == (
        "With 1 active expert instead of 3, perplexity over all domains is 1.4 times that of the "
        "full model (95 % interval 1.3 to 1.5); to stay within 5 % takes 2 (weights: "
        "native)."
    )


def test_the_lens_names_its_control() -> None:
    frame = pl.DataFrame(
        {"domain": ["a", "a"], "state": ["rank1", "resid"], "agree_layer": [0.5, 0.25]}
    )
    assert findings.lens(frame, measure="agree_layer").endswith(
        "is 50.0 % for top expert + residual; 25.0 % for residual alone, no expert (control)."
    )


def test_claims_are_counted() -> None:
    assert findings.claims(claims()) == (
        "Of 5 claims of the paper, on this model and text 2 hold, 2 do not, and 1 cannot be told."
    )


def test_words_show_what_cannot_be_seen() -> None:
    assert visible(" a\n\t\x00") == "␣a⏎⇥␀"
    assert visible("") == "∅"
    assert "\u202e" not in visible("a\u202eb")
    assert [cell(v) for v in (None, 0.123456, 3, float("nan"), 2.5e9, "x")] == [
        "–", "0.1235", "3", "–", "2.5e+09", "x",
    ]  # fmt: skip
    assert flatten({"a": {"b": 1, "c": [2]}, "d": "e"}) == [
        ("a.b", "1"),
        ("a.c", "[2]"),
        ("d", "e"),
    ]
    assert model_name({"model": {"source": "x"}}) == "x"
    assert "does not name" in model_name({})


def test_a_grid_marks_the_word_of_the_layer() -> None:
    row = {
        "position": 0, "token": " a", "layer": 1, "expert": None, "weight": None,
        "probability": 0.25, "next_tokens": ["b"], "next_probabilities": [0.25],
    }  # fmt: skip
    grid = read_grid(
        pl.DataFrame(
            [
                row | {"state": "layer", "top_token": "b"},
                row | {"state": "rank1", "top_token": "b", "expert": 5, "weight": 0.5},
                row | {"state": "resid", "top_token": "c"},
            ],
            schema_overrides={"expert": pl.Int64, "weight": pl.Float64},
        )
    )
    assert [state for state, _ in grid.states] == ["layer", "resid", "rank1"]
    assert [grid.cells[0, 1, s].as_layer for s in ("layer", "resid", "rank1")] == [
        False, False, True,
    ]  # fmt: skip
    assert grid.cells[0, 1, "rank1"].note == "25 % · e5"
    assert grid.data()["cells"] == [
        [[[0, 0.25, None, None, [[0, 0.25]], 0], [1, 0.25, None, None, [[0, 0.25]], 0],
          [0, 0.25, 5, 0.5, [[0, 0.25]], 1]]]
    ]  # fmt: skip


def test_ratios_close_to_one_get_finer_ticks() -> None:
    for factor, ticks in ((1.0, {1.0, 1.02}), (3.0, {1.0, 1.25, 2.0})):
        frame = small_tables()["perplexity"].with_columns(
            pl.col("ratio_tokens") * 0 + factor,
            pl.col("ratio_tokens_low") * 0 + 1.0,
            pl.col("ratio_tokens_high") * 0 + factor + 0.05,
        )
        layers = figures.perplexity(frame).to_dict()["spec"]["layer"]
        axes = [layer["encoding"]["y"].get("axis", {}) for layer in layers]
        assert ticks <= set(next(axis["values"] for axis in axes if "values" in axis))


def test_the_stretched_curve_is_told_by_its_halves() -> None:
    rows = [
        ("x", 1, 1.0),
        ("x", 2, 0.6),
        ("x", 4, 0.0),
        ("y", 1, 0.0),
        ("y", 2, 1.0),
        ("y", 4, 0.5),
    ]
    frame = pl.DataFrame(rows, schema=["domain", "k", "minmax"], orient="row").with_columns(
        renorm=pl.lit("native")
    )
    assert findings.perplexity_minmax(frame) == (
        "In 1 of 2 domains the fewest experts are the worst; half of the way down to the best k is "
        "done with 1 to 4 active experts (weights: native)."
    )
    one_k = frame.with_columns(minmax=pl.lit(None, pl.Float64))
    assert "so there is no curve" in findings.perplexity_minmax(one_k)


def test_more_names_than_colours_still_look_different() -> None:
    names = [f"d{i}" for i in range(12)]
    table = small_tables(domains=names)["perplexity"]
    encoding = figures.perplexity_minmax(table).to_dict()["encoding"]
    looks = zip(
        encoding["color"]["scale"]["range"],
        map(tuple, encoding["strokeDash"]["scale"]["range"]),
        strict=True,
    )
    assert len(set(looks)) == 12 + 1  # all domains together, too
