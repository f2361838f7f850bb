"""`TokenBatches`: put the layers of a batch of tokens together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar, final

import torch

from moe_lens.event import LayerEvent, Tokens

Kept = TypeVar("Kept")


@final
class OpenBatch(Generic[Kept]):
    """A batch whose later layers are still to come.

    Attributes:
        tokens: The rows of every event of this batch.
        kept: What the owner keeps between layers, in layer order.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.kept: list[Kept] = []


@final
class TokenBatches(Generic[Kept]):
    """The batches under way, when events of one batch come in layer order.

    Several batches may be under way at once: a layer-by-layer engine sends every batch through a
    layer before the next. A batch opens at the first of `layers` and is done after the last.

    Args:
        layers: The model's MoE layers, in rising order.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(
                f"layers {list(self.layers)}: list the model's MoE layers once each, in rising "
                f"order"
            )
        self._place = {layer: place for place, layer in enumerate(self.layers)}
        self._open: list[OpenBatch[Kept]] = []

    def join(self, event: LayerEvent, kept: Kept) -> OpenBatch[Kept]:
        """The batch that the event belongs to, with `kept` as its newest part.

        Raises:
            ValueError: The layer is not in `layers`, or these tokens have not been seen at the
                MoE layer before it.
        """
        place = self._place.get(event.layer)
        if place is None:
            raise ValueError(
                f"layer {event.layer}: not one of the MoE layers {list(self.layers)} that were "
                f"given; were they taken from another model?"
            )
        if place == 0:
            batch: OpenBatch[Kept] = OpenBatch(event.tokens)
            self._open.append(batch)
        else:
            batch = self._find(event, place)
        batch.kept.append(kept)
        if place == len(self.layers) - 1:
            self._open.remove(batch)
        return batch

    def require_done(self, what: str) -> None:
        """Refuse to read, save or merge halfway through a batch.

        Raises:
            ValueError: Some batch has not reached the last MoE layer.
        """
        if self._open:
            at = self.layers[len(self._open[0].kept) - 1]
            raise ValueError(
                f"{what}: {len(self._open)} batches have not reached the last MoE layer "
                f"{self.layers[-1]} (the oldest stands at {at}); send all layers of a batch first"
            )

    def _find(self, event: LayerEvent, place: int) -> OpenBatch[Kept]:
        for batch in self._open:
            if len(batch.kept) == place and _same_rows(batch.tokens, event.tokens):
                return batch
        raise ValueError(
            f"layer {event.layer}: these {len(event.tokens.ids)} tokens were not seen at MoE layer "
            f"{self.layers[place - 1]}; send every batch's events in layer order, with the same "
            f"rows at each layer"
        )


def _same_rows(left: Tokens, right: Tokens) -> bool:
    if left is right:
        return True
    return torch.equal(left.document, right.document) and torch.equal(left.position, right.position)
