"""Every chart of the report: where its data is, what draws it, what to say about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import polars as pl

from moe_lens.report import figures, findings
from moe_lens.report.figures import Chart
from moe_lens.report.words import harmless


@dataclass(frozen=True)
class Figure:
    """One chart of the report.

    Attributes:
        name: Its file name and its anchor.
        table: The table it draws.
        heading: The question it answers.
        how_to_read: What a reader needs who has not read the paper.
        draw: Table to chart.
        find: Table to the sentence that says what is seen.
        excerpt: Table to the rows that are shown as a table, most telling first.
        canvas: Whether it has too many marks to be drawn as SVG elements.
    """

    name: str
    table: str
    heading: str
    how_to_read: str
    draw: Callable[[pl.DataFrame], Chart]
    find: Callable[[pl.DataFrame], str]
    excerpt: Callable[[pl.DataFrame], pl.DataFrame]
    canvas: bool = False

    def finding(self, frame: pl.DataFrame) -> str:
        """The sentence that says what is seen, safe to stand inside another text."""
        return harmless(self.find(frame))


def _columns(*names: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.select(names)


def _far_from_chance(frame: pl.DataFrame) -> pl.DataFrame:
    distance = (pl.col("rate") - pl.col("baseline")).abs()
    columns = ["domain", "layer", "expert", "rate", "rate_low", "rate_high", "baseline", "q_value"]
    order = [pl.col("_far"), -pl.col("layer"), -pl.col("expert")]
    return (
        frame.with_columns(distance.round_sig_figs(9).alias("_far"))
        .sort(order, descending=True, nulls_last=True, maintain_order=True)
        .select(*columns, "verdict")
    )


_LENS_STATES = (
    "At each layer a state is decoded as if it were the last one. The control is the residual "
    "stream without the layer's experts: only what lies above it is the experts' work."
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
    _columns(
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
    lambda frame: frame,
)
OVERLAP = Figure(
    "overlap",
    "overlap",
    "Which domains share their experts?",
    "Cosine between the usage of two domains, mean over layers. 1: the same experts, equally "
    "often.",
    figures.overlap,
    findings.overlap,
    lambda frame: frame,
)
SIMILARITY = Figure(
    "similarity",
    "similarity",
    "Is one expert as good as the layer?",
    "Cosine between two states: all chosen experts with the residual stream, and something "
    "smaller. The residual stream is in both and dominates, so a cosine near 1 says little until "
    "it is read against the controls: only the distance between the solid blue and the dashed "
    "grey line is the top expert's doing. Shared experts are left out on both sides.",
    figures.similarity,
    findings.similarity,
    _columns(
        "domain", "layer", "quantity", "mean", "mean_low", "mean_high", "p05", "p50", "p95"
    ),
)  # fmt: skip
LENS_AGREEMENT = Figure(
    "lens_agreement",
    "lens",
    "Does one expert say the same word as the layer?",
    _LENS_STATES,
    figures.lens,
    partial(findings.lens, measure="agree_layer"),
    _columns(
        "domain", "layer", "state", "num_tokens", "agree_layer", "agree_layer_low",
        "agree_layer_high", "agree_output", "agree_output_low", "agree_output_high",
    ),
)  # fmt: skip
LENS_KL = Figure(
    "lens_kl",
    "lens",
    "How far is each state from the model's answer?",
    "KL divergence from the model's final distribution to that of each state; 0 is the same. "
    + _LENS_STATES,
    partial(figures.lens, measure="kl_output_nats"),
    partial(findings.lens, measure="kl_output_nats"),
    _columns(
        "domain", "layer", "state", "num_tokens", "kl_output_nats", "kl_output_nats_low",
        "kl_output_nats_high", "logprob_true_nats", "rank_true_median",
    ),
)  # fmt: skip
PERPLEXITY = Figure(
    "perplexity",
    "perplexity",
    "What do fewer active experts cost?",
    "The model is run end to end with only its k highest-weighted experts. 1 is no loss; 1.05 is "
    "5 % more perplexity. The lines differ in what becomes of the weights that stay.",
    figures.perplexity,
    findings.perplexity,
    _columns(
        "domain", "k", "renorm", "num_documents", "num_tokens", "perplexity_tokens",
        "perplexity_mean", "perplexity_geometric", "ratio_tokens", "ratio_tokens_low",
        "ratio_tokens_high", "ratio_geometric", "minmax",
    ),
)  # fmt: skip

FIGURES = (
    SPECIALIZATION,
    HEATMAP,
    CONCENTRATION,
    INFORMATION,
    OVERLAP,
    SIMILARITY,
    LENS_AGREEMENT,
    LENS_KL,
    PERPLEXITY,
)
"""In the order of the report."""
