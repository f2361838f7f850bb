"""`ScoreRun`: a scoring's folder, read."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from moe_lens.errors import InputError
from moe_lens.study.files import MANIFEST, STATE, TABLES


def is_finished(directory: Path) -> bool:
    """Whether all tables of a scoring are there: then what it worked from is gone."""
    there = (directory / TABLES / "importance.parquet").is_file()
    return there and not (directory / STATE).exists()


class ScoreRun:
    """The tables of a finished scoring, as polars frames. Columns: docs/tables.md.

    Args:
        directory: What `score` wrote.

    Raises:
        InputError: There is no scoring, or it is not finished.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        if not (self.directory / MANIFEST).is_file():
            raise InputError(f"{self.directory} holds no scoring: it has no {MANIFEST}")
        if not is_finished(self.directory):
            raise InputError(
                f"{self.directory} holds no finished scoring; start `moe-lens score` again to go on"
            )

    def __repr__(self) -> str:
        return f"ScoreRun({str(self.directory)!r}: {', '.join(self.tables)})"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the scoring is; `skipped` names criteria that the model cannot give, and why."""
        values: dict[str, Any] = json.loads((self.directory / MANIFEST).read_text("utf-8"))
        return values

    @property
    def tables(self) -> list[str]:
        """Names of the tables that are there."""
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

    @property
    def importance(self) -> pl.DataFrame:
        """Every expert's score by every criterion, for each domain and all of them."""
        return self.table("importance")

    @property
    def causal(self) -> pl.DataFrame:
        """What becomes of the loss when an expert is taken from the tokens that chose it."""
        return self.table("causal")

    @property
    def prediction(self) -> pl.DataFrame:
        """How well each criterion foretells that."""
        return self.table("prediction")

    @property
    def stability(self) -> pl.DataFrame:
        """Whether other documents would have ranked the experts alike."""
        return self.table("stability")
