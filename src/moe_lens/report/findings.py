"""What each figure shows, in a sentence or two from the data: its caption and its alt text."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from moe_lens.report.figures.base import ALL, number, percent
from moe_lens.report.figures.effect import LensMeasure, shown_states
from moe_lens.report.figures.routing import most_specialized


def specialization(frame: pl.DataFrame) -> str:
    """The most specialised expert, and how far above chance it is."""
    top = most_specialized(frame)
    rate, baseline = float(top["rate"]), float(top["baseline"])  # type: ignore[arg-type]
    return (
        f"The most specialised expert is number {top['expert']} of layer {top['layer']}: it works "
        f"on {percent(rate)} of the tokens of {top['domain']}"
        f"{interval(top['rate_low'], top['rate_high'], percent)}, where chance (k/N) is "
        f"{percent(baseline)}."
    )


def heatmap(frame: pl.DataFrame) -> str:
    """How many cells differ from chance, after the correction for their number."""
    counts = dict(frame["verdict"].value_counts().iter_rows())
    above, below = counts.get("above", 0), counts.get("below", 0)
    return (
        f"Of {frame.height:,} combinations of domain, layer and expert, {above:,} "
        f"({percent(above / frame.height, 0)}) are chosen more often than chance and {below:,} "
        f"({percent(below / frame.height, 0)}) less often; for "
        f"{frame.height - above - below:,} it cannot be told. Corrected for the number of tests."
    )


def concentration(frame: pl.DataFrame) -> str:
    """The most and the least concentrated domain, beside uniform use."""
    means = _mean_by(frame, "domain", "n50_experts")
    low, high = means.row(0), means.row(-1)
    uniform = number(_mean(frame, "n50_experts_uniform"))
    if means.height == 1:
        return (
            f"Half of the decisions for {low[0]} need {number(low[1])} experts, mean over layers; "
            f"uniform use would need {uniform}."
        )
    return (
        f"Half of the decisions need {number(low[1])} experts for {low[0]}, the most concentrated "
        f"domain, and {number(high[1])} for {high[0]}, the least; uniform use would need "
        f"{uniform} (means over layers)."
    )


def information(frame: pl.DataFrame) -> str:
    """In how many layers experts tell the domain better than shuffled labels do."""
    if frame["shuffled_bits_high"].is_null().all():
        return (
            "Whether experts tell the domain of a token better than shuffled labels do cannot be "
            "told: a domain has fewer than 5 documents, too few to shuffle."
        )
    told = frame.filter(pl.col("information_bits") > pl.col("shuffled_bits_high")).height
    top = frame.sort("information_bits", descending=True, nulls_last=True).row(0, named=True)
    return (
        f"In {told} of {frame.height} layers the experts of a token tell more about its domain "
        f"than shuffled labels do; the most in layer {top['layer']}, "
        f"{number(top['information_bits'])} bits a token against "
        f"{number(top['shuffled_bits_mean'])} shuffled."
    )


def overlap(frame: pl.DataFrame) -> str:
    """The two domains that share experts most, and least."""
    pairs = _mean_by(frame, ["domain_a", "domain_b"], "cosine")
    low, high = pairs.row(0), pairs.row(-1)
    if pairs.height == 1:
        return f"The usage of {high[0]} and {high[1]} has a cosine of {high[2]:.2f}."
    return (
        f"{high[0]} and {high[1]} use the experts most alike (cosine {high[2]:.2f}, mean over "
        f"layers), {low[0]} and {low[1]} least ({low[2]:.2f})."
    )


def similarity(frame: pl.DataFrame) -> str:
    """cos(H_1, H_k) beside the residual stream alone, a random expert, and the update alone."""
    means = dict(_mean_by(frame, "quantity", "mean").iter_rows())
    parts = {
        "cos_h1_hk": "the top expert with the residual stream has cosine {} with the whole layer",
        "cos_resid_hk": "the residual stream with no expert at all has {}",
        "cos_random_hk": "an expert that was not chosen {}",
        "cos_m1_mk": "without the residual stream, the top expert's update alone {}",
    }
    said = [text.format(f"{means[name]:.3f}") for name, text in parts.items() if name in means]
    if not said:
        return "None of the quantities that this figure compares is in the table."
    return f"On average over domains and layers: {'; '.join(said)}."


def perplexity(frame: pl.DataFrame) -> str:
    """What one active expert costs, and how many are needed to stay within 5 per cent."""
    modes = frame["renorm"].unique(maintain_order=True).to_list()
    mode = "native" if "native" in modes else modes[0]
    chosen = frame.filter(pl.col("renorm") == mode)
    domains = chosen["domain"].unique(maintain_order=True).to_list()
    domain = ALL if ALL in domains else domains[0]
    curve = chosen.filter(pl.col("domain") == domain).sort("k")
    first, last = curve.row(0, named=True), curve.row(-1, named=True)
    where = "over all domains" if domain == ALL else f"on {domain}"
    near = curve.filter(pl.col("ratio_tokens") <= 1.05)["k"]
    fewest = f"; to stay within 5 % takes {near[0]}" if near.len() else ""
    return (
        f"With {first['k']} active expert{'s' if first['k'] > 1 else ''} instead of {last['k']}, "
        f"perplexity {where} is {number(first['ratio_tokens'])} times that of the full model"
        f"{interval(first['ratio_tokens_low'], first['ratio_tokens_high'], number)}{fewest} "
        f"(weights: {mode})."
    )


def perplexity_minmax(frame: pl.DataFrame) -> str:
    """Where half of the fall from the worst k to the best is done."""
    modes = frame["renorm"].unique(maintain_order=True).to_list()
    mode = "native" if "native" in modes else modes[0]
    curves = frame.filter((pl.col("renorm") == mode) & pl.col("minmax").is_not_null())
    if curves.is_empty():
        return "Only one number of active experts was run, so there is no curve."
    curves = curves.filter(pl.col("domain") != ALL) if (curves["domain"] != ALL).any() else curves
    worst = curves.filter((pl.col("minmax") == 1) & (pl.col("k") == pl.col("k").min())).height
    halved = curves.filter(pl.col("minmax") <= 0.5).group_by("domain").agg(pl.col("k").min())
    ks = sorted(halved["k"].to_list())
    span = f"{ks[0]}" if ks[0] == ks[-1] else f"{ks[0]} to {ks[-1]}"
    return (
        f"In {worst} of {curves['domain'].n_unique()} domains the fewest experts are the "
        f"worst; half of the way down to the best k is done with {span} active experts "
        f"(weights: {mode})."
    )


def lens(frame: pl.DataFrame, *, measure: LensMeasure) -> str:
    """The top expert with the residual stream against the residual-only control."""
    means = dict(_mean_by(frame, "state", measure).iter_rows())
    words = shown_states(list(means), measure)
    show = percent if measure.startswith("agree") else _nats
    what = {
        "agree_layer": "the share of positions with the layer's own top word",
        "agree_output": "the share of positions with the model's own top word",
        "kl_output_nats": "KL to the model's output",
        "logprob_true_nats": "log-probability of the true next token",
    }[measure]
    said = [f"{show(means[state])} for {_control_last(text)}" for state, text in words.items()]
    if not said:
        return "None of the states that this figure compares is in the table."
    return f"On average over domains and layers, {what} is {'; '.join(said)}."


def claims(frame: pl.DataFrame) -> str:
    """How many claims hold, do not, and cannot be told."""
    counts = dict(frame["verdict"].value_counts().iter_rows())
    return (
        f"Of {frame.height} claims of the paper, on this model and text {counts.get('holds', 0)} "
        f"hold{'s' if counts.get('holds', 0) == 1 else ''}, {counts.get('does not hold', 0)} "
        f"do{'es' if counts.get('does not hold', 0) == 1 else ''} not, and "
        f"{counts.get('cannot be told', 0)} cannot be told."
    )


def interval(low: object, high: object, show: Callable[[float], str]) -> str:
    """' (95 % interval 1 to 2)', or that there is none."""
    if not isinstance(low, float | int) or not isinstance(high, float | int):
        return " (too few documents for an interval)"
    return f" (95 % interval {show(low)} to {show(high)})"


def _control_last(text: str) -> str:
    """'control: x' as 'x (control)'."""
    bare = text.removeprefix("control: ")
    return bare if bare == text else f"{bare} (control)"


def _nats(value: float) -> str:
    return f"{number(value)} nats"


def _mean(frame: pl.DataFrame, column: str) -> float | None:
    return frame.select(pl.col(column).cast(pl.Float64).mean()).item()  # type: ignore[no-any-return]


def _mean_by(frame: pl.DataFrame, names: str | list[str], column: str) -> pl.DataFrame:
    """Means over everything but `names`, rising; without the rows of all domains together."""
    if "domain" in frame.columns and (frame["domain"] != ALL).any():
        frame = frame.filter(pl.col("domain") != ALL)
    return (
        frame.group_by(names, maintain_order=True)
        .agg(pl.col(column).cast(pl.Float64).mean())
        .drop_nulls()
        .sort(column, maintain_order=True)
    )
