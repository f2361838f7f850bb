"""Two runs side by side."""

from __future__ import annotations

import altair as alt
import polars as pl

from moe_lens.report.figures.base import (
    Chart,
    by_domain,
    expert_map,
    finish,
    layer_axis,
    line_legend,
    placed,
    rows,
)
from moe_lens.report.tables import check_columns
from moe_lens.report.theme import BLUE, GREY, ORANGE

_SIDES = ["A", "B"]


def compared_identity(frame: pl.DataFrame) -> Chart:
    """Whether experts of the same number are used alike in both runs, beside renumbered experts."""
    check_columns(frame, "compared_identity")
    label = (
        "{'same': 'experts of the same number', "
        "'shuffled': 'control: renumbered at random, to 95th percentile'}[datum.label]"
    )
    legend = line_legend(label)
    names = ["same", "shuffled"]
    value = pl.col("correlation").cast(pl.Float64)
    series = pl.concat(
        [
            frame.select("layer", series=pl.lit("same"), value=value, high=value),
            frame.select(
                "layer",
                series=pl.lit("shuffled"),
                value=pl.col("shuffled_mean").cast(pl.Float64),
                high=pl.col("shuffled_high").cast(pl.Float64),
            ),
        ]
    )
    color = alt.Color("series:N", scale=alt.Scale(domain=names, range=[BLUE, GREY]), legend=legend)
    dashes = alt.Scale(domain=names, range=[[1, 0], [5, 4]])
    dash = alt.StrokeDash("series:N", scale=dashes, legend=legend)
    base = alt.Chart().encode(x=layer_axis(frame), color=color)
    band = base.mark_area(aria=False, opacity=0.22).encode(
        y=alt.Y("value:Q", title="Correlation of rates"), y2="high:Q"
    )
    line = base.mark_line(aria=False, point=alt.OverlayMarkDef(size=24)).encode(
        y="value:Q",
        strokeDash=dash,
        tooltip=[
            alt.Tooltip("series:N"),
            alt.Tooltip("layer:O"),
            alt.Tooltip("value:Q", format=".3f"),
        ],
    )
    chart = alt.layer(band, line, data=rows(series)).properties(width=880, height=220)
    return finish(
        chart,
        title="Are experts of the same number the same experts?",
        subtitle="Correlation of how often each expert is chosen in A and in B, per layer",
        cell_width=0,
    )


def compared_specialization(frame: pl.DataFrame) -> Chart:
    """Where each expert is chosen more or less often in B than in A."""
    check_columns(frame, "compared_specialization")
    # An even scale, cut where 99 % of the cells lie, so that one cell does not pale all others.
    reach = frame["difference"].abs().quantile(0.99) or 0.01
    columns = ["domain", "layer", "expert", "rate_a", "rate_b", "difference", "verdict"]
    chart = (
        alt.Chart(rows(placed(frame.select(columns))))
        .mark_rect(aria=False)
        .encode(
            color=alt.Color(
                "difference:Q",
                scale=alt.Scale(domain=[-reach, reach], domainMid=0, clamp=True, interpolate="lab"),
                legend=alt.Legend(
                    title="Share of tokens in B less that in A (cut at the ends)",
                    orient="top",
                    gradientLength=260,
                    titleLimit=400,
                    format="+.0%" if reach >= 0.05 else "+.1%",
                ),
            ),
            tooltip=[
                alt.Tooltip("domain:N"),
                alt.Tooltip("layer:O"),
                alt.Tooltip("expert:O"),
                alt.Tooltip("rate_a:Q", title="share in A", format=".1%"),
                alt.Tooltip("rate_b:Q", title="share in B", format=".1%"),
                alt.Tooltip("verdict:N", title="verdict"),
            ],
        )
    )
    return finish(
        by_domain(expert_map(chart, frame)),
        title="Which experts work more, and which less",
        subtitle="Orange: chosen more often in B than in A. Blue: less. Pale: alike.",
        cell_width=345,
    )


def compared_concentration(frame: pl.DataFrame) -> Chart:
    """Experts for half of the decisions, as a part of all experts, in both runs."""
    check_columns(frame, "compared_concentration")
    parts = [
        frame.select(
            "domain",
            "layer",
            run=pl.lit(side),
            **{
                end or "share": pl.col(f"n50_experts{end}_{low}")
                / (2 * pl.col(f"n50_experts_uniform_{low}"))
                for end in ("", "_low", "_high")
            },
        )
        for side, low in (("A", "a"), ("B", "b"))
    ]
    color, dash = _sides()
    base = alt.Chart().encode(x=layer_axis(frame), color=color)
    axis = alt.Axis(format="%")
    band = base.mark_area(aria=False, opacity=0.2).encode(
        y=alt.Y("_low:Q", title="Experts for half of the decisions", axis=axis), y2="_high:Q"
    )
    line = base.mark_line(aria=False, strokeWidth=2).encode(
        y=alt.Y("share:Q", scale=alt.Scale(domainMin=0)),
        strokeDash=dash,
        tooltip=[
            alt.Tooltip("domain:N"),
            alt.Tooltip("layer:O"),
            alt.Tooltip("run:N"),
            alt.Tooltip("share:Q", title="part of all experts", format=".1%"),
        ],
    )
    layered = alt.layer(band, line, data=rows(placed(pl.concat(parts))))
    return finish(
        by_domain(layered.properties(width=280, height=150)),
        title="How few experts take half of the decisions, in both",
        subtitle="n50 as a part of all experts, with 95 % intervals; lower is more concentrated",
        cell_width=345,
    )


def compared_perplexity(frame: pl.DataFrame) -> Chart:
    """What fewer active experts cost both models, each against its own full model."""
    check_columns(frame, "compared_perplexity")
    known = ["native", "keep_mass", "none"]
    modes = frame["renorm"].unique(maintain_order=True).to_list()
    mode = next((name for name in known if name in modes), modes[0])
    chosen = frame.filter(pl.col("renorm") == mode)
    parts = [
        chosen.select(
            "domain",
            "k",
            run=pl.lit(side),
            **{
                end or "ratio": pl.col(f"ratio_tokens{end}_{low}").cast(pl.Float64)
                for end in ("", "_low", "_high")
            },
        )
        for side, low in (("A", "a"), ("B", "b"))
    ]
    color, dash = _sides()
    scale = alt.Scale(type="log", nice=False, padding=6)
    x = alt.X(
        "k:Q",
        title="Active experts k",
        scale=alt.Scale(nice=False, padding=10, zero=False),
        axis=alt.Axis(format="d", tickMinStep=1, grid=False),
    )
    base = alt.Chart().encode(x=x, color=color)
    bars = base.mark_rule(aria=False, strokeWidth=1.6, opacity=0.7).encode(
        y=alt.Y("_low:Q", scale=scale), y2="_high:Q"
    )
    line = base.mark_line(aria=False, point=alt.OverlayMarkDef(size=30, strokeDash=[1, 0])).encode(
        y=alt.Y(
            "ratio:Q",
            title="Perplexity, × its own full model's",
            scale=scale,
            axis=alt.Axis(format=".4~g"),
        ),
        strokeDash=dash,
        tooltip=[
            alt.Tooltip("domain:N"),
            alt.Tooltip("k:O", title="active experts"),
            alt.Tooltip("run:N"),
            alt.Tooltip("ratio:Q", title="× the full model's", format=".3f"),
        ],
    )
    layered = alt.layer(bars, line, data=rows(placed(pl.concat(parts))))
    return finish(
        by_domain(layered.properties(width=280, height=170)),
        title="What fewer active experts cost, in both",
        subtitle="Each against its own full model, with 95 % intervals. Logarithmic. "
        f"Weights: {mode if mode in known else 'as the table names them'}.",
        cell_width=345,
    )


def _sides() -> tuple[alt.Color, alt.StrokeDash]:
    legend = line_legend("{'A': 'A', 'B': 'B'}[datum.label]")
    color = alt.Scale(domain=_SIDES, range=[BLUE, ORANGE])
    dash = alt.Scale(domain=_SIDES, range=[[1, 0], [6, 3]])
    return (
        alt.Color("run:N", scale=color, legend=legend),
        alt.StrokeDash("run:N", scale=dash, legend=legend),
    )
