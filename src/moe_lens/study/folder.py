"""`RunFolder`: manifest and tables of a finished run, whatever kind of run it was."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from moe_lens.errors import InputError
from moe_lens.study.files import MANIFEST, TABLES


class RunFolder:
    """A directory with a manifest and tables; its kinds say what is in them.

    Args:
        directory: Where it lies; its kind has checked that it is finished.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r}: {', '.join(self.tables)})"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the run is, and under `skipped` what its model could not give, and why."""
        values: dict[str, Any] = json.loads((self.directory / MANIFEST).read_text("utf-8"))
        return values

    @property
    def tables(self) -> list[str]:
        """Names of the tables that were measured."""
        return sorted(file.stem for file in (self.directory / TABLES).glob("*.parquet"))

    def table(self, name: str) -> pl.DataFrame:
        """One table.

        Raises:
            InputError: It was not measured.
        """
        if name not in self.tables:
            raise InputError(
                f"{self.directory} has no table {name!r}; it has {', '.join(self.tables)}"
            )
        return pl.read_parquet(self.directory / TABLES / f"{name}.parquet")
