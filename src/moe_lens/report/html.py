"""The report as one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
import polars as pl
import vl_convert
from markupsafe import Markup

from moe_lens.report import catalog, findings
from moe_lens.report.embed import by_column, script_json
from moe_lens.report.export import Picture
from moe_lens.report.grid import Grid, read_grid
from moe_lens.report.section import Figure, LensGrid, Listing, Part, Section
from moe_lens.report.tables import Run
from moe_lens.report.theme import THEMES, chart_config
from moe_lens.report.words import cell, flatten, heading, manifest_value, model_name

MAX_TABLE_ROWS = 200
MAX_MANIFEST_LINES = 200

_GLOBALS = "window.vegaEmbed = vegaEmbed;"
_CHIPS = {
    "holds": ("holds", "✓"),
    "does not hold": ("fails", "✕"),
    "cannot be told": ("open", "?"),
}


def render(run: Run, pictures: Mapping[str, Picture]) -> str:
    """The page of a run, from its tables and the pictures of its figures by name.

    Source: docs/tables.md
    """
    grid = read_grid(run.tables["lens_grid"]) if "lens_grid" in run.tables else None
    used = dict(sorted(pictures.items()))
    data = {key: rows for picture in used.values() for key, rows in picture.datasets.items()}
    specs = {
        figure.name: {"spec": used[figure.name].spec, "canvas": figure.canvas}
        for figure in catalog.FIGURES
        if figure.name in used
    }
    vega, script = _vega(), _asset("report.js")
    lines = flatten(run.manifest)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("moe_lens.report", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(cell=cell, heading=heading)
    return environment.get_template("report.html.j2").render(
        policy=_policy(vega, script),
        css=Markup(_asset("report.css")),
        model=model_name(run.manifest),
        facts=_facts(run),
        sections=_sections(run, pictures, grid),
        claims=_claims(run.tables.get("claims")),
        claims_absent=run.why_absent("claims") if _is_study(run) else "",
        manifest=lines[:MAX_MANIFEST_LINES],
        manifest_more=max(len(lines) - MAX_MANIFEST_LINES, 0),
        specs=Markup(script_json(specs)),
        datasets=Markup(script_json({key: by_column(rows) for key, rows in data.items()})),
        themes=Markup(script_json({theme: _page_config(theme) for theme in THEMES})),
        grid_data=Markup(script_json(grid.data())) if grid else "",
        vega=Markup(vega),
        script=Markup(script),
    )


def _policy(*scripts: str) -> str:
    """Nothing may be loaded, and no script may run but the page's own, known by their hashes."""
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _page_config(theme: str) -> dict[str, Any]:
    return chart_config(theme) | {"background": None}


def _facts(run: Run) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    frame = run.tables.get("specialization")
    if frame is not None:
        experts = int(frame["expert"].max()) + 1  # type: ignore[arg-type]
        layers = frame["layer"].n_unique()
        active = float(frame["baseline"].mean()) * experts  # type: ignore[arg-type]
        tokens = frame.group_by("domain").agg(pl.col("num_domain_tokens").max())
        total = int(tokens["num_domain_tokens"].sum())
        facts += [
            ("Experts in a layer", f"{experts}"),
            ("Active for a token", f"{active:.3g}"),
            ("MoE layers", f"{layers}"),
            ("Domains", f"{tokens.height}"),
            ("Tokens", f"{total:,}"),
        ]
    said = {
        "Number format": ("model", "dtype"),
        "Lens norm": ("spec", "lens_norm"),
        "Seed": ("spec", "seed"),
    }
    for name, path in said.items():
        value = manifest_value(run.manifest, *path)
        if isinstance(value, str | int):
            facts.append((name, str(value)))
    return facts


def _sections(run: Run, pictures: Mapping[str, Picture], grid: Grid | None) -> list[dict[str, Any]]:
    study = _is_study(run)
    return [
        {
            "anchor": section.anchor,
            "heading": section.heading,
            "lead": section.lead,
            "parts": [_part(run, part, pictures, grid) for part in section.parts],
        }
        for section in catalog.SECTIONS
        if (study and section.always) or _has(run, section)
    ]


def _is_study(run: Run) -> bool:
    """Whether the run has anything of a study, and so is told what else a study would have."""
    return "claims" in run.tables or any(_has(run, s) for s in catalog.SECTIONS if s.always)


def _has(run: Run, section: Section) -> bool:
    return any(part.table in run.tables or part.table in run.empty for part in section.parts)


def _part(
    run: Run, part: Part, pictures: Mapping[str, Picture], grid: Grid | None
) -> dict[str, Any]:
    """What the template needs of a part; `kind` says how it is shown."""
    common = {"name": part.name, "heading": part.heading, "finding": ""}
    if part.table not in run.tables:
        return common | {"kind": "absent", "why": run.why_absent(part.table)}
    match part:
        case Figure() if part.name not in pictures:
            return common | {"kind": "absent", "why": part.lacking(run.tables[part.table])}
        case Figure():
            return common | _figure(run, part, pictures[part.name])
        case Listing():
            return common | _listing(run, part)
        case LensGrid():
            return common | {"kind": "grid", "grid": grid}


def _figure(run: Run, figure: Figure, picture: Picture) -> dict[str, Any]:
    frame = run.tables[figure.table]
    excerpt = figure.excerpt(frame)
    rows = excerpt.head(MAX_TABLE_ROWS)
    whole = f"tables/{figure.table}.parquet"
    caption = (
        f"All {excerpt.height:,} rows, also in {whole} and figures/{figure.name}.csv."
        if rows.height == excerpt.height
        else f"{rows.height} of {excerpt.height:,} rows; all are in {whole} and "
        f"figures/{figure.name}.csv."
    )
    return _shown(rows, caption) | {
        "kind": "figure",
        "how_to_read": figure.how_to_read,
        "svg": Markup(picture.svg),
        "finding": figure.finding(frame),
    }


def _listing(run: Run, listing: Listing) -> dict[str, Any]:
    frame = run.tables[listing.table]
    rows = listing.excerpt(frame).head(MAX_TABLE_ROWS)
    caption = f"{rows.height} of {frame.height:,} rows; all are in tables/{listing.table}.parquet."
    return _shown(rows, caption) | {"kind": "listing", "how_to_read": listing.how_to_read}


def _shown(rows: pl.DataFrame, caption: str) -> dict[str, Any]:
    text = rows.select(pl.selectors.string()).columns
    return {"rows": rows, "caption": caption, "text_columns": text}


def _claims(frame: pl.DataFrame | None) -> dict[str, Any] | None:
    if frame is None:
        return None
    rows = []
    for row in frame.iter_rows(named=True):
        chip, icon = _CHIPS.get(row["verdict"], ("open", "?"))
        rows.append(row | {"chip": chip, "icon": icon})
    return {"rows": rows, "finding": findings.claims(frame)}


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, from the converter's own copy."""
    bundle: str = vl_convert.javascript_bundle(_GLOBALS)
    _check_script(bundle, "the Vega bundle")
    return bundle


@cache
def _asset(name: str) -> str:
    source = jinja2.PackageLoader("moe_lens.report", "assets")
    text, _, _ = source.get_source(jinja2.Environment(autoescape=True), name)
    _check_script(text, name)
    return text


def _check_script(text: str, name: str) -> None:
    ends: Sequence[str] = ("</script", "<!--", "</style")
    assert not any(end in text.lower() for end in ends), f"{name} would end its own element"
