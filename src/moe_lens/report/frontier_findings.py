"""What the figures of a frontier show, in a sentence or two from the data."""

from __future__ import annotations

import polars as pl

from moe_lens.report.figures.base import ALL, number, percent


def frontier(frame: pl.DataFrame) -> str:
    """The fewest experts within 1 and 5 per cent, and what the same k everywhere needs for it."""
    domain = ALL if (frame["domain"] == ALL).any() else frame["domain"][0]
    here = frame.filter(pl.col("domain") == domain)
    most = here.select(pl.col("mean_k").max()).item()
    said = []
    for bound in (1.01, 1.05):
        enough = here.filter(pl.col("loss_ratio_high").fill_null(float("inf")) <= bound)
        if enough.is_empty():
            said.append(f"no policy is sure to lose less than {percent(bound - 1, 0)}")
            continue
        best = enough.sort("mean_k", "loss_ratio").row(0, named=True)
        plain = enough.filter(pl.col("family").is_in(["k", "full"])).sort("mean_k")
        beside = f" (the same k everywhere: {number(plain['mean_k'][0])})" if plain.height else ""
        said.append(
            f"to lose less than {percent(bound - 1, 0)}, interval included, "
            f"{number(best['mean_k'])} experts do, under {best['policy']}{beside}"
        )
    where = "Over all domains" if domain == ALL else f"On {domain}"
    return f"{where}, where the full model uses {number(most)} experts: {'; '.join(said)}."


def frontier_reads(frame: pl.DataFrame) -> str:
    """What the full model reads in a step, and the fewest within 1 per cent."""
    here = frame.filter(
        (pl.col("domain") == ALL) & pl.col("distinct_experts_measured").is_not_null()
    )
    if here.is_empty():
        return (
            "No batch held enough sequences for a decoding step, so what a step reads was not "
            "measured: raise the tokens of a batch."
        )
    full = here.filter(pl.col("family") == "full")["distinct_experts_measured"]
    whole = (
        f"A step of the full model reads {number(full[0])} experts of a layer"
        if len(full)
        else "The full model is not in the table"
    )
    near = here.filter(pl.col("loss_ratio_high").fill_null(float("inf")) <= 1.01)
    if near.is_empty():
        return f"{whole}; no policy is sure to lose less than 1 %."
    best = near.sort("distinct_experts_measured").row(0, named=True)
    return (
        f"{whole}; {number(best['distinct_experts_measured'])} under {best['policy']}, the fewest "
        f"of a policy that loses less than 1 %, interval included."
    )
