"""`Keeper`: what a sweep leaves behind after each layer, so that a killed one goes on there."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from moe_lens.writing import whole

BOUNDARY = "boundary.json"


class Keeper(ABC):
    """Keeps what the sinks of a sweep added up, beside the residual streams.

    Attributes:
        directory: Where the sweep may keep its files.
        reserved_bytes: What the sinks themselves will write to that disk, about.
    """

    directory: Path
    reserved_bytes: int = 0

    @abstractmethod
    def save(self, layer: int) -> None:
        """Keep everything that was added up before this layer; older states must stay until then.

        A kill may come at any moment: what `restore` gave before must not be touched.
        """

    @abstractmethod
    def restore(self, layer: int) -> None:
        """Bring back what was saved before this layer."""

    @abstractmethod
    def saved(self, layer: int) -> None:
        """The sweep will never again restore a layer before this one."""


class Boundary(NamedTuple):
    """Between two layers.

    Attributes:
        layer: The layer that comes next.
        groups: For each batch, the streams that share a residual stream.
        num_tokens: Of each batch, to know the sweep again.
    """

    layer: int
    groups: list[list[list[int]]]
    num_tokens: list[int]


def write_boundary(directory: Path, boundary: Boundary) -> None:
    """Say where the sweep stands; from now on it goes on here."""
    with whole(directory / BOUNDARY) as beside:
        beside.write_text(json.dumps(boundary._asdict()), encoding="utf-8")


def read_boundary(directory: Path, *, num_tokens: Sequence[int]) -> Boundary | None:
    """Where a sweep of these batches stands; None where it is to begin."""
    file = directory / BOUNDARY
    if not file.exists():
        return None
    boundary = Boundary(**json.loads(file.read_text(encoding="utf-8")))
    return boundary if boundary.num_tokens == list(num_tokens) else None


def forget_boundary(directory: Path) -> None:
    """The sweep is done."""
    (directory / BOUNDARY).unlink(missing_ok=True)
