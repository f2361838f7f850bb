"""Numbers with intervals, the rules that judge them, and how both are said in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import polars as pl

Verdict = Literal["holds", "does not hold", "cannot be told"]

CLOSED = 0.5
"""Close to the layer: at least this part of what the residual alone leaves open."""


@dataclass(frozen=True)
class Measure:
    """A number with its interval; without one both ends are None."""

    value: float
    low: float | None
    high: float | None


def mean_of(rows: pl.DataFrame, value: str, low: str, high: str) -> Measure:
    """The mean over rows, and the means of the ends: as wide as if all rows erred together.

    Rows without an interval are left out, unless none has one.
    """
    told = rows.filter(pl.col(low).is_not_null() & pl.col(high).is_not_null())
    if told.is_empty():
        return Measure(average(rows[value]), None, None)
    return Measure(average(told[value]), average(told[low]), average(told[high]))


def average(column: pl.Series) -> float:
    """The mean of a column as a float."""
    return float(column.cast(pl.Float64).to_numpy().mean())


def above(measured: Measure, threshold: float) -> Verdict:
    """Whether the number is at least the threshold: the whole interval has to say so."""
    if measured.low is None or measured.high is None:
        return "cannot be told"
    if measured.low >= threshold:
        return "holds"
    return "does not hold" if measured.high < threshold else "cannot be told"


def below(measured: Measure, threshold: float) -> Verdict:
    """Whether the number is at most the threshold: the whole interval has to say so."""
    if measured.low is None or measured.high is None:
        return "cannot be told"
    if measured.high <= threshold:
        return "holds"
    return "does not hold" if measured.low > threshold else "cannot be told"


def closes(measured: Measure, control: Measure) -> Verdict:
    """Whether at least half of the distance from the control to 1 is closed.

    The control's own interval counts: the midpoint is taken from its upper end to hold, and from
    its lower end not to.
    """
    if control.low is None or control.high is None:
        return "cannot be told"
    if above(measured, _midpoint(control.high)) == "holds":
        return "holds"
    refuted = above(measured, _midpoint(control.low)) == "does not hold"
    return "does not hold" if refuted else "cannot be told"


def says_closed(measured: Measure, control: Measure) -> str:
    """How much of the distance from the control to 1 is closed."""
    if control.value >= 1:
        return "the residual alone leaves nothing open"
    part = (measured.value - control.value) / (1 - control.value)
    if part < 0:
        return "the expert takes it further away than the residual alone is"
    return f"the expert closes {100 * part:.0f} % of what the residual leaves open"


def says(verdict: Verdict) -> str:
    """The verdict as the end of a sentence."""
    return {
        "holds": "the claim holds",
        "does not hold": "the claim does not hold",
        "cannot be told": "it cannot be told at this sample size",
    }[verdict]


def between(measured: Measure, show: Callable[[float], str]) -> str:
    """The interval in brackets, or what is missing."""
    if measured.low is None or measured.high is None:
        return " (too few documents for an interval)"
    return f" (95 % interval {show(measured.low)} to {show(measured.high)})"


def percent(change: float) -> str:
    """A change with its sign, in per cent."""
    return f"{100 * change:+.1f} %"


def share(part: float) -> str:
    """A part in per cent."""
    return f"{100 * part:.1f} %"


def _midpoint(control: float) -> float:
    return control + CLOSED * (1 - control)
