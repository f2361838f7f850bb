"""Who works: specialisation, heat maps, concentration, information, overlap."""

from __future__ import annotations

import altair as alt
import polars as pl

from moe_lens.report.figures.base import (
    Chart,
    by_domain,
    domains_of,
    expert_map,
    finish,
    layer_axis,
    line_legend,
    placed,
    rows,
)
from moe_lens.report.tables import check_columns
from moe_lens.report.theme import BLUE, GREY, ORANGE

_CELLS = ["domain", "layer", "expert", "rate", "rate_low", "rate_high", "baseline", "verdict"]
_VERDICTS = {"above": ORANGE, "below": BLUE, "not told": GREY}


def most_specialized(frame: pl.DataFrame) -> dict[str, object]:
    """The row of the table whose rate stands out most above its baseline."""
    lift = pl.col("rate") / pl.col("baseline")
    order = [lift.round_sig_figs(9), -pl.col("layer"), -pl.col("expert")]
    return frame.sort(order, descending=True, nulls_last=True).row(0, named=True)


def specialization(
    frame: pl.DataFrame, *, domain: str | None = None, layer: int | None = None
) -> Chart:
    """How often each expert of one layer is chosen for one domain, against chance.

    Bars with 95 % intervals over the dashed baseline k/N; domain and layer are chosen in the chart,
    and start at the most specialised expert unless given.

    Source: terms.md#specialization
    """
    check_columns(frame, "specialization")
    first = most_specialized(frame)
    domains = domains_of(frame)
    layers = sorted(frame["layer"].unique().to_list())
    pick_domain = alt.param(
        name="domain",
        value=first["domain"] if domain is None else domain,
        bind=alt.binding_select(options=domains, name="Domain "),
    )
    pick_layer = alt.param(
        name="layer",
        value=first["layer"] if layer is None else layer,
        bind=alt.binding_select(options=layers, name="Layer "),
    )
    x = alt.X("expert:O", title="Expert", axis=alt.Axis(labelOverlap=True, labelAngle=0))
    tips = [
        alt.Tooltip("expert:O", title="expert"),
        alt.Tooltip("rate:Q", title="share of tokens", format=".1%"),
        alt.Tooltip("rate_low:Q", title="interval from", format=".1%"),
        alt.Tooltip("rate_high:Q", title="to", format=".1%"),
        alt.Tooltip("baseline:Q", title="by chance", format=".1%"),
        alt.Tooltip("verdict:N", title="verdict"),
    ]
    base = alt.Chart(rows(placed(frame.select(_CELLS)))).transform_filter(
        "datum.domain === domain && datum.layer === layer"
    )
    y = alt.Y("rate:Q", title="Share of the domain's tokens", axis=alt.Axis(format="%"))
    colors = alt.Scale(domain=list(_VERDICTS), range=list(_VERDICTS.values()))
    legend = alt.Legend(
        title=None,
        orient="top",
        labelExpr="{'above': 'above chance', 'below': 'below chance', "
        "'not told': 'not told'}[datum.label]",
    )
    bars = base.mark_bar(aria=False).encode(
        x=x, y=y, color=alt.Color("verdict:N", scale=colors, legend=legend), tooltip=tips
    )
    whiskers = base.mark_rule(aria=False, strokeWidth=1.3).encode(
        x=x, y=alt.Y("rate_low:Q"), y2="rate_high:Q", tooltip=tips
    )
    chance = base.mark_rule(aria=False, strokeDash=[5, 4]).encode(y="mean(baseline):Q")
    chart = alt.layer(bars, whiskers, chance).add_params(pick_domain, pick_layer)
    return finish(
        chart.properties(width=920, height=260),
        title="Which experts work for one domain, in one layer",
        subtitle="Bars: share of tokens that chose the expert, with 95 % intervals. "
        "Dashed: chance, k/N.",
        cell_width=0,
    )


def heatmap(frame: pl.DataFrame) -> Chart:
    """Every layer and expert of every domain: how often chosen, against the baseline.

    The colour is the ratio to k/N on a doubling scale, blue below and orange above, cut at 8 times.

    Source: terms.md#specialization
    """
    check_columns(frame, "specialization")
    color = alt.Color(
        "doublings:Q",
        scale=alt.Scale(domain=[-3, 3], domainMid=0, clamp=True, interpolate="lab"),
        legend=alt.Legend(
            title="Share of tokens, as a multiple of chance (k/N)",
            orient="top",
            gradientLength=260,
            values=[-3, -2, -1, 0, 1, 2, 3],
            titleLimit=400,
            labelExpr="{'-3': '≤ ⅛', '-2': '¼', '-1': '½', '0': '1', '1': '2', '2': '4', "
            "'3': '≥ 8'}[datum.value]",
        ),
    )
    chart = (
        alt.Chart(rows(placed(frame.select(_CELLS))))
        .transform_calculate(
            doublings="datum.rate > 0 ? log(datum.rate / datum.baseline) / LN2 : -3"
        )
        .mark_rect(aria=False)
        .encode(
            color=color,
            tooltip=[
                alt.Tooltip("domain:N"),
                alt.Tooltip("layer:O"),
                alt.Tooltip("expert:O"),
                alt.Tooltip("rate:Q", title="share of tokens", format=".1%"),
                alt.Tooltip("baseline:Q", title="by chance", format=".1%"),
                alt.Tooltip("verdict:N", title="verdict"),
            ],
        )
    )
    return finish(
        by_domain(expert_map(chart, frame)),
        title="Every layer and expert against chance, by domain",
        subtitle="Orange: chosen more often than k/N. Blue: less. Pale: as by chance.",
        cell_width=345,
    )


def concentration(frame: pl.DataFrame) -> Chart:
    """How many experts take half of the decisions, over layers, for each domain.

    Source: terms.md#n50
    """
    check_columns(frame, "concentration")
    columns = ["domain", "layer", "n50_experts", "n50_experts_low", "n50_experts_high"]
    columns += ["n50_experts_uniform", "gini", "entropy_normalized"]
    highest = frame.select(
        pl.max_horizontal("n50_experts_uniform", "n50_experts", "n50_experts_high").max()
    ).item()
    top = 1.1 * float(highest)
    scale = alt.Scale(domain=[0, top], nice=False)
    base = alt.Chart().encode(x=layer_axis(frame))
    band = base.mark_area(aria=False, opacity=0.25, color=BLUE).encode(
        y=alt.Y("n50_experts_low:Q", title="Experts for half of the decisions", scale=scale),
        y2="n50_experts_high:Q",
    )
    line = base.mark_line(aria=False, color=BLUE, point=alt.OverlayMarkDef(size=18)).encode(
        y=alt.Y("n50_experts:Q", scale=scale),
        tooltip=[
            alt.Tooltip("domain:N"),
            alt.Tooltip("layer:O"),
            alt.Tooltip("n50_experts:Q", title="experts for half"),
            alt.Tooltip("n50_experts_uniform:Q", title="uniform use"),
            alt.Tooltip("gini:Q", title="Gini", format=".2f"),
            alt.Tooltip("entropy_normalized:Q", title="entropy", format=".2f"),
        ],
    )
    uniform = base.mark_line(aria=False, strokeDash=[5, 4], strokeWidth=1.5, color=GREY).encode(
        y=alt.Y("n50_experts_uniform:Q", scale=scale)
    )
    layered = alt.layer(band, line, uniform, data=rows(placed(frame.select(columns))))
    return finish(
        by_domain(layered.properties(width=280, height=150)),
        title="How few experts take half of the routing decisions",
        subtitle="Line: n50 with its 95 % interval; lower is more concentrated. "
        "Dashed: uniform use, N/2.",
        cell_width=345,
    )


def information(frame: pl.DataFrame) -> Chart:
    """What a token's experts tell about its domain, beside shuffled labels.

    Mutual information in bits per layer; the control shuffles the domains of whole documents.
    """
    check_columns(frame, "information")
    series = pl.concat(
        [
            _series(frame, "measured", "information_bits", "_low", "_high"),
            frame.select(
                "layer",
                series=pl.lit("shuffled"),
                bits=pl.col("shuffled_bits_mean").cast(pl.Float64),
                low=pl.lit(0.0),
                high=pl.col("shuffled_bits_high").cast(pl.Float64),
            ),
        ]
    )
    names = ["measured", "shuffled"]
    label = (
        "{'measured': 'measured, with 95 % interval', "
        "'shuffled': 'control: labels shuffled, to 95th percentile'}[datum.label]"
    )
    legend = line_legend(label)
    color = alt.Color("series:N", scale=alt.Scale(domain=names, range=[BLUE, GREY]), legend=legend)
    dash = alt.StrokeDash("series:N", scale=alt.Scale(domain=names, range=[[1, 0], [5, 4]]))
    base = alt.Chart().encode(x=layer_axis(frame), color=color)
    band = base.mark_area(aria=False, opacity=0.22).encode(
        y=alt.Y("low:Q", title="Mutual information (bits a token)"), y2="high:Q"
    )
    line = base.mark_line(aria=False, point=alt.OverlayMarkDef(size=24)).encode(
        y="bits:Q",
        strokeDash=dash.legend(legend),
        tooltip=[
            alt.Tooltip("series:N"),
            alt.Tooltip("layer:O"),
            alt.Tooltip("bits:Q", format=".3f"),
        ],
    )
    chart = alt.layer(band, line, data=rows(series)).properties(width=880, height=240)
    return finish(
        chart,
        title="What a token's experts tell about its domain",
        subtitle="Mutual information between domain and experts, per layer",
        cell_width=0,
    )


def overlap(frame: pl.DataFrame) -> Chart:
    """How alike two domains use the experts: cosine of their usage, mean over layers."""
    check_columns(frame, "overlap")
    mean = frame.group_by("domain_a", "domain_b", maintain_order=True).agg(
        pl.col("cosine", "shared_busiest", "shared_busiest_uniform").mean()
    )
    swapped = mean.rename({"domain_a": "domain_b", "domain_b": "domain_a"})
    order = pl.concat([frame["domain_a"], frame["domain_b"]]).unique(maintain_order=True)
    self_pairs = pl.DataFrame({"domain_a": order, "domain_b": order}).with_columns(cosine=1.0)
    both = pl.concat([mean, swapped.select(mean.columns), self_pairs], how="diagonal_relaxed")
    places = {name: place for place, name in enumerate(order)}
    both = both.sort(
        pl.col("domain_a", "domain_b").replace_strict(places, return_dtype=pl.Int64),
        maintain_order=True,
    )
    base = alt.Chart(rows(both)).encode(
        x=alt.X("domain_a:N", title=None, sort=None, axis=alt.Axis(labelAngle=-35)),
        y=alt.Y("domain_b:N", title=None, sort=None),
        tooltip=[
            alt.Tooltip("domain_a:N", title="domain"),
            alt.Tooltip("domain_b:N", title="and"),
            alt.Tooltip("cosine:Q", title="cosine of usage", format=".3f"),
            alt.Tooltip("shared_busiest:Q", title="busiest experts shared", format=".2f"),
            alt.Tooltip("shared_busiest_uniform:Q", title="by chance", format=".2f"),
        ],
    )
    # The ramp starts below every value, so that ink stays readable on all of it.
    cells = base.mark_rect(aria=False, opacity=0.55).encode(
        color=alt.Color(
            "cosine:Q",
            scale=alt.Scale(domain=[0, 1]),
            legend=None,
        )
    )
    words = base.mark_text(aria=False, fontSize=11).encode(text=alt.Text("cosine:Q", format=".2f"))
    step = 64 if len(order) <= 12 else 34
    size = step * len(order)
    chart = alt.layer(cells, words).properties(width=size, height=size * 0.55)
    return finish(
        chart,
        title="How alike two domains use the experts",
        subtitle="Cosine of expert usage, mean over layers; 1 is the same experts equally often",
        cell_width=int(size) + 80,
    )


def _series(frame: pl.DataFrame, name: str, column: str, low: str, high: str) -> pl.DataFrame:
    return frame.select(
        "layer",
        series=pl.lit(name),
        bits=pl.col(column).cast(pl.Float64),
        low=pl.col(column + low).cast(pl.Float64),
        high=pl.col(column + high).cast(pl.Float64),
    )
