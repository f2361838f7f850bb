"""`ScoreRun`: a scoring's folder, read."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from moe_lens.errors import InputError
from moe_lens.study.files import MANIFEST, STATE, TABLES
from moe_lens.study.folder import RunFolder


def is_finished(directory: Path) -> bool:
    """Whether all tables of a scoring are there: then what it worked from is gone."""
    there = (directory / TABLES / "importance.parquet").is_file()
    return there and not (directory / STATE).exists()


class ScoreRun(RunFolder):
    """The tables of a finished scoring, as polars frames. Columns: docs/tables.md.

    Args:
        directory: What `score` wrote.

    Raises:
        InputError: There is no scoring, or it is not finished.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__(Path(directory))
        if not (self.directory / MANIFEST).is_file():
            raise InputError(f"{self.directory} holds no scoring: it has no {MANIFEST}")
        if not is_finished(self.directory):
            raise InputError(
                f"{self.directory} holds no finished scoring; start `moe-lens score` again to go on"
            )

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
