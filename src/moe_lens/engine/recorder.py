"""`Recorder`: keep whole events, for a look at a few tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from moe_lens.engine.states import sum_dtype
from moe_lens.event import Field, LayerEvent


class Recorder:
    """A sink that copies every event it gets, since the engine reuses its buffers.

    Experts' outputs are kept in float32, in which weights are, so that sums of the two are.
    Memory grows with tokens x layers: for statistics over a corpus use accumulators.
    """

    def __init__(self, fields: Iterable[Field] = ()) -> None:
        self.fields = frozenset(fields)
        self.events: list[LayerEvent] = []

    def update(self, event: LayerEvent) -> None:
        """Copy and keep one event."""
        copies: dict[str, Any] = {
            f.name: value.clone()
            for f in fields(event)
            if isinstance(value := getattr(event, f.name), Tensor)
        }
        if event.outputs is not None:
            copies["outputs"] = copies["outputs"].to(sum_dtype(event.outputs))
        self.events.append(replace(event, **copies))
