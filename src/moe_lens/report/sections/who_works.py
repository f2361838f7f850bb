"""Who works: which experts the router chooses."""

from __future__ import annotations

import polars as pl

from moe_lens.report import figures, findings
from moe_lens.report.section import Figure, Listing, Section, columns, everything

_MAX_PAIRS = 25


def _far_from_chance(frame: pl.DataFrame) -> pl.DataFrame:
    distance = (pl.col("rate") - pl.col("baseline")).abs()
    shown = ["domain", "layer", "expert", "rate", "rate_low", "rate_high", "baseline", "q_value"]
    order = [pl.col("_far"), -pl.col("layer"), -pl.col("expert")]
    return (
        frame.with_columns(distance.round_sig_figs(9).alias("_far"))
        .sort(order, descending=True, nulls_last=True, maintain_order=True)
        .select(*shown, "verdict")
    )


def _by_lift(frame: pl.DataFrame) -> pl.DataFrame:
    return (
        frame.sort("lift", descending=True, nulls_last=True, maintain_order=True)
        .select("layer", "expert_a", "expert_b", "num_tokens", "expected_tokens", "lift")
        .head(_MAX_PAIRS)
    )


SPECIALIZATION = Figure(
    "specialization",
    "specialization",
    "Which experts work for which text?",
    "Choose a domain and a layer, or select a cell in the map below. Each bar is the share of the "
    "domain's tokens that the router sent to the expert. If the router chose blindly, every bar "
    "would reach the dashed line, k chosen of N experts.",
    figures.specialization,
    findings.specialization,
    _far_from_chance,
)
HEATMAP = Figure(
    "heatmap",
    "specialization",
    "Where in the model are they?",
    "One map for each domain, one row for each layer, one column for each expert. Select a cell to "
    "see its layer in the figure above.",
    figures.heatmap,
    findings.heatmap,
    _far_from_chance,
    canvas=True,
)
CONCENTRATION = Figure(
    "concentration",
    "concentration",
    "How few experts do half of the work?",
    "n50 is the smallest number of experts that take half of a layer's decisions. Uniform use "
    "needs half of the experts.",
    figures.concentration,
    findings.concentration,
    columns(
        "domain", "layer", "n50_experts", "n50_experts_low", "n50_experts_high",
        "n50_experts_uniform", "entropy_normalized", "gini", "largest_specialization",
    ),
)  # fmt: skip
INFORMATION = Figure(
    "information",
    "information",
    "Do the experts know what the text is about?",
    "Mutual information between the domain of a token and its experts. Shuffling the domains of "
    "whole documents leaves only what chance gives: the grey control.",
    figures.information,
    findings.information,
    everything,
)
OVERLAP = Figure(
    "overlap",
    "overlap",
    "Which domains share their experts?",
    "Cosine between the usage of two domains, mean over layers. 1: the same experts, equally "
    "often.",
    figures.overlap,
    findings.overlap,
    everything,
)
COACTIVATION = Listing(
    "coactivation",
    "coactivation",
    "Which experts work together?",
    "Pairs that one token chose together far more often than if the two had been chosen "
    "independently. Lift is the ratio.",
    _by_lift,
)

SECTION = Section(
    anchor="who-works",
    heading="Who works?",
    lead="Which experts the router chooses, for each domain of text, and whether that is "
    "more than chance.",
    parts=(
        SPECIALIZATION,
        HEATMAP,
        CONCENTRATION,
        INFORMATION,
        OVERLAP,
        COACTIVATION,
    ),
    always=True,
)
