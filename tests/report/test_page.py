"""The page: text stays text, nothing is loaded, every figure speaks, bytes repeat."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import altair as alt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_lens.errors import InputError
from moe_lens.report import catalog, figures, read_run, write_report
from moe_lens.report.embed import by_column, script_json
from moe_lens.report.export import picture, tidy_svg
from moe_lens.report.pdf import in_order
from tests.report.conftest import HOSTILE, small_tables
from tests.report.synthetic import synthetic_tables, write_run

SVG = "{http://www.w3.org/2000/svg}"
FILE_FORMS = ("svg", "png", "pdf", "csv")


class Page(HTMLParser):
    """Elements with their attributes, scripts with their text, and all text outside them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._in: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = None

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.text += data


@pytest.fixture(scope="module")
def page(hostile: Path) -> Page:
    return Page(hostile / "report.html")


def test_hostile_text_is_shown_and_is_no_element(page: Page) -> None:
    for text in HOSTILE[:2]:
        assert text in page.text
    assert "{{ 7 * 7 }}" in page.text
    # A mark that turns the direction would write the rest of a sentence backwards.
    summary = page.text.split("Which experts work for which text?")[0]
    assert "use the experts most alike" in summary
    assert "\u202e" not in summary
    assert [tag for tag, _ in page.elements if tag in ("img", "iframe", "object", "embed")] == []
    # Four blocks of data, Vega, and the page's own script: nothing slipped in.
    kinds = [given.get("type") for tag, given in page.elements if tag == "script"]
    assert kinds == ["application/json"] * 4 + [None] * 2
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]


def test_data_in_scripts_cannot_end_them(page: Page) -> None:
    for block in page.scripts[:4]:
        assert not set("<>&\u2028\u2029") & set(block)
        json.loads(block)
    words = json.loads(page.scripts[3])["words"]
    assert HOSTILE[1] in [word.replace("␣", " ") for word in words]


@given(st.text())
def test_any_text_comes_back_from_a_script(text: str) -> None:
    shown = script_json({"a": [text]})
    assert not set("<>&\u2028\u2029") & set(shown)
    assert json.loads(shown) == {"a": [text]}


def test_figures_keep_hostile_names_as_text(hostile: Path) -> None:
    for figure in catalog.FIGURES:
        drawn = ET.parse(hostile / "figures" / f"{figure.name}.svg")
        tags = {element.tag.removeprefix(SVG) for element in drawn.iter()}
        assert not tags & {"script", "img", "foreignObject", "image", "a"}, figure.name
    drawn = ET.parse(hostile / "figures" / "heatmap.svg")
    assert HOSTILE[0] in {element.text for element in drawn.iter(f"{SVG}text")}


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:,")), (tag, name, value)
    own = "\n".join(page.scripts[:4] + page.scripts[5:])
    assert "http" not in own.replace("http://www.w3.org/", "")


def test_the_policy_allows_these_scripts_and_no_other(page: Page, hostile: Path) -> None:
    policy = next(
        attributes["content"]
        for tag, attributes in page.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]
    for script in page.scripts[4:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    style = (hostile / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_every_figure_has_a_picture_that_says_its_finding(hostile: Path, page: Page) -> None:
    labels = {attributes.get("aria-label") for _, attributes in page.elements}
    names = {attributes.get("data-figure") for _, attributes in page.elements}
    tables = read_run(hostile).tables
    for figure in catalog.FIGURES:
        finding = figure.finding(tables[figure.table])
        assert finding in labels, figure.name
        assert finding in page.text
        assert figure.name in names
        assert len(finding.split()) > 8


def test_the_page_can_be_walked_without_eyes(page: Page) -> None:
    tags = [tag for tag, _ in page.elements]
    assert tags.count("h1") == tags.count("main") == tags.count("header") == 1
    assert ("a", {"class": "skip", "href": "#main"}) in page.elements
    assert tags.count("caption") == tags.count("table")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "href"):
            value = attributes.get(name)
            if value and (name != "href" or value.startswith("#")):
                assert value.lstrip("#") in ids
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_verdicts_are_said_in_words_and_signs(page: Page) -> None:
    for icon, verdict in (("✓", "holds"), ("✕", "does not hold"), ("?", "cannot be told")):
        assert f"{icon} {verdict}" in page.text


@pytest.mark.slow
def test_the_same_tables_give_the_same_bytes(hostile: Path) -> None:
    names = ["report.html", *(f"figures/{f.name}.{e}" for f in catalog.FIGURES for e in FILE_FORMS)]
    before = {name: (hostile / name).read_bytes() for name in names}
    write_report(hostile)
    for name, content in before.items():
        assert (hostile / name).read_bytes() == content, name


def test_figure_files_are_what_their_names_say(hostile: Path) -> None:
    files = {path.name for path in (hostile / "figures").iterdir()}
    assert files == {f"{f.name}.{form}" for f in catalog.FIGURES for form in FILE_FORMS}
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<svg"}
    for form, start in starts.items():
        assert (hostile / "figures" / f"similarity.{form}").read_bytes().startswith(start)


def test_absent_tables_say_so_and_take_their_figures_away(small: Path) -> None:
    absent = ("lens", "lens_grid", "claims", "coactivation", "specialization")
    others = [part.table for s in catalog.SECTIONS if not s.always for part in s.parts]
    for name in (*absent, *others):
        (small / "tables" / f"{name}.parquet").unlink(missing_ok=name in others)
    (small / "figures").mkdir()
    for stale in ("lens_kl.svg", "similarity.png"):
        (small / "figures" / stale).write_text("of an earlier run")
    page = Page(write_report(small, figures=("svg",)))
    for name in absent:
        assert f"This run has no table tables/{name}.parquet" in page.text
    assert "Is one expert as good as the layer?" in page.text
    # What only a comparison or a simulation has is not missed in a study.
    assert "What differs?" not in page.text
    assert "What is each expert worth?" not in page.text
    assert "What is left after pruning?" not in page.text
    left = {path.name for path in (small / "figures").iterdir()}
    names = ("concentration", "information", "overlap", "similarity", "perplexity")
    assert left == {f"{name}.svg" for name in (*names, "perplexity_minmax")}


def test_one_table_alone_makes_a_page(tmp_path: Path) -> None:
    tables = {"concentration": small_tables()["concentration"]}
    page = Page(write_report(write_run(tmp_path, tables, {}), figures=()))
    assert "does not name" in page.text
    assert not (tmp_path / "figures").exists()


def test_a_comparison_is_not_told_that_it_is_no_study(tmp_path: Path) -> None:
    tables = {n: t for n, t in small_tables().items() if n.startswith("compared_")}
    page = Page(write_report(write_run(tmp_path, tables), figures=()))
    assert "What differs?" in page.text
    assert "This run has no table" not in page.text
    assert "Which experts work for which text?" not in page.text
    assert "Claims" not in page.text


def test_too_few_documents_leave_no_interval(tmp_path: Path) -> None:
    tables = {
        name: frame.with_columns(
            pl.lit(None, dtype=pl.Float64).alias(column)
            for column in frame.columns
            if column.endswith(("_low", "_high"))
        )
        for name, frame in small_tables().items()
    }
    page = Page(write_report(write_run(tmp_path, tables), figures=()))
    assert "too few documents for an interval" in page.text
    assert "no interval" in page.text


def test_an_unknown_format_is_refused(small: Path) -> None:
    with pytest.raises(InputError, match="figure format 'gif': one of svg, png, pdf, csv"):
        write_report(small, figures=("gif",))


def test_figures_are_charts_for_a_notebook() -> None:
    tables = small_tables()
    assert isinstance(figures.similarity(tables["similarity"]), alt.FacetChart)
    chart = figures.specialization(tables["specialization"], domain="code", layer=2)
    values = {p["name"]: p["value"] for p in chart.to_dict()["params"] if "value" in p}
    assert values == {"domain": "code", "layer": 2}
    with pytest.raises(InputError, match="table lens: column 'state' is missing"):
        figures.lens(tables["similarity"])


def test_tidying_leaves_text_alone() -> None:
    svg = (
        '<svg x="1.23456"><g id="clip7" clip-path="url(#clip7)"><path d="M1.23456,2"/>a1.23456</g>'
    )
    assert tidy_svg(svg, "f") == (
        '<svg x="1.23456"><g id="f-0" clip-path="url(#f-0)"><path d="M1.23,2"/>a1.23456</g>'
    )


def test_a_pdf_shows_the_same_in_one_order() -> None:
    # Object 2 is the root; 4 is met before 3; the stream's text is not touched.
    parts = [b"%PDF-1.7\n\n"]
    bodies = {
        3: b"<<\n  /B 1\n>>\nendobj\n\n",
        2: b"<<\n  /Font <<\n    /fo1 3 0 R\n    /fo0 4 0 R\n  >>\n>>\nendobj\n\n",
        4: b"<<\n  /A 1\n>>\nstream\n9 0 R\nendstream\nendobj\n\n",
    }
    rows = {}
    for number, body in bodies.items():
        rows[number] = sum(map(len, parts))
        parts.append(f"{number} 0 obj\n".encode() + body)
    table = b"xref\n0 5\n0000000000 65535 f\r\n0000000000 00000 f\r\n"
    table += b"".join(f"{rows[n]:010d} 00000 n\r\n".encode() for n in (2, 3, 4))
    start = sum(map(len, parts))
    made = in_order(
        b"".join(parts) + table + b"trailer\n<<\n  /Root 2 0 R\n>>\n"
        b"startxref\n" + str(start).encode() + b"\n%%EOF"
    )
    assert re.findall(rb"/(fo\d) (\d) 0 R|(\d) 0 obj\n<<\n  /(\w+)", made) == [
        (b"", b"", b"1", b"Font"), (b"fo0", b"2", b"", b""), (b"fo1", b"3", b"", b""),
        (b"", b"", b"2", b"A"), (b"", b"", b"3", b"B"),
    ]  # fmt: skip
    assert b"stream\n9 0 R\nendstream" in made
    for number, offset in enumerate(re.findall(rb"(\d{10}) 00000 n", made), 1):
        assert made[int(offset) :].startswith(f"{number} 0 obj".encode())
    assert made[int(made.split()[-2]) :].startswith(b"xref")


def test_columns_hold_what_rows_held() -> None:
    rows = [{"a": "x", "b": 1.0}, {"a": "y", "b": None}, {"a": "x", "b": 0.5}]
    assert by_column(rows) == {
        "length": 3,
        "columns": {"a": {"texts": ["x", "y"], "places": [0, 1, 0]}, "b": [1, None, 0.5]},
    }


def test_the_report_never_imports_torch() -> None:
    code = "import sys, moe_lens.report; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_study_of_full_size_fits(tmp_path: Path) -> None:
    run = write_run(tmp_path, synthetic_tables())
    path = write_report(run, figures=())
    assert path.stat().st_size < 10_000_000


def test_small_charts_keep_the_order_of_the_table_with_all_first() -> None:
    tables = small_tables()
    drawn = picture(figures.perplexity(tables["perplexity"]), name="p", description="d").svg
    shown = [e.text for e in ET.fromstring(drawn).iter(f"{SVG}text")]
    assert [name for name in shown if name in ("all", "english", "code")] == [
        "all", "english", "code",
    ]  # fmt: skip


def test_a_loss_at_one_k_has_no_shape_and_says_so(tmp_path: Path) -> None:
    tables = small_tables()
    largest = tables["perplexity"]["k"].max()
    alone = pl.col("k") == largest
    tables["perplexity"] = (
        tables["perplexity"].filter(alone).with_columns(minmax=pl.lit(None, pl.Float64))
    )
    run = write_run(tmp_path, tables)
    page = Page(write_report(run))
    assert "it needs the loss at two numbers of active experts" in page.text
    assert not (run / "figures" / "perplexity_minmax.svg").exists()
    assert (run / "figures" / "perplexity.svg").exists()
