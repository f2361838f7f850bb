"""The lens grid of one prompt: layers by states, the top word in each cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from moe_lens.report.words import visible

MAX_CELLS = 20_000
"""Positions beyond this many cells stay in the table; the last of the prompt are kept."""


@dataclass(frozen=True)
class Cell:
    """One state of one layer, decoded."""

    token: str
    probability: float | None
    expert: int | None
    weight: float | None
    following: tuple[tuple[str, float | None], ...]
    as_layer: bool

    @property
    def level(self) -> int:
        """Probability in ten steps, 0 to 9."""
        return min(int((self.probability or 0) * 10), 9)

    @property
    def note(self) -> str:
        """What stands below the word: its probability, and which expert where one is meant."""
        parts = [_probability(self.probability)]
        if self.expert is not None:
            parts.append(f"e{self.expert}")
        return " · ".join(parts)

    @property
    def details(self) -> str:
        """Everything known about the cell, as one line."""
        said = f"{self.token} {_probability(self.probability)}"
        if self.expert is not None:
            said += f"; expert {self.expert}"
            if self.weight is not None:
                said += f", weight {self.weight:.3f}"
        rest = ", ".join(f"{word} {_probability(p)}" for word, p in self.following)
        said += f"; most probable: {rest}" if rest else ""
        return said + ("; same word as the layer" if self.as_layer else "")


@dataclass(frozen=True)
class Grid:
    """The whole grid.

    Attributes:
        positions: Position in the prompt and its token, in order.
        layers: Layers, last first: the page is read downwards to the input.
        states: State and what it means.
        cells: Position, layer and state to its cell; some may be absent.
        left_out: How many positions were left out at the start.
    """

    positions: list[tuple[int, str]]
    layers: list[int]
    states: list[tuple[str, str]]
    cells: dict[tuple[int, int, str], Cell]
    left_out: int

    def data(self) -> dict[str, Any]:
        """The grid for the page's script: words once, cells by place."""
        words: dict[str, int] = {}

        def place(word: str) -> int:
            return words.setdefault(word, len(words))

        def plain(cell: Cell | None) -> list[Any] | None:
            if cell is None:
                return None
            following = [[place(word), _short(p)] for word, p in cell.following]
            return [
                place(cell.token), _short(cell.probability), cell.expert, _short(cell.weight),
                following, int(cell.as_layer),
            ]  # fmt: skip

        cells = [
            [
                [plain(self.cells.get((position, layer, state))) for state, _ in self.states]
                for layer in self.layers
            ]
            for position, _ in self.positions
        ]
        return {"cells": cells, "words": list(words)}


def read_grid(frame: pl.DataFrame) -> Grid:
    """The grid in a table `lens_grid`."""
    found = frame["state"].unique(maintain_order=True).to_list()
    states = [(state, state_words(state)) for state in sorted(found, key=_state_order)]
    layers = sorted(frame["layer"].unique().to_list(), reverse=True)
    tokens = dict(frame.select("position", "token").iter_rows())
    kept = sorted(tokens)[-max(MAX_CELLS // (len(states) * len(layers)), 1) :]
    cells: dict[tuple[int, int, str], Cell] = {}
    shown = frame.filter(pl.col("position").is_in(kept))
    own = {
        (row["position"], row["layer"]): row["top_token"]
        for row in shown.filter(pl.col("state") == "layer").iter_rows(named=True)
    }
    for row in shown.iter_rows(named=True):
        where = (row["position"], row["layer"])
        following = zip(row["next_tokens"] or [], row["next_probabilities"] or [], strict=False)
        cells[*where, row["state"]] = Cell(
            token=visible(row["top_token"]),
            probability=row["probability"],
            expert=row["expert"],
            weight=row["weight"],
            following=tuple((visible(word), chance) for word, chance in following),
            as_layer=own.get(where) == row["top_token"] and row["state"] != "layer",
        )
    positions = [(position, visible(tokens[position])) for position in kept]
    return Grid(positions, layers, states, cells, len(tokens) - len(kept))


def state_words(state: str) -> str:
    """What a state is, for a column's heading."""
    words = {
        "layer": "the layer's output",
        "resid": "residual alone (control)",
        "resid_shared": "residual + shared experts",
        "shared": "shared experts alone",
    }
    if state in words:
        return words[state]
    kind, number = state.rstrip("0123456789"), state.lstrip("abcdefghijklmnopqrstuvwxyz_")
    if kind == "rank" and number:
        return f"residual + rank {number} expert"
    if kind == "top" and number:
        return f"residual + top {number}"
    return state


def _state_order(state: str) -> tuple[int, int, str]:
    kind = state.rstrip("0123456789")
    kinds = ["layer", "resid", "resid_shared", "top", "rank", "shared"]
    number = state[len(kind) :]
    return (kinds.index(kind) if kind in kinds else len(kinds), int(number or 0), state)


def _probability(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.3g} %" if value >= 1e-4 else "< 0.01 %"


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
