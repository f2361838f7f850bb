"""What differs between two runs, on the page of a comparison."""

from __future__ import annotations

import polars as pl

from moe_lens.report import figures
from moe_lens.report.figures.base import ALL, number, percent
from moe_lens.report.findings import interval
from moe_lens.report.section import Figure, Section, everything


def _identity(frame: pl.DataFrame) -> str:
    above = frame.filter(pl.col("correlation") > pl.col("shuffled_high")).height
    mean = round(float(frame["correlation"].mean()), 2) + 0.0  # type: ignore[arg-type]
    same = above > frame.height / 2
    return (
        f"In {above} of {frame.height} layers, experts of the same number are used more alike in A "
        f"and B than renumbered ones (mean correlation {mean:.2f}): "
        + (
            "they can be compared one by one."
            if same
            else "that expert e of A is expert e of B is not supported, and differences between "
            "single experts below mean little."
        )
    )


def _changes(frame: pl.DataFrame) -> str:
    counts = dict(frame["verdict"].value_counts().iter_rows())
    order = [pl.col("difference").abs().round_sig_figs(9), -pl.col("layer"), -pl.col("expert")]
    top = frame.sort(order, descending=True, nulls_last=True).row(0, named=True)
    return (
        f"Of {frame.height:,} combinations of domain, layer and expert, {counts.get('higher', 0):,}"
        f" are chosen more often in B and {counts.get('lower', 0):,} less often, corrected for "
        f"the number of tests. The largest difference: expert {top['expert']} of layer "
        f"{top['layer']} on {top['domain']}, {percent(top['rate_a'])} of the tokens in A and "
        f"{percent(top['rate_b'])} in B."
    )


def _concentration(frame: pl.DataFrame) -> str:
    means = {side: _mean_part(frame, side) for side in "ab"}
    fewer = frame.filter(pl.col("n50_share_difference") < 0).height
    return (
        f"Half of the decisions take {percent(means['a'])} of the experts in A and "
        f"{percent(means['b'])} in B (means over domains and layers; uniform use takes 50 %); in "
        f"{fewer} of {frame.height} domains and layers B is the more concentrated."
    )


def _mean_part(frame: pl.DataFrame, side: str) -> float:
    part = pl.col(f"n50_experts_{side}") / (2 * pl.col(f"n50_experts_uniform_{side}"))
    return float(frame.select(part.mean()).item())


def _costs(frame: pl.DataFrame) -> str:
    pooled = frame.filter(pl.col("domain") == ALL)
    row = (pooled if pooled.height else frame).sort("k", maintain_order=True).row(0, named=True)
    where = "over all domains" if row["domain"] == ALL else f"on {row['domain']}"
    return (
        f"With {row['k']} active expert{'s' if row['k'] > 1 else ''}, perplexity {where} is "
        f"{number(row['ratio_tokens_a'])} times the full model's in A and "
        f"{number(row['ratio_tokens_b'])} times in B: B over A is {number(row['change'])}"
        f"{interval(row['change_low'], row['change_high'], number)}."
    )


def _largest_changes(frame: pl.DataFrame) -> pl.DataFrame:
    far = pl.col("difference").abs().round_sig_figs(9).alias("_far")
    order = [pl.col("_far"), -pl.col("layer"), -pl.col("expert")]
    ordered = frame.with_columns(far).sort(order, descending=True, nulls_last=True)
    return ordered.drop("_far")


IDENTITY = Figure(
    "compared_identity",
    "compared_identity",
    "Are they the same experts?",
    "A tune keeps its base's experts; two models trained apart number theirs by chance. Where the "
    "blue line is inside the grey control, expert e of A and expert e of B have nothing but "
    "their number in common.",
    figures.compared_identity,
    _identity,
    everything,
)
CHANGES = Figure(
    "compared_specialization",
    "compared_specialization",
    "Which experts changed their work?",
    "One map for each domain: the share of its tokens that each expert gets in B, less that in A.",
    figures.compared_specialization,
    _changes,
    _largest_changes,
    canvas=True,
)
CONCENTRATION = Figure(
    "compared_concentration",
    "compared_concentration",
    "Which is the more concentrated?",
    "The smallest part of a layer's experts that takes half of its decisions. It can be compared "
    "between models of any number of experts.",
    figures.compared_concentration,
    _concentration,
    everything,
)
COSTS = Figure(
    "compared_perplexity",
    "compared_perplexity",
    "Which loses more with fewer active experts?",
    "Each model with its k highest-weighted experts, against itself with all of them.",
    figures.compared_perplexity,
    _costs,
    everything,
)

SECTION = Section(
    anchor="compared",
    heading="What differs?",
    lead="Two runs on the same text, called A and B; which is which stands at the top of the page. "
    "Differences are B less A.",
    parts=(IDENTITY, CHANGES, CONCENTRATION, COSTS),
)
