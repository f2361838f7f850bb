"""What every figure shares: its data as rows, its theme, its words for domains."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import altair as alt
import polars as pl

from moe_lens.report.theme import chart_config

Chart: TypeAlias = alt.Chart | alt.LayerChart | alt.FacetChart

ALL = "all"
"""The name of all domains together, in tables that have such a row."""


def rows(frame: pl.DataFrame) -> dict[str, Any]:
    """A frame as chart data: numbers to 4 significant digits, and null for what is not finite."""
    floats = frame.select(pl.selectors.float()).columns
    tidy = frame.with_columns(
        pl.when(pl.col(name).is_finite()).then(pl.col(name).round_sig_figs(4)).alias(name)
        for name in floats
    )
    return {"values": tidy.to_dicts()}


def finish(chart: Chart, *, title: str, subtitle: str, cell_width: int) -> Chart:
    """Give a chart its title, the light theme, and what a page needs to fit it to a screen.

    `cell_width` is the least width of one small chart, or the largest of a single one; 0 for any.
    """
    heading = alt.Title(title, subtitle=subtitle)
    titled: Chart = chart.properties(title=heading, usermeta={"cellWidth": cell_width})
    finished: Chart = titled.configure(**chart_config("light"))
    return finished


def domains_of(frame: pl.DataFrame) -> list[str]:
    """Domains in the order of the table, all of them together first."""
    found = frame["domain"].unique(maintain_order=True).to_list()
    return sorted(found, key=lambda name: name != ALL)


def placed(frame: pl.DataFrame) -> pl.DataFrame:
    """With a column `place`: the domain's place in the table, all of them together first."""
    places = {name: place for place, name in enumerate(domains_of(frame))}
    return frame.with_columns(place=pl.col("domain").replace_strict(places, return_dtype=pl.Int64))


def by_domain(chart: Chart, *, columns: int = 3) -> Chart:
    """One small chart for each domain, in the order of the column `place`."""
    # No list of names as a sort: Vega-Lite would write them into an expression, and names come
    # from strangers. Nowhere here does a name enter an expression.
    order = alt.EncodingSortField(field="place", op="min")
    facet = alt.Facet("domain:N", sort=order, header=alt.Header(title=None))
    faceted: Chart = chart.facet(facet=facet, columns=columns).resolve_axis(x="independent")
    return faceted


def layer_axis(frame: pl.DataFrame) -> alt.X:
    """The x axis of everything that is drawn over layers: ticks at layers that are there."""
    layers = sorted(frame["layer"].unique().to_list())
    if len(layers) > 12:
        layers = [layer for layer in layers if layer % (5 if len(layers) <= 40 else 10) == 0]
    scale = alt.Scale(nice=False, padding=4, zero=False)
    axis = alt.Axis(format="d", values=layers, grid=False)
    return alt.X("layer:Q", title="Layer", scale=scale, axis=axis)


def expert_map(chart: alt.Chart, frame: pl.DataFrame) -> alt.Chart:
    """A chart of one cell for each expert (across) and layer (down, the last first)."""
    num_experts, num_layers = frame["expert"].n_unique(), frame["layer"].n_unique()
    ticks = list(range(0, num_experts, 16 if num_experts > 32 else 4))
    return chart.encode(
        x=alt.X("expert:O", title="Expert", axis=alt.Axis(values=ticks, labelAngle=0)),
        y=alt.Y(
            "layer:O",
            title="Layer",
            axis=alt.Axis(labelOverlap=True, minExtent=26),
            sort="descending",
        ),
    ).properties(
        width=max(min(64, num_experts) * 4.5, 160),
        height=max(min(40, num_layers) * 6, min(num_layers * 20, 80)),
    )


def line_legend(label_expr: str) -> alt.Legend:
    """A legend of lines, one below the other, with words from an expression of `datum.label`."""
    return alt.Legend(
        title=None,
        orient="top",
        direction="vertical",
        labelExpr=label_expr,
        symbolType="stroke",
        symbolSize=600,
        symbolStrokeWidth=2.5,
        symbolOpacity=1,
    )


def percent(value: float, digits: int = 1) -> str:
    """0.123 as '12.3 %'."""
    return f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int = 3) -> str:
    """A number in few characters; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"
