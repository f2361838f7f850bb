"""`Study`: a run's folder, read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from moe_lens.errors import InputError
from moe_lens.study.files import MANIFEST, TABLES
from moe_lens.study.folder import RunFolder

_LAST_TABLES = {"study": "claims", "frontier": "frontier"}
"""Kind of run -> its table that is written last."""


def is_finished(directory: Path) -> bool:
    """Whether all tables of a run are there, which the last one says."""
    manifest = json.loads((directory / MANIFEST).read_text("utf-8"))
    last = _LAST_TABLES[manifest.get("kind", "study")]
    return (directory / TABLES / f"{last}.parquet").is_file()


class StudyFigures:
    """A run's figures as Altair charts, shown by a notebook: `study.figures.similarity()`."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def specialization(self) -> Any:
        """Rates of experts beside k / N, for one domain and layer at a time."""
        return self._draw("specialization", "specialization")

    def heatmap(self) -> Any:
        """Rates of all experts, layer by expert, for each domain."""
        return self._draw("heatmap", "specialization")

    def concentration(self) -> Any:
        """n50 per layer and domain, beside uniform use."""
        return self._draw("concentration", "concentration")

    def information(self) -> Any:
        """Mutual information of domain and expert, beside its shuffled control."""
        return self._draw("information", "information")

    def overlap(self) -> Any:
        """Which domains share their experts."""
        return self._draw("overlap", "overlap")

    def similarity(self) -> Any:
        """cos(H_1, H_k) per layer, beside its controls."""
        return self._draw("similarity", "similarity")

    def perplexity(self) -> Any:
        """What fewer active experts cost."""
        return self._draw("perplexity", "perplexity")

    def perplexity_minmax(self) -> Any:
        """The paper's curve: each domain's perplexity over k, from 0 to 1."""
        return self._draw("perplexity_minmax", "perplexity")

    def frontier(self) -> Any:
        """What policies cost in loss against how many experts work."""
        return self._draw("frontier", "frontier")

    def lens(self) -> Any:
        """What states decode to, beside the residual alone."""
        return self._draw("lens", "lens")

    def _draw(self, figure: str, table: str) -> Any:
        from moe_lens.report import figures

        return getattr(figures, figure)(self._study.table(table))


class Study(RunFolder):
    """The tables of a finished run, as polars frames. Columns: docs/tables.md.

    Args:
        directory: What `run` wrote.

    Raises:
        InputError: There is no run, or it is not finished.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__(Path(directory))
        if not (self.directory / MANIFEST).is_file():
            raise InputError(f"{self.directory} holds no run: it has no {MANIFEST}")
        if not is_finished(self.directory):
            raise InputError(
                f"{self.directory} holds a run that is not finished; start it again to go on"
            )

    @property
    def figures(self) -> StudyFigures:
        """Charts of the tables."""
        return StudyFigures(self)

    @property
    def specialization(self) -> pl.DataFrame:
        """How often each domain's tokens choose each expert, against chance."""
        return self.table("specialization")

    @property
    def concentration(self) -> pl.DataFrame:
        """How few experts take most decisions."""
        return self.table("concentration")

    @property
    def information(self) -> pl.DataFrame:
        """What a token's experts tell of its domain."""
        return self.table("information")

    @property
    def similarity(self) -> pl.DataFrame:
        """How close one expert comes to all of them."""
        return self.table("similarity")

    @property
    def perplexity(self) -> pl.DataFrame:
        """What fewer active experts cost."""
        return self.table("perplexity")

    @property
    def frontier(self) -> pl.DataFrame:
        """What policies cost in loss and save in work."""
        return self.table("frontier")

    @property
    def lens(self) -> pl.DataFrame:
        """What states decode to."""
        return self.table("lens")

    @property
    def claims(self) -> pl.DataFrame:
        """The paper's claims, judged for this model and text."""
        return self.table("claims")
