"""What each expert is worth: do criteria agree, do they last, and do they foretell."""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from moe_lens.analysis.importance import criteria_agreement
from moe_lens.report.figures.base import ALL, Chart, finish, line_legend, rows
from moe_lens.report.tables import check_columns
from moe_lens.report.theme import BLUE, GREY, ORANGE

PRUNED_SHARE = 0.25
"""The share of pruned experts that the stability figure shows."""

EFFECTS = {"own": "loss at the ablated tokens", "text": "loss over the whole text"}

_ROW = 17


def importance_agreement(frame: pl.DataFrame) -> Chart:
    """How alike the criteria rank experts: rank correlation within layers, mean over them.

    Source: terms.md#importance
    """
    check_columns(frame, "importance")
    found = criteria_agreement(frame)
    names = found["criterion_a"].unique(maintain_order=True).to_list()
    size = alt.Step(34)
    base = alt.Chart(rows(found)).encode(
        x=alt.X("criterion_a:N", title=None, sort=names, axis=alt.Axis(labelAngle=-40)),
        y=alt.Y("criterion_b:N", title=None, sort=names),
    )
    cells = base.mark_rect(aria=False).encode(
        color=alt.Color(
            "spearman:Q",
            scale=alt.Scale(domain=[-1, 1], domainMid=0),
            legend=alt.Legend(title="Spearman, mean over layers", orient="top", gradientLength=220),
        ),
        tooltip=[
            alt.Tooltip("criterion_a:N"),
            alt.Tooltip("criterion_b:N"),
            alt.Tooltip("spearman:Q", format=".2f"),
        ],
    )
    words = base.mark_text(aria=False, fontSize=10).encode(
        text=alt.Text("spearman:Q", format=".1f")
    )
    chart = alt.layer(cells, words).properties(width=size, height=_step(names))
    return finish(
        chart,
        title="Do the criteria rank experts alike?",
        subtitle="Rank correlation of every two criteria over the experts of a layer, all domains.",
        cell_width=0,
    )


def stability(frame: pl.DataFrame) -> Chart:
    """Overlap of the kept experts between halves of a domain, and between domains.

    Source: terms.md#split-half-stability
    """
    check_columns(frame, "stability")
    shown = frame.filter((pl.col("pruned_share") == PRUNED_SHARE) & (pl.col("domain_a") != ALL))
    same = pl.col("domain_a") == pl.col("domain_b")
    means = (
        shown.with_columns(
            pl.when(same).then(pl.lit("same")).otherwise(pl.lit("other")).alias("pair")
        )
        .group_by("criterion", "pair", maintain_order=True)
        .agg(
            pl.col("overlap", "spearman", "overlap_uniform").cast(pl.Float64).mean(),
            low=pl.col("overlap").cast(pl.Float64).quantile(0.1),
            high=pl.col("overlap").cast(pl.Float64).quantile(0.9),
        )
    )
    names = means["criterion"].unique(maintain_order=True).to_list()
    color, shape = _pairs()
    y = alt.Y("criterion:N", title=None, sort=names, axis=alt.Axis(grid=True))
    x = alt.X(
        "overlap:Q",
        title="Kept experts in common",
        scale=alt.Scale(zero=False, nice=False, padding=8),
        axis=alt.Axis(format="%"),
    )
    base = alt.Chart().encode(y=y, color=color)
    spread = base.mark_rule(aria=False, strokeWidth=1.4, opacity=0.6).encode(
        x=alt.X("low:Q"), x2="high:Q", yOffset=alt.YOffset("pair:N", sort=["same", "other"])
    )
    dots = base.mark_point(aria=False, filled=True, size=64).encode(
        x=x,
        shape=shape,
        yOffset=alt.YOffset("pair:N", sort=["same", "other"]),
        tooltip=[
            alt.Tooltip("criterion:N"),
            alt.Tooltip("pair:N"),
            alt.Tooltip("overlap:Q", format=".1%"),
            alt.Tooltip("spearman:Q", format=".2f"),
        ],
    )
    chance = float(means["overlap_uniform"].mean() or 0)  # type: ignore[arg-type]
    line = alt.Chart().mark_rule(aria=False, strokeDash=[5, 4]).encode(x=alt.XDatum(chance))
    chart = alt.layer(spread, dots, line, data=rows(means))
    return finish(
        chart.properties(width=640, height=_step(names, 30)),
        title="Would other text keep the same experts?",
        subtitle="A quarter of each layer's experts pruned. Means over layers and domains; bars: "
        "the middle 80 %. Dashed: two random choices.",
        cell_width=0,
    )


def causal(frame: pl.DataFrame) -> Chart:
    """What dropping each sampled expert does to the loss at its tokens, beside the control.

    Source: terms.md#causal-importance
    """
    check_columns(frame, "causal")
    there = frame["ablation"].unique(maintain_order=True).to_list()
    first = "drop" if "drop" in there else there[0]
    kinds = [first, *(kind for kind in ("random",) if kind in there and kind != first)]
    shown = frame.filter((pl.col("domain") == ALL) & pl.col("ablation").is_in(kinds))
    order = (
        shown.filter(pl.col("ablation") == kinds[0])
        .sort("layer", "own_nats", nulls_last=True)
        .select("layer", "expert", place=pl.int_range(pl.len()).over("layer"))
    )
    data = shown.join(order, on=["layer", "expert"]).select(
        pl.format("Layer {}", "layer").alias("where"),
        (pl.col("place") + 0.3 * (pl.col("ablation") != first).cast(pl.Float64)).alias("at"),
        "layer", "expert", "ablation", "place", "num_tokens",
        *(pl.col(c).cast(pl.Float64) for c in ("own_nats", "own_nats_low", "own_nats_high")),
    )  # fmt: skip
    words = {
        "drop": "the expert dropped",
        "mask": "the expert masked",
        "replace": "the expert replaced by one that was not chosen",
        "random": "control: another of the same tokens' experts dropped",
    }
    known = {kind: words.get(kind, kind) for kind in kinds}
    legend = line_legend(f"{json.dumps(known)}[datum.label]")
    color = alt.Color(
        "ablation:N",
        scale=alt.Scale(domain=kinds, range=[BLUE, ORANGE][: len(kinds)]),
        legend=legend,
    )
    shape = alt.Shape(
        "ablation:N",
        scale=alt.Scale(domain=kinds, range=["circle", "diamond"][: len(kinds)]),
        legend=legend,
    )
    x = alt.X(
        "at:Q",
        title="Experts, by effect",
        axis=alt.Axis(labels=False, ticks=False, grid=False),
        scale=alt.Scale(nice=False, zero=False, padding=8),
    )
    # Cut where a few intervals of rarely chosen experts would flatten all the others.
    ends = pl.concat([data["own_nats_low"], data["own_nats_high"]]).drop_nulls().abs()
    largest = float(data["own_nats"].abs().max() or 0.0)  # type: ignore[arg-type]
    reach = max(float(ends.quantile(0.9) or 0.0) if len(ends) else 0.0, 1.2 * largest, 1e-3)
    scale = alt.Scale(domain=[-reach, reach], nice=False)
    base = alt.Chart().encode(x=x, color=color)
    bars = base.mark_rule(aria=False, strokeWidth=1.3, opacity=0.6, clip=True).encode(
        y=alt.Y("own_nats_low:Q", scale=scale), y2="own_nats_high:Q"
    )
    dots = base.mark_point(aria=False, filled=True, size=34).encode(
        y=alt.Y("own_nats:Q", title="Change of loss (nats)", scale=scale),
        shape=shape,
        tooltip=[
            alt.Tooltip("layer:O"),
            alt.Tooltip("expert:O"),
            alt.Tooltip("ablation:N"),
            alt.Tooltip("num_tokens:Q", title="tokens", format=","),
            alt.Tooltip("own_nats:Q", format="+.4f"),
        ],
    )
    zero = alt.Chart().mark_rule(aria=False, strokeDash=[5, 4]).encode(y=alt.YDatum(0))
    layered = alt.layer(bars, zero, dots, data=rows(data)).properties(width=280, height=170)
    order_of = alt.EncodingSortField(field="layer", op="min")
    facet = alt.Facet("where:N", sort=order_of, header=alt.Header(title=None))
    return finish(
        layered.facet(facet=facet, columns=3).resolve_scale(x="independent"),
        title="What does an expert do where it was chosen?",
        subtitle="Change of the loss of the predictions made at its tokens, with 95 % intervals. "
        "Dashed: no change. Long intervals are cut.",
        cell_width=345,
    )


def prediction(frame: pl.DataFrame) -> Chart:
    """Rank correlation of each criterion with what ablation does, over all layers.

    Source: terms.md#prediction-of-causal-importance
    """
    check_columns(frame, "prediction")
    first = frame["ablation"][0]
    shown = frame.filter((pl.col("ablation") == first) & pl.col("layer").is_null())
    names = shown["criterion"].unique(maintain_order=True).to_list()
    control = pl.col("criterion").is_in(["random", "other_half"])
    data = shown.select(
        "criterion", "num_experts",
        pl.col("effect").replace(EFFECTS),
        pl.when(control).then(pl.lit("control")).otherwise(pl.lit("criterion")).alias("kind"),
        *(pl.col(c).cast(pl.Float64) for c in ("spearman", "spearman_low", "spearman_high")),
    )  # fmt: skip
    color = alt.Color(
        "kind:N", scale=alt.Scale(domain=["criterion", "control"], range=[BLUE, GREY]), legend=None
    )
    shape = alt.Shape(
        "kind:N",
        scale=alt.Scale(domain=["criterion", "control"], range=["circle", "square"]),
        legend=None,
    )
    base = alt.Chart().encode(y=alt.Y("criterion:N", title=None, sort=names), color=color)
    bars = base.mark_rule(aria=False, strokeWidth=1.6, opacity=0.7).encode(
        x=alt.X("spearman_low:Q"), x2="spearman_high:Q"
    )
    dots = base.mark_point(aria=False, filled=True, size=56).encode(
        x=alt.X("spearman:Q", title="Spearman", scale=alt.Scale(domain=[-1, 1])),
        shape=shape,
        tooltip=[
            alt.Tooltip("criterion:N"),
            alt.Tooltip("spearman:Q", format="+.2f"),
            alt.Tooltip("spearman_low:Q", title="interval from", format="+.2f"),
            alt.Tooltip("spearman_high:Q", title="to", format="+.2f"),
            alt.Tooltip("num_experts:Q", title="experts"),
        ],
    )
    zero = alt.Chart().mark_rule(aria=False, strokeDash=[5, 4]).encode(x=alt.XDatum(0))
    layered = alt.layer(bars, zero, dots, data=rows(data)).properties(
        width=320, height=_step(names)
    )
    facet = alt.Facet("effect:N", header=alt.Header(title=None), sort=list(EFFECTS.values()))
    return finish(
        layered.facet(facet=facet, columns=2),
        title="Which criterion foretells what an expert does?",
        subtitle="Rank correlation with the change of loss, ranks within layers, 95 % intervals. "
        "Grey: chance, and the effect against itself on other documents.",
        cell_width=420,
    )


def _step(names: list[str], each: int = _ROW * 2) -> int:
    return each * len(names)


def _pairs() -> tuple[alt.Color, alt.Shape]:
    words = "{'same': 'halves of the same domain', 'other': 'two different domains'}[datum.label]"
    names = ["same", "other"]
    legend = alt.Legend(title=None, orient="top", labelExpr=words, symbolOpacity=1)
    return (
        alt.Color("pair:N", scale=alt.Scale(domain=names, range=[BLUE, ORANGE]), legend=legend),
        alt.Shape(
            "pair:N", scale=alt.Scale(domain=names, range=["circle", "diamond"]), legend=legend
        ),
    )
