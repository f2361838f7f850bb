"""`TokenBlock`: some tokens' routing at every MoE layer, as a trace's rows and as events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moe_lens.errors import TraceError
from moe_lens.event import LayerEvent, Tokens
from moe_lens.routing import Routing
from moe_lens.traces.manifest import TraceManifest


@dataclass(frozen=True, eq=False)
class TokenBlock:
    """Tokens in trace order; the choices' axes are token, layer, slot.

    Attributes:
        domain: Each token's domain.
        document: Each token's document.
        position: Each token's place in its document.
        token_id: Vocabulary ids; None where they were not recorded.
        experts: The chosen experts.
        weights: Their weights; None where they were not recorded.
        num_active: How many slots are active at each layer; the others come last.
    """

    domain: pl.Series
    document: NDArray[np.int64]
    position: NDArray[np.int64]
    token_id: NDArray[np.int64] | None
    experts: NDArray[np.int64]
    weights: NDArray[np.float32] | None
    num_active: NDArray[np.int64]

    @property
    def num_tokens(self) -> int:
        """How many tokens there are."""
        return len(self.document)

    def check(self, manifest: TraceManifest, *, path: str) -> None:
        """Prove that the choices can be counted.

        Raises:
            TraceError: An id out of range, an expert twice in a token, a weight that is not
                finite or out of place, or weights that are missing.
        """
        experts, weights = self.experts, self.weights
        place = np.arange(manifest.top_k)
        active = place < self.num_active[:, :, None]
        wrong = (experts < 0) | (experts >= manifest.num_experts)
        if (at := _first(wrong)) is not None:
            raise TraceError(
                f"{path}: {self._where(at, manifest)}: expert {experts[at]}, but experts are 0 to "
                f"{manifest.num_experts - 1}; is num_experts that of the model, and is this token "
                f"one that the engine recorded?"
            )
        wrong = (self.num_active < 0) | (self.num_active > manifest.top_k)
        if (at := _first(wrong)) is not None:
            raise TraceError(
                f"{path}: {self._where(at, manifest)}: {self.num_active[at]} active slots of "
                f"{manifest.top_k}; num_active is 0 to top_k"
            )
        rising = np.sort(np.where(active, experts, manifest.num_experts + place), axis=-1)
        if (at := _first(rising[..., 1:] == rising[..., :-1])) is not None:
            raise TraceError(
                f"{path}: {self._where(at, manifest)}: the token lists an expert twice, "
                f"{experts[at[:2]].tolist()}; {_twice_advice(experts, at[1])}"
            )
        if weights is None:
            return
        if (at := _first(~np.isfinite(weights))) is not None:
            raise TraceError(
                f"{path}: {self._where(at, manifest)}: weight {weights[at]} of expert "
                f"{experts[at]} is not finite; leave the token out, or record it again"
            )
        if (at := _first((weights != 0) & ~active)) is not None:
            raise TraceError(
                f"{path}: {self._where(at, manifest)}: weight {weights[at]} in an inactive slot; "
                f"the first num_active slots are active, and the others have weight 0"
            )
        if (at := _first(active.any(-1) & (weights == 0).all(-1))) is not None:
            raise TraceError(
                f"{path}: {self._where(at, manifest)}: every weight is 0, so weights were not "
                f"recorded; write the trace with has_weights=False, without weight columns"
            )

    def events(self, manifest: TraceManifest) -> Iterator[LayerEvent]:
        """One event for each MoE layer, in layer order."""
        ids = np.full(self.num_tokens, -1) if self.token_id is None else self.token_id
        tokens = Tokens(
            ids=torch.from_numpy(ids),
            document=torch.from_numpy(self.document),
            position=torch.from_numpy(self.position),
        )
        for place, layer in enumerate(manifest.layers):
            experts = torch.from_numpy(self.experts[:, place])
            num_active = torch.from_numpy(self.num_active[:, place])
            if self.weights is None:
                weights = torch.zeros(experts.shape, dtype=torch.float32)
            else:
                weights = torch.from_numpy(self.weights[:, place])
            routing = Routing(
                scores=None,
                weights=weights,
                experts=experts,
                active=torch.arange(manifest.top_k) < num_active[:, None],
                num_experts=manifest.num_experts,
            )
            yield LayerEvent(layer=layer, tokens=tokens, routing=routing.ranked())

    def select(self, keep: NDArray[np.bool_]) -> TokenBlock:
        """Some of the tokens."""
        return TokenBlock(
            domain=self.domain.filter(pl.Series(keep)),
            document=self.document[keep],
            position=self.position[keep],
            token_id=None if self.token_id is None else self.token_id[keep],
            experts=self.experts[keep],
            weights=None if self.weights is None else self.weights[keep],
            num_active=self.num_active[keep],
        )

    def _where(self, at: tuple[int, ...], manifest: TraceManifest) -> str:
        return (
            f"document {self.document[at[0]]}, token {self.position[at[0]]}, "
            f"layer {manifest.layers[at[1]]}"
        )


def _first(wrong: NDArray[np.bool_]) -> tuple[int, ...] | None:
    """The first place where something is wrong."""
    if not wrong.any():
        return None
    return tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))


def _twice_advice(experts: NDArray[np.int64], layer: int) -> str:
    if (experts[:, layer] == 0).all():
        return (
            "all ids of this layer are 0, as serving engines fill in for dense layers: leave "
            "those out of the ids and of `layers`"
        )
    return "leave the token out, or record it again"
