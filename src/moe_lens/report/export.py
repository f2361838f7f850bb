"""A chart as SVG, PNG, PDF, and as data for the page. Nothing here needs a browser or a network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import altair as alt
import vl_convert

from moe_lens.report.figures import Chart
from moe_lens.report.pdf import in_order

Format: TypeAlias = Literal["svg", "png", "pdf", "csv"]

FORMATS: tuple[Format, ...] = ("svg", "png", "pdf", "csv")
PNG_SCALE = 2
_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


@dataclass(frozen=True)
class Picture:
    """One chart, ready for the page and for files.

    Attributes:
        spec: The Vega-Lite spec without data, theme and title.
        datasets: Its data by name, as rows.
        svg: The chart in the light theme, title included.
    """

    spec: Mapping[str, Any]
    datasets: Mapping[str, list[dict[str, Any]]]
    svg: str


def picture(chart: Chart, *, name: str, description: str) -> Picture:
    """Draw a chart once; the same values give the same bytes.

    Args:
        chart: The chart.
        name: What ids inside the SVG start with, so that many fit on one page.
        description: What it shows, in words, for those who cannot see it.
    """
    values = chart.properties(description=description).to_dict()
    svg = vl_convert.vegalite_to_svg(values, vl_version=_VEGA_LITE, allowed_base_urls=[])
    datasets = values.pop("datasets")
    for part in ("config", "title", "$schema"):
        values.pop(part, None)
    return Picture(values, datasets, tidy_svg(svg, name))


def png(svg: str) -> bytes:
    """The picture of an SVG, at twice its size in pixels."""
    return vl_convert.svg_to_png(svg, scale=PNG_SCALE)


def pdf(svg: str) -> bytes:
    """An SVG as one PDF page."""
    return in_order(vl_convert.svg_to_pdf(svg))


def tidy_svg(svg: str, name: str) -> str:
    """Coordinates to two decimals, and ids that are unique on a page and the same every time."""
    ids: dict[str, str] = {}

    def rename(found: re.Match[str]) -> str:
        new = ids.setdefault(found[2], f"{name}-{len(ids)}")
        return found[1] + new

    def tidy(tag: re.Match[str]) -> str:
        short = re.sub(r"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", tag[0])
        return re.sub(r'( id="|url\(#)((?:clip|gradient|grad)[\w-]*)', rename, short)

    # Only inside tags, and never in the description: text is shown as it is.
    return re.sub(r"<(?!svg)[a-zA-Z][^>]*>", tidy, svg)
