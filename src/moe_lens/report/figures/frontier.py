"""What can go: policies by what they lose and what they save."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import polars as pl

from moe_lens.report.figures.base import Chart, by_domain, finish, placed, rows
from moe_lens.report.figures.effect import ratio_ticks
from moe_lens.report.tables import check_columns
from moe_lens.report.theme import BLUE, GREEN, GREY, ORANGE, PURPLE

FAMILIES = {
    "full": "the full model",
    "k": "k: the same number everywhere",
    "k:keep_mass": "k, weights scaled to their full sum",
    "k:none": "k, weights as they were",
    "scale": "k, weights times a fitted factor",
    "layers": "layers: another k in each layer",
    "dp": "dp: another k in each layer, least error",
    "min-p": "min-p: near the best expert's weight",
    "naee": "naee: min-p at each layer's median",
    "top-p": "top-p: most of the weight",
    "entropy": "entropy: fewer where the router is sure",
    "budget": "budget: few distinct experts in a step",
}
"""Families of policies, in the order of the legend."""

_COLORS = [BLUE, ORANGE, GREEN, PURPLE, GREY]
_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]


def frontier(frame: pl.DataFrame) -> Chart:
    """Loss against experts per token, one mark a policy, the Pareto front as a line.

    Source: terms.md#loss-ratio
    """
    check_columns(frame, "frontier")
    x = alt.X(
        "mean_k:Q",
        title="Active experts of a token, mean",
        scale=alt.Scale(nice=False, padding=12, zero=False),
        axis=alt.Axis(format=".3~g", grid=False),
    )
    layered = _marks(frame, x, with_front=True)
    return finish(
        by_domain(layered.properties(width=290, height=220)),
        title="What policies lose against how many experts they use",
        subtitle="Perplexity against the full model on the same tokens, with 95 % intervals. "
        "Dashed: no change; line: no policy with as few experts loses less. Logarithmic.",
        cell_width=355,
    )


def frontier_reads(frame: pl.DataFrame) -> Chart:
    """Loss against the distinct experts of a decoding step, over all documents.

    Source: terms.md#distinct-experts
    """
    check_columns(frame, "frontier")
    x = alt.X(
        "distinct_experts_measured:Q",
        title="Distinct experts of a layer in a decoding step, mean",
        scale=alt.Scale(nice=False, padding=12, zero=False),
        axis=alt.Axis(format=".3~g", grid=False),
    )
    measured = frame.filter(pl.col("distinct_experts_measured").is_not_null())
    layered = _marks(measured, x, with_front=False)
    return finish(
        layered.properties(width=520, height=300),
        title="What policies lose against how many experts a step has to read",
        subtitle="All domains. Perplexity against the full model, with 95 % intervals. Dashed: no "
        "change. Logarithmic.",
        cell_width=0,
    )


def _marks(frame: pl.DataFrame, x: alt.X, *, with_front: bool) -> Any:
    found = frame["family"].unique(maintain_order=True).to_list()
    present = [n for n in FAMILIES if n in found] + [n for n in found if n not in FAMILIES]
    color, shape = _styles(present)
    scale = alt.Scale(type="log", nice=False, padding=6)
    y_axis = alt.Axis(format=".4~g", values=ratio_ticks(frame, "loss_ratio"))
    y = alt.Y("loss_ratio:Q", title="Perplexity, × the full model's", scale=scale, axis=y_axis)
    base = alt.Chart().encode(x=x, color=color)
    bars = base.mark_rule(aria=False, strokeWidth=1.2, opacity=0.55).encode(
        y=alt.Y("loss_ratio_low:Q", scale=scale), y2="loss_ratio_high:Q"
    )
    tooltips: list[Any] = [
        alt.Tooltip("policy:N"),
        alt.Tooltip("domain:N"),
        alt.Tooltip("loss_ratio:Q", title="× the full model's", format=".4f"),
        alt.Tooltip("loss_ratio_low:Q", title="interval from", format=".4f"),
        alt.Tooltip("loss_ratio_high:Q", title="to", format=".4f"),
        alt.Tooltip("mean_k:Q", title="experts of a token", format=".2f"),
        alt.Tooltip("distinct_experts_measured:Q", title="experts of a step", format=".1f"),
        alt.Tooltip("kl_nats:Q", title="KL (nats)", format=".4f"),
        alt.Tooltip("agreement:Q", title="same top word", format=".1%"),
    ]
    points = base.mark_point(aria=False, filled=True, size=46, opacity=0.95).encode(
        y=y, shape=shape, tooltip=tooltips
    )
    one = alt.Chart().mark_rule(aria=False, strokeDash=[5, 4]).encode(y=alt.YDatum(1, scale=scale))
    layers: list[Any] = [one, bars, points]
    if with_front:
        line = (
            alt.Chart()
            .mark_line(aria=False, strokeWidth=1.4, opacity=0.6, interpolate="step-after")
            .transform_filter("datum.pareto")
            .encode(x=x, y=y, color=alt.value(GREY), order=alt.Order("mean_k:Q"))
        )
        layers.insert(1, line)
    columns = ["policy", "family", "domain", "mean_k", "distinct_experts_measured", "loss_ratio"]
    columns += ["loss_ratio_low", "loss_ratio_high", "kl_nats", "agreement", "pareto"]
    layered: Any = alt.layer(*layers, data=rows(placed(frame.select(columns))))
    return layered


def _styles(names: list[str]) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape that say the same thing, and one legend for both."""
    # Words are ours; a name from a file is shown as it is and never enters the expression.
    known = {name: FAMILIES[name] for name in names if name in FAMILIES}
    legend = alt.Legend(
        title=None,
        orient="top",
        direction="vertical",
        columns=2,
        labelExpr=f"{json.dumps(known)}[datum.label] || datum.label",
        symbolSize=90,
    )
    hues = [_COLORS[place % len(_COLORS)] for place in range(len(names))]
    shapes = [_SHAPES[place % len(_SHAPES)] for place in range(len(names))]
    return (
        alt.Color("family:N", scale=alt.Scale(domain=names, range=hues), legend=legend),
        alt.Shape("family:N", scale=alt.Scale(domain=names, range=shapes), legend=legend),
    )
