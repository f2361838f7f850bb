"""`read_run`: the tables and the manifest of one run, checked; absent tables are allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from moe_lens.errors import InputError
from moe_lens.report.schema import SCHEMA


@dataclass(frozen=True)
class Run:
    """What a finished or unfinished run left on disk.

    Attributes:
        directory: Where it lies.
        manifest: `manifest.json`, as JSON values.
        tables: The tables that are there and have rows, by name.
        empty: Names of the tables that are there and have no row.
    """

    directory: Path
    manifest: Mapping[str, Any]
    tables: Mapping[str, pl.DataFrame]
    empty: frozenset[str] = frozenset()

    def why_absent(self, table: str) -> str:
        """The sentence a section shows where its table is not there."""
        if table in self.empty:
            return f"The table tables/{table}.parquet of this run is empty: nothing was counted."
        skipped = self.manifest.get("skipped")
        measure = table.partition("_")[0]
        if isinstance(skipped, Mapping) and measure in skipped:
            return f"This run has no table tables/{table}.parquet: {skipped[measure]}"
        return (
            f"This run has no table tables/{table}.parquet: it was not measured, or the run is "
            f"not finished."
        )


def read_run(directory: str | Path) -> Run:
    """Read `DIR/manifest.json` and every table of `docs/tables.md` that is there.

    Raises:
        InputError: No manifest, no table at all, a file that cannot be read, or a table whose
            columns are not those of `docs/tables.md`.
    """
    place = Path(directory)
    manifest = _manifest(place / "manifest.json")
    found: dict[str, pl.DataFrame] = {}
    empty: set[str] = set()
    for name in SCHEMA:
        path = place / "tables" / f"{name}.parquet"
        if not path.exists():
            continue
        frame = _table(path)
        if frame.height:
            found[name] = frame
        else:
            empty.add(name)
    if not found and not empty:
        raise InputError(
            f"{place / 'tables'}: no table of a run here (one of {', '.join(SCHEMA)} as "
            f".parquet); give the directory that `moe-lens run --out` wrote"
        )
    return Run(place, manifest, found, frozenset(empty))


def check_columns(frame: pl.DataFrame, table: str, *, where: str | None = None) -> pl.DataFrame:
    """Refuse a frame that lacks a column of its table, or has one of another type.

    Columns beyond the contract are allowed.

    Raises:
        InputError: A column is missing or of another type.
    """
    where = where or f"table {table}"
    for column, kind in SCHEMA[table].items():
        if column not in frame.columns:
            raise InputError(
                f"{where}: column {column!r} is missing (it has {', '.join(frame.columns)}); "
                f"docs/tables.md lists the columns of {table}; was it written by this version "
                f"of moe-lens? Run again, or remove the file to leave it out of the report"
            )
        if not kind.holds(frame[column]):
            raise InputError(
                f"{where}: column {column!r} holds {frame[column].dtype}, but {table} needs "
                f"{kind.value} there (docs/tables.md); run again, or remove the file to leave it "
                f"out of the report"
            )
    return frame


def _table(path: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as Parquet ({error}); run again to write it anew, or "
            f"remove it to leave it out of the report"
        ) from error
    return check_columns(frame, path.stem, where=str(path))


def _manifest(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no manifest, so this is not the directory of a run; give the one that "
            f"`moe-lens run --out` wrote"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error}); run again") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: a manifest is a JSON object, not {type(values).__name__}")
    return values
