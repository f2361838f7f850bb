"""What can go: the experts of a plan, and what the model is without the others."""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from moe_lens.report.figures.base import Chart, by_domain, finish, placed, rows
from moe_lens.report.tables import check_columns
from moe_lens.report.theme import BLUE, GREY, ORANGE, PURPLE

KINDS = {
    "plan": "the plan",
    "frequency": "control: the most frequent experts",
    "random": "control: random experts",
    "drop": "the wrong way: slots given weight 0",
}
"""Kinds of policies of a simulation, in the order of the legend."""

_COLORS = [BLUE, ORANGE, GREY, PURPLE]


def simulation(frame: pl.DataFrame) -> Chart:
    """Perplexity of the pruned model and of its controls, as a multiple of the full model's.

    Source: terms.md#mask
    """
    check_columns(frame, "simulation")
    shown = frame.filter(pl.col("kind") != "full").select(
        "domain", "policy", "kind", "text", "loss_ratio", "loss_ratio_low", "loss_ratio_high",
        "plan_ratio", "plan_ratio_low", "plan_ratio_high",
    )  # fmt: skip
    present = [kind for kind in KINDS if kind in set(shown["kind"])]
    order = {name: place for place, name in enumerate(shown["policy"].unique(maintain_order=True))}
    shown = shown.with_columns(row=pl.col("policy").replace_strict(order, return_dtype=pl.Int64))
    legend = alt.Legend(
        title=None,
        orient="top",
        direction="vertical",
        labelExpr=f"{json.dumps(KINDS)}[datum.label] || datum.label",
    )
    color = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=present, range=[_COLORS[list(KINDS).index(k)] for k in present]),
        legend=legend,
    )
    scale = alt.Scale(type="log", nice=False, padding=10)
    y = alt.Y(
        "policy:N",
        title=None,
        sort=alt.EncodingSortField(field="row", op="min"),
        axis=alt.Axis(labelLimit=120, grid=False),
    )
    base = alt.Chart().encode(y=y, color=color)
    bars = base.mark_rule(aria=False, strokeWidth=2).encode(
        x=alt.X("loss_ratio_low:Q", scale=scale), x2="loss_ratio_high:Q"
    )
    dots = base.mark_point(aria=False, filled=True, size=50, opacity=1).encode(
        x=alt.X(
            "loss_ratio:Q",
            title="Perplexity, × the full model's",
            scale=scale,
            axis=alt.Axis(format=".4~g"),
        ),
        tooltip=[
            alt.Tooltip("domain:N"),
            alt.Tooltip("policy:N"),
            alt.Tooltip("text:N", title="the text is"),
            alt.Tooltip("loss_ratio:Q", title="× the full model's", format=".3f"),
            alt.Tooltip("loss_ratio_low:Q", title="interval from", format=".3f"),
            alt.Tooltip("loss_ratio_high:Q", title="to", format=".3f"),
            alt.Tooltip("plan_ratio:Q", title="the plan, × this one", format=".3f"),
        ],
    )
    layered = alt.layer(bars, dots, data=rows(placed(shown)))
    return finish(
        by_domain(layered.properties(width=250, height=alt.Step(18))),
        title="What the model loses without these experts",
        subtitle="Perplexity over tokens against the full model on the same documents, with 95 % "
        "intervals. Logarithmic.",
        cell_width=345,
    )


def plan(frame: pl.DataFrame) -> Chart:
    """Which experts stay, layer by expert."""
    check_columns(frame, "plan")
    shown = frame.with_columns(
        fate=pl.when(pl.col("kept") == 1).then(pl.lit("stays")).otherwise(pl.lit("goes"))
    ).drop("kept")
    color = alt.Color(
        "fate:N",
        scale=alt.Scale(domain=["stays", "goes"], range=[BLUE, ORANGE]),
        legend=alt.Legend(title=None, orient="top"),
    )
    layers = frame["layer"].n_unique()
    cells = (
        alt.Chart(rows(shown))
        .mark_rect(aria=False, strokeWidth=0.5, stroke="white")
        .encode(
            x=alt.X("expert:O", title="Expert", axis=alt.Axis(labelOverlap=True, labelAngle=0)),
            y=alt.Y("layer:O", title="Layer"),
            color=color,
            tooltip=[
                alt.Tooltip("layer:O"),
                alt.Tooltip("expert:O"),
                alt.Tooltip("fate:N"),
                alt.Tooltip("frequency_rank:Q", title="place by frequency (0: first)"),
            ],
        )
        .properties(width=760, height=max(14 * layers, 60))
    )
    return finish(
        cells,
        title="Which experts stay",
        subtitle="Numbers are those of the original; in the export they close up.",
        cell_width=0,
    )
