"""What each expert is worth: scores, how long they last, and what ablation says."""

from __future__ import annotations

import polars as pl

from moe_lens.analysis.importance import criteria_agreement
from moe_lens.report import figures
from moe_lens.report.figures.base import ALL, number, percent
from moe_lens.report.figures.scores import PRUNED_SHARE
from moe_lens.report.findings import interval
from moe_lens.report.section import Figure, Section, columns, everything


def _agreement(frame: pl.DataFrame) -> str:
    pairs = criteria_agreement(frame).filter(pl.col("criterion_a") != pl.col("criterion_b"))
    told = pairs.drop_nulls("spearman").sort("spearman", "criterion_a", "criterion_b")
    if told.is_empty():
        return "There is no second criterion to compare with."
    low, high = told.row(0, named=True), told.row(-1, named=True)
    return (
        f"{high['criterion_a']} and {high['criterion_b']} rank experts most alike (Spearman "
        f"{high['spearman']:.2f}, mean over layers), {low['criterion_a']} and "
        f"{low['criterion_b']} least ({low['spearman']:.2f})."
    )


def _stability(frame: pl.DataFrame) -> str:
    shown = frame.filter((pl.col("pruned_share") == PRUNED_SHARE) & (pl.col("domain_a") != ALL))
    same = shown.filter(pl.col("domain_a") == pl.col("domain_b"))
    other = shown.filter(pl.col("domain_a") != pl.col("domain_b"))
    chance = percent(float(shown["overlap_uniform"].mean() or 0), 0)  # type: ignore[arg-type]
    said = []
    for part, words in ((same, "halves of one domain"), (other, "two domains")):
        means = part.group_by("criterion", maintain_order=True).agg(pl.col("overlap").mean())
        means = means.sort("overlap", "criterion")
        if means.height:
            low, high = means.row(0), means.row(-1)
            said.append(
                f"{words} keep {percent(low[1], 0)} ({low[0]}) to {percent(high[1], 0)} "
                f"({high[0]}) of the experts in common"
            )
    return f"With a quarter pruned, {'; '.join(said)}; two random choices {chance}."


def _causal(frame: pl.DataFrame) -> str:
    kind = "drop" if "drop" in set(frame["ablation"]) else frame["ablation"][0]
    shown = frame.filter((pl.col("domain") == ALL) & (pl.col("ablation") == kind))
    told = shown.drop_nulls("own_nats").sort("own_nats", "layer", "expert")
    if told.is_empty():
        return "None of the ablated experts was chosen in this text."
    hurts = told.filter(pl.col("own_nats_low") > 0).height
    helps = told.filter(pl.col("own_nats_high") < 0).height
    top = told.row(-1, named=True)
    beyond = frame.filter(
        (pl.col("domain") == ALL)
        & (pl.col("ablation") == "drop_over_random")
        & (pl.col("own_nats_low") > 0)
    ).height
    control = (
        f" {beyond} do more than another of the same tokens' experts does (interval above 0)."
        if "drop_over_random" in set(frame["ablation"])
        else ""
    )
    return (
        f"Of {told.height} experts, taking one away ({kind}) raises the loss at its own tokens "
        f"for {hurts} (95 % interval above 0) and lowers it for {helps}; chance alone would give "
        f"about {number(0.025 * told.height, 2)} of each.{control} The largest: expert "
        f"{top['expert']} of layer {top['layer']}, {number(top['own_nats'])} nats"
        f"{interval(top['own_nats_low'], top['own_nats_high'], number)}."
    )


def _prediction(frame: pl.DataFrame) -> str:
    first = frame["ablation"][0]
    shown = frame.filter(
        (pl.col("ablation") == first) & pl.col("layer").is_null() & (pl.col("effect") == "text")
    )
    real = shown.filter(~pl.col("criterion").is_in(["random", "other_half"]))
    told = real.filter(pl.col("spearman_low") > 0).sort("spearman", descending=True)
    half = shown.filter(pl.col("criterion") == "other_half")["spearman"].to_list()
    ceiling = (
        f" The effect itself agrees with its own value on other documents at "
        f"{half[0]:.2f}; nothing can be expected to do much better."
        if half and half[0] is not None
        else ""
    )
    if told.is_empty():
        return (
            f"None of {real.height} criteria foretells the change of loss over the text (no "
            f"interval above 0).{ceiling}"
        )
    names = ", ".join(f"{c} ({s:.2f})" for c, s in told.select("criterion", "spearman").iter_rows())
    return (
        f"{told.height} of {real.height} criteria foretell the change of loss over the text with "
        f"an interval above 0: {names}; chance alone would give {number(0.025 * real.height, 2)}."
        f"{ceiling}"
    )


def _effects(frame: pl.DataFrame) -> pl.DataFrame:
    kept = frame.filter(pl.col("domain") == ALL)
    order = [pl.col("text_nats").round_sig_figs(9), -pl.col("layer"), -pl.col("expert")]
    return kept.sort(order, descending=True, nulls_last=True).drop("domain")


AGREEMENT = Figure(
    "importance",
    "importance",
    "Do the criteria agree?",
    "Every criterion says which experts matter, from what the router and the experts did on the "
    "text. 1: the same order of experts; 0: orders that have nothing to do with each other.",
    figures.importance_agreement,
    _agreement,
    columns("domain", "layer", "expert", "criterion", "score", "num_tokens"),
)
STABILITY = Figure(
    "stability",
    "stability",
    "Would other text keep the same experts?",
    "Blue: the two halves of a domain's documents rank the experts apart. Orange: two domains do. "
    "Where orange is near the dashed line, what one domain can spare another cannot.",
    figures.stability,
    _stability,
    columns(
        "domain_a", "domain_b", "layer", "criterion", "pruned_share", "num_kept", "num_splits",
        "overlap", "overlap_uniform", "spearman",
    ),
)  # fmt: skip
CAUSAL = Figure(
    "causal",
    "causal",
    "What does an expert do where it was chosen?",
    "A sample of experts was taken, one at a time, from the tokens that chose them. Above the "
    "dashed line the loss there is higher without the expert. The control takes another of the "
    "same tokens' experts instead.",
    figures.causal,
    _causal,
    _effects,
)
PREDICTION = Figure(
    "prediction",
    "prediction",
    "Which criterion foretells it?",
    "A criterion that only looks is worth as much as it foretells of what taking the expert away "
    "does. Left of 0 it foretells the opposite. The last two rows are chance, and how well the "
    "effect foretells itself on other documents.",
    figures.prediction,
    _prediction,
    everything,
)

SECTION = Section(
    anchor="worth",
    heading="What is each expert worth?",
    lead="Scores of every expert, whether they would be the same on other text, and what taking "
    "an expert away really does.",
    parts=(AGREEMENT, STABILITY, CAUSAL, PREDICTION),
)
