"""What a section of the report is made of: figures, listings, the lens grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import polars as pl

from moe_lens.report.figures import Chart
from moe_lens.report.words import harmless

Excerpt: TypeAlias = Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True)
class Figure:
    """One chart of the report.

    Attributes:
        name: Its file name and its anchor.
        table: The table it draws.
        heading: The question it answers.
        how_to_read: What a reader needs who has not read the paper.
        draw: Table to chart.
        find: Table to the sentence that says what is seen.
        excerpt: Table to the rows that are shown as a table, most telling first.
        canvas: Whether it has too many marks to be drawn as SVG elements.
        lacking: Table to the reason why it cannot be drawn from it; None where it can.
    """

    name: str
    table: str
    heading: str
    how_to_read: str
    draw: Callable[[pl.DataFrame], Chart]
    find: Callable[[pl.DataFrame], str]
    excerpt: Excerpt
    canvas: bool = False
    lacking: Callable[[pl.DataFrame], str | None] = lambda frame: None

    def finding(self, frame: pl.DataFrame) -> str:
        """The sentence that says what is seen, safe to stand inside another text."""
        return harmless(self.find(frame))


@dataclass(frozen=True)
class Listing:
    """Rows that are best read as rows, without a chart.

    Attributes:
        name: Its anchor.
        table: The table it shows.
        heading: The question it answers.
        how_to_read: What a reader needs who has not read the paper.
        excerpt: Table to the rows that are shown, most telling first.
    """

    name: str
    table: str
    heading: str
    how_to_read: str
    excerpt: Excerpt


@dataclass(frozen=True)
class LensGrid:
    """The extended logit lens on one prompt, of the table `lens_grid`."""

    name: str = "lens_grid"
    table: str = "lens_grid"
    heading: str = "What does each part of each layer say?"


Part: TypeAlias = Figure | Listing | LensGrid


@dataclass(frozen=True)
class Section:
    """One question of the report, and the parts that answer it, in order.

    Attributes:
        anchor: What a link to it says.
        heading: The question.
        lead: What it is about, in a sentence or two.
        parts: What answers it.
        always: Whether it belongs to every study, which is told why a table of it is absent; else
            a run without its tables does not have the section.
    """

    anchor: str
    heading: str
    lead: str
    parts: tuple[Part, ...]
    always: bool = False


def columns(*names: str) -> Excerpt:
    """All rows, with these columns."""
    return lambda frame: frame.select(names)


def everything(frame: pl.DataFrame) -> pl.DataFrame:
    """All rows, with all columns."""
    return frame
