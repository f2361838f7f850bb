"""Who matters and what can go: similarity, lens, perplexity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, TypeAlias

import altair as alt
import polars as pl

from moe_lens.report.figures.base import (
    Chart,
    by_domain,
    finish,
    layer_axis,
    line_legend,
    placed,
    rows,
)
from moe_lens.report.tables import check_columns
from moe_lens.report.theme import BLUE, GREEN, GREY, ORANGE, PURPLE

LensMeasure: TypeAlias = Literal[
    "agree_layer", "agree_output", "kl_output_nats", "logprob_true_nats"
]

QUANTITIES = {
    "cos_h1_hk": "top expert + residual",
    "cos_resid_hk": "control: residual alone, no expert",
    "cos_random_hk": "control: an expert not chosen + residual",
    "cos_m1_mk": "the updates alone, without the residual",
}
"""Quantities of the similarity figure, in the order of its legend."""

MEASURES: dict[str, tuple[str, str]] = {
    "agree_layer": (
        "Same top word as the layer",
        "Does one expert decode to the layer's own word?",
    ),
    "agree_output": (
        "Same top word as the model",
        "From which layer on does a state decode to the model's word?",
    ),
    "kl_output_nats": (
        "KL to the model's output (nats)",
        "How far is each state from what the model says in the end?",
    ),
    "logprob_true_nats": (
        "Log-probability of the true next token (nats)",
        "How well does each state know the true next token?",
    ),
}
"""Measure -> axis title, figure title."""

_COLORS = [BLUE, GREY, ORANGE, PURPLE, GREEN]
_RATIOS = [
    0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1e3, 1e4,
]  # fmt: skip
_DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 3]]


def similarity(frame: pl.DataFrame) -> Chart:
    """How close the top expert plus residual stream is to the whole layer, beside its controls.

    Source: terms.md#similarity
    """
    check_columns(frame, "similarity")
    kept = frame.filter(pl.col("quantity").is_in(list(QUANTITIES)))
    bounds = ["mean", "mean_low", "mean_high", "p05", "p95"]
    kept = kept.select(
        "domain",
        "layer",
        "quantity",
        *(pl.col(name).cast(pl.Float64) for name in bounds),
        *((1 - pl.col(name)).clip(lower_bound=1e-3).alias(f"gap_{name}") for name in bounds),
    )
    present = [name for name in QUANTITIES if name in set(kept["quantity"])]
    color, dash = _styles("quantity", present, QUANTITIES)
    base = alt.Chart().encode(x=layer_axis(frame), color=color)
    spread = (
        base.mark_area(aria=False, opacity=0.16)
        .transform_filter("datum.quantity === 'cos_h1_hk' || datum.quantity === 'cos_resid_hk'")
        .encode(y=_similarity_axis("gap_p05"), y2="gap_p95:Q")
    )
    interval = base.mark_area(aria=False, opacity=0.3).encode(
        y=_similarity_axis("gap_mean_low"), y2="gap_mean_high:Q"
    )
    line = base.mark_line(aria=False, strokeWidth=2).encode(
        y=_similarity_axis("gap_mean"),
        strokeDash=dash,
        tooltip=[
            alt.Tooltip("domain:N"),
            alt.Tooltip("layer:O"),
            alt.Tooltip("quantity:N"),
            alt.Tooltip("mean:Q", format=".4f"),
            alt.Tooltip("p05:Q", title="5 % of tokens are below", format=".4f"),
            alt.Tooltip("p95:Q", title="5 % are above", format=".4f"),
        ],
    )
    layered = alt.layer(spread, interval, line, data=rows(placed(kept)))
    return finish(
        by_domain(layered.properties(width=280, height=190)),
        title="How close one expert comes to the whole layer, beside its controls",
        subtitle="Cosine with the state of all chosen experts. Lines: means with 95 % intervals; "
        "wide bands: 5 to 95 % of tokens.",
        cell_width=345,
    )


def perplexity(frame: pl.DataFrame) -> Chart:
    """Perplexity with fewer active experts, as a multiple of the full model's.

    Source: terms.md#renorm
    """
    check_columns(frame, "perplexity")
    columns = ["domain", "k", "renorm", "ratio_tokens", "ratio_tokens_low", "ratio_tokens_high"]
    known = {
        "native": "native: the model's own smaller top-k",
        "keep_mass": "keep_mass: weights scaled to their full sum",
        "none": "none: weights as they were",
    }
    found = frame["renorm"].unique(maintain_order=True).to_list()
    present = [n for n in known if n in found] + [n for n in found if n not in known]
    color, dash = _styles("renorm", present, known, [BLUE, ORANGE, PURPLE])
    scale = alt.Scale(type="log", nice=False, padding=6)
    x = alt.X(
        "k:Q",
        title="Active experts k",
        scale=alt.Scale(nice=False, padding=10, zero=False),
        axis=alt.Axis(format="d", tickMinStep=1, grid=False),
    )
    y = alt.Y(
        "ratio_tokens:Q",
        title="Perplexity, × the full model's",
        scale=scale,
        axis=alt.Axis(format=".4~g", values=ratio_ticks(frame, "ratio_tokens")),
    )
    base = alt.Chart().encode(x=x, color=color)
    bars = base.mark_rule(aria=False, strokeWidth=1.6, opacity=0.7).encode(
        y=alt.Y("ratio_tokens_low:Q", scale=scale), y2="ratio_tokens_high:Q"
    )
    line = base.mark_line(
        aria=False, strokeWidth=2, point=alt.OverlayMarkDef(size=30, strokeDash=[1, 0])
    ).encode(
        y=y,
        strokeDash=dash,
        tooltip=[
            alt.Tooltip("domain:N"),
            alt.Tooltip("k:O", title="active experts"),
            alt.Tooltip("renorm:N", title="weights"),
            alt.Tooltip("ratio_tokens:Q", title="× the full model's", format=".3f"),
            alt.Tooltip("ratio_tokens_low:Q", title="interval from", format=".3f"),
            alt.Tooltip("ratio_tokens_high:Q", title="to", format=".3f"),
        ],
    )
    one = alt.Chart().mark_rule(aria=False, strokeDash=[5, 4]).encode(y=alt.YDatum(1, scale=scale))
    layered = alt.layer(bars, line, one, data=rows(placed(frame.select(columns))))
    return finish(
        by_domain(layered.properties(width=280, height=170)),
        title="What fewer active experts cost",
        subtitle="Perplexity over tokens against the full model on the same documents, with 95 % "
        "intervals. Dashed: no change. Logarithmic.",
        cell_width=345,
    )


def perplexity_minmax(frame: pl.DataFrame) -> Chart:
    """The paper's curve: perplexity over k, each domain's own range stretched to 0 to 1.

    Of one renorm alone, `native` where it was run.

    Source: terms.md#renorm
    """
    check_columns(frame, "perplexity")
    modes = frame["renorm"].unique(maintain_order=True).to_list()
    mode = "native" if "native" in modes else modes[0]
    kept = frame.filter((pl.col("renorm") == mode) & pl.col("minmax").is_not_null())
    kept = placed(kept).sort("place", "k", maintain_order=True)
    names = kept["domain"].unique(maintain_order=True).to_list()
    color, dash = _styles("domain", names, {})
    chart = (
        alt.Chart(rows(kept.select("domain", "k", "minmax", "perplexity_tokens")))
        .mark_line(aria=False, strokeWidth=2, point=alt.OverlayMarkDef(size=30, strokeDash=[1, 0]))
        .encode(
            x=alt.X(
                "k:Q",
                title="Active experts k",
                scale=alt.Scale(nice=False, padding=10, zero=False),
                axis=alt.Axis(format="d", tickMinStep=1, grid=False),
            ),
            y=alt.Y("minmax:Q", title="Perplexity, each domain from 0 to 1"),
            color=color,
            strokeDash=dash,
            tooltip=[
                alt.Tooltip("domain:N"),
                alt.Tooltip("k:O", title="active experts"),
                alt.Tooltip("perplexity_tokens:Q", title="perplexity", format=".4~g"),
                alt.Tooltip("minmax:Q", title="stretched", format=".3f"),
            ],
        )
        .properties(width=880, height=260)
    )
    return finish(
        chart,
        title="The paper's curve: perplexity over active experts, stretched",
        subtitle="(ppl - min) / (max - min) of each domain over k. The shape alone: a rise of 1 % "
        "and one of 100 % look the same.",
        cell_width=0,
    )


def lens(frame: pl.DataFrame, *, measure: LensMeasure = "agree_layer") -> Chart:
    """What states of the residual stream decode to, per layer, with the residual-only control.

    Args:
        frame: The table `lens`.
        measure: Its column to draw.
    """
    check_columns(frame, "lens")
    labels = shown_states(frame["state"].unique().to_list(), measure)
    kept = frame.filter(pl.col("state").is_in(list(labels)))
    color, dash = _styles("state", list(labels), labels)
    axis, title = MEASURES[measure]
    share = measure.startswith("agree")
    scale = alt.Scale(domain=[0, 1]) if share else alt.Scale(zero=measure.startswith("kl"))
    y_axis = alt.Axis(format="%") if share else alt.Axis(format=".4~g")
    base = alt.Chart().encode(x=layer_axis(frame), color=color)
    band = base.mark_area(aria=False, opacity=0.2).encode(
        y=alt.Y(f"{measure}_low:Q", title=axis, scale=scale, axis=y_axis), y2=f"{measure}_high:Q"
    )
    line = base.mark_line(aria=False, strokeWidth=2).encode(
        y=alt.Y(f"{measure}:Q", scale=scale),
        strokeDash=dash,
        tooltip=[
            alt.Tooltip("domain:N"),
            alt.Tooltip("layer:O"),
            alt.Tooltip("state:N"),
            *(alt.Tooltip(f"{name}:Q", format=".4~g") for name in MEASURES),
        ],
    )
    columns = ["domain", "layer", "state"]
    columns += [name + end for name in MEASURES for end in ("", "_low", "_high")]
    layered = alt.layer(band, line, data=rows(placed(kept.select(columns))))
    return finish(
        by_domain(layered.properties(width=280, height=170)),
        title=title,
        subtitle="Each state decoded through the unembedding, at sampled positions, with 95 % "
        "intervals.",
        cell_width=345,
    )


def shown_states(states: Sequence[str], measure: str) -> dict[str, str]:
    """The states that the lens figure draws, with their words, in the order of its legend."""
    tops = sorted((s for s in states if s.startswith("top")), key=lambda s: int(s[3:]))
    words = {
        "rank1": "top expert + residual",
        "resid": "control: residual alone, no expert",
        "resid_shared": "residual + shared experts",
    }
    if tops:
        words[tops[-1]] = "all chosen experts + residual"
    if not measure.endswith("layer"):
        words["layer"] = "the layer's own output"
    return {state: text for state, text in words.items() if state in states}


def ratio_ticks(frame: pl.DataFrame, name: str) -> list[float]:
    """Ticks of a logarithmic axis of ratios: the closer to 1 all of them lie, the finer."""
    ratios = (name, f"{name}_low", f"{name}_high")
    high = float(frame.select(pl.max_horizontal(*ratios).max()).item())
    low = float(frame.select(pl.min_horizontal(*ratios).min()).item())
    for span, step in ((1.12, 0.02), (1.3, 0.05), (1.8, 0.1)):
        if high / low < span:
            return [round(step * place, 2) for place in range(1, round(2 / step))]
    return _RATIOS


def _similarity_axis(column: str) -> alt.Y:
    """Cosines by their distance from 1 on a logarithmic scale: 0.95 and 0.99 are far apart."""
    cosines = [0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999]
    return alt.Y(
        f"{column}:Q",
        title="Cosine (stretched towards 1)",
        scale=alt.Scale(type="log", reverse=True, nice=False),
        axis=alt.Axis(
            values=[round(1 - c, 4) for c in cosines], labelExpr="format(1 - datum.value, '.4~f')"
        ),
    )


def _styles(
    field: str, names: Sequence[str], words: dict[str, str], colors: Sequence[str] = _COLORS
) -> tuple[alt.Color, alt.StrokeDash]:
    """Colour and dash that always say the same thing, and one legend for both."""
    # Words are ours; a name from a file is shown as it is and never enters the expression.
    known = {name: words[name] for name in names if name in words}
    legend = line_legend(f"{json.dumps(known)}[datum.label] || datum.label")
    times = -(-len(names) // len(colors))
    hues = (list(colors) * times)[: len(names)]
    # Each round of the colours has other dashes, so that no two names look alike.
    dashes = [_DASHES[(i + i // len(colors)) % len(_DASHES)] for i in range(len(names))]
    return (
        alt.Color(f"{field}:N", scale=alt.Scale(domain=names, range=hues), legend=legend),
        alt.StrokeDash(f"{field}:N", scale=alt.Scale(domain=names, range=dashes), legend=legend),
    )
