"""What the figures of a plan show, in a sentence or two from the data."""

from __future__ import annotations

import polars as pl

from moe_lens.report.figures.base import ALL, number, percent
from moe_lens.report.findings import interval


def simulation(frame: pl.DataFrame) -> str:
    """What the plan costs, and whether it beats its controls on the same documents."""
    domains = frame["domain"].unique(maintain_order=True).to_list()
    domain = ALL if ALL in domains else domains[0]
    here = frame.filter(pl.col("domain") == domain)
    plan = here.filter(pl.col("kind") == "plan").row(0, named=True)
    where = "over all domains" if domain == ALL else f"on {domain}"
    said = (
        f"Without the experts that go, perplexity {where} is {number(plan['loss_ratio'])} times "
        f"that of the full model"
        f"{interval(plan['loss_ratio_low'], plan['loss_ratio_high'], number)}."
    )
    for kind, words in (("frequency", "the most frequent experts"), ("random", "random experts")):
        controls = here.filter(pl.col("kind") == kind)
        if controls.height:
            said += f" {_beaten(controls, words)}"
    if (frame["text"] == "calibration").any():
        said += " This is the text that was scored: the loss on other text is larger."
    return said


def _beaten(controls: pl.DataFrame, words: str) -> str:
    """Whether the plan is better than every control of a kind."""
    low, high = controls["plan_ratio_low"], controls["plan_ratio_high"]
    if low.is_null().any() or high.is_null().any():
        return f"Whether that beats {words} cannot be told from so few documents."
    if (high < 1).all():
        return f"It beats {words}{_by(controls)}."
    if (low > 1).all():
        return f"It is worse than {words}{_by(controls)}."
    return f"Against {words} the difference cannot be told{_by(controls)}."


def _by(controls: pl.DataFrame) -> str:
    best = controls.sort("plan_ratio", descending=True).row(0, named=True)
    return (
        f" ({number(best['plan_ratio'])} times their perplexity, 95 % interval "
        f"{number(best['plan_ratio_low'])} to {number(best['plan_ratio_high'])}"
        f"{', the best draw' if controls.height > 1 else ''})"
    )


def plan(frame: pl.DataFrame) -> str:
    """How many experts stay, and how far that is the choice by frequency."""
    counts = frame.group_by("layer").agg(pl.col("kept").sum(), pl.len())
    kept_of = counts["kept"].to_list()
    low, high = min(kept_of), max(kept_of)
    kept = f"{low}" if low == high else f"{low} to {high}"
    said = (
        f"{kept} of {max(counts['len'].to_list())} experts stay in each of {counts.height} layers."
    )
    if frame["frequency_rank"].is_null().any():
        return said
    both = frame.join(counts.select("layer", count="kept"), on="layer").filter(
        (pl.col("kept") == 1) & (pl.col("frequency_rank") < pl.col("count"))
    )
    share = both.height / sum(kept_of)
    chance = float((counts["kept"] ** 2 / counts["len"]).sum()) / float(counts["kept"].sum())
    return (
        f"{said} {percent(share, 0)} of them are also among the most frequent; chance would give "
        f"{percent(chance, 0)}."
    )
