"""The contract of docs/tables.md: what is read, and what is refused with which words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest

from moe_lens.errors import InputError
from moe_lens.report import read_run, write_report
from moe_lens.report.schema import SCHEMA, Kind
from moe_lens.report.tables import check_columns
from tests.report.conftest import small_tables

GOLDEN = Path(__file__).with_name("schema.golden.txt")
CONTRACT = Path(__file__).parents[2] / "docs" / "tables.md"


def test_the_schema_is_the_golden_one() -> None:
    lines = [
        f"{table}.{column}: {kind.value}"
        for table, columns in SCHEMA.items()
        for column, kind in columns.items()
    ]
    assert lines == GOLDEN.read_text().splitlines()


@pytest.mark.parametrize("table", SCHEMA)
def test_every_column_is_in_the_contract(table: str) -> None:
    text = CONTRACT.read_text()
    section = re.search(rf"^## {table}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert section, table
    common = {"domain", "layer", "expert", "slot", "k"}
    for column in SCHEMA[table]:
        stem = re.sub(r"_(low|high)$", "", column)
        told = {f"`{column}`", f"`{stem}`"} & set(re.findall(r"`[^`]+`", section[1]))
        assert told or column in common, f"{table}.{column} is not in docs/tables.md"


def test_made_up_tables_fit_the_contract() -> None:
    tables = small_tables()
    assert set(tables) == set(SCHEMA)
    for name, frame in tables.items():
        check_columns(frame, name)


def test_a_run_is_read_as_it_lies(small: Path) -> None:
    run = read_run(small)
    assert set(run.tables) == set(SCHEMA)
    assert run.manifest["model"]["source"] == "example-org/moe-16b-base"
    assert run.tables["specialization"].height == 2 * 3 * 8


def test_absent_and_empty_tables_are_told_apart(small: Path) -> None:
    (small / "tables" / "lens.parquet").unlink()
    path = small / "tables" / "overlap.parquet"
    pl.read_parquet(path).clear().write_parquet(path)
    run = read_run(small)
    assert "lens" not in run.tables
    assert "overlap" not in run.tables
    assert "not measured" in run.why_absent("lens")
    assert "is empty" in run.why_absent("overlap")


def test_the_manifest_says_why_a_table_is_absent(small: Path) -> None:
    why = "the block's output is not added to the residual stream"
    (small / "manifest.json").write_text(json.dumps({"skipped": {"lens": why}}))
    (small / "tables" / "lens_grid.parquet").unlink()
    assert read_run(small).why_absent("lens_grid").endswith(why)


def test_a_missing_column_is_named_with_its_table_and_a_way_out(small: Path) -> None:
    path = small / "tables" / "similarity.parquet"
    pl.read_parquet(path).drop("mean_low").write_parquet(path)
    with pytest.raises(InputError, match=r"similarity\.parquet: column 'mean_low' is missing.*Run"):
        write_report(small, figures=())


@pytest.mark.parametrize(
    ("table", "column", "value", "words"),
    [
        ("perplexity", "k", "one", "holds String, but perplexity needs whole numbers"),
        ("lens", "state", 3, "holds Int32, but lens needs text"),
        ("lens_grid", "next_tokens", "a", "holds String, but lens_grid needs lists of text"),
        ("concentration", "gini", "high", "holds String, but concentration needs numbers"),
        ("claims", "control", True, "holds Boolean, but claims needs numbers or text"),
    ],
)
def test_a_column_of_another_type_is_refused(
    small: Path, table: str, column: str, value: object, words: str
) -> None:
    path = small / "tables" / f"{table}.parquet"
    pl.read_parquet(path).with_columns(pl.lit(value).alias(column)).write_parquet(path)
    with pytest.raises(InputError, match=f"column '{column}' {words}"):
        read_run(small)


def test_a_column_of_nulls_fits_every_kind() -> None:
    for kind in Kind:
        assert kind.holds(pl.Series([None, None]))


def test_columns_beyond_the_contract_are_allowed(small: Path) -> None:
    path = small / "tables" / "information.parquet"
    pl.read_parquet(path).with_columns(more=pl.lit("x")).write_parquet(path)
    read_run(small)


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path, small: Path) -> None:
    with pytest.raises(InputError, match="no manifest, so this is not the directory of a run"):
        read_run(tmp_path)
    for path in (small / "tables").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no table of a run here"):
        read_run(small)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "not a readable JSON"), ("[1]", "a JSON object, not list")]
)
def test_a_broken_manifest_is_refused(small: Path, text: str, words: str) -> None:
    (small / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=words):
        read_run(small)


def test_a_file_that_is_not_parquet_is_refused(small: Path) -> None:
    (small / "tables" / "lens.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match=r"lens\.parquet: cannot be read as Parquet"):
        read_run(small)
