"""Colours of the report and its charts, for light and dark.

Hues are told apart with every common colour vision (after Tol and Okabe-Ito), hold 3:1 against both
backgrounds, and never carry a meaning alone: line style, shape or text says it again.
"""

from __future__ import annotations

from typing import Any

BLUE, ORANGE, GREEN, PURPLE, GREY = "#3b7dc4", "#c8691c", "#2b8f5b", "#a0529e", "#7d8590"

_INKS = {
    "light": {"ink": "#1d2330", "muted": "#57606e", "grid": "#e4e7ec", "axis": "#98a1ae"},
    "dark": {"ink": "#e8ebf1", "muted": "#a6afbd", "grid": "#2c323d", "axis": "#6b7584"},
}
_DIVERGING = {
    "light": ["#1c5c9e", "#7fb0dc", "#f4f4f2", "#e3a065", "#a34a08"],
    "dark": ["#6fb2f2", "#356a9f", "#20252e", "#9a5a20", "#f6a552"],
}
_RAMP = {"light": ["#eef2f7", "#1c5c9e"], "dark": ["#20252e", "#6fb2f2"]}

THEMES = ("light", "dark")


def chart_config(theme: str) -> dict[str, Any]:
    """The Vega-Lite `config` of a theme; specs themselves name no colour of text or grid."""
    ink = _INKS[theme]
    font = "Arial, Helvetica, sans-serif"
    return {
        "background": "white" if theme == "light" else None,
        "font": font,
        "view": {"stroke": None},
        "title": {
            "color": ink["ink"],
            "subtitleColor": ink["muted"],
            "fontSize": 15,
            "subtitleFontSize": 12,
            "anchor": "start",
            "offset": 12,
            "subtitlePadding": 4,
        },
        "axis": {
            "labelColor": ink["muted"],
            "titleColor": ink["ink"],
            "gridColor": ink["grid"],
            "domainColor": ink["axis"],
            "tickColor": ink["axis"],
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
        },
        "legend": {
            "labelColor": ink["ink"],
            "titleColor": ink["ink"],
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelLimit": 420,
            "symbolSize": 140,
        },
        "header": {
            "labelColor": ink["ink"],
            "titleColor": ink["ink"],
            "labelFontSize": 12,
            "labelFontWeight": "bold",
            "labelAnchor": "start",
            "labelPadding": 4,
        },
        "text": {"color": ink["ink"]},
        "rule": {"color": ink["ink"]},
        "range": {"diverging": _DIVERGING[theme], "heatmap": _RAMP[theme], "ramp": _RAMP[theme]},
    }
