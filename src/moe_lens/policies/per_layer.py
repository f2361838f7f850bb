"""Another k, or another factor, in each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from moe_lens.policies.base import Policy, RouterContext
from moe_lens.policies.keep import KeepTopK, Renorm
from moe_lens.routing import Routing


@final
@dataclass(frozen=True)
class KeepPerLayer(Policy):
    """At most k experts for each token, another k in each layer; other layers are left alone."""

    ks: Mapping[int, int]
    renorm: Renorm = Renorm.NATIVE

    def __post_init__(self) -> None:
        for layer, k in self.ks.items():
            if k < 1:
                raise ValueError(f"layer {layer}: k = {k}: at least 1 expert must stay active")

    @property
    def chooses_anew(self) -> bool:
        """Whether the router's scores are read again."""
        return self.renorm is Renorm.NATIVE

    def apply(self, routing: Routing, context: RouterContext) -> Routing:
        """As `KeepTopK` with the layer's k."""
        k = self.ks.get(context.layer)
        return routing if k is None else KeepTopK(k, self.renorm).apply(routing, context)

    def describe(self) -> Mapping[str, object]:
        """Name, k of each layer, and renorm."""
        ks = {str(layer): k for layer, k in sorted(self.ks.items())}
        return {"policy": "keep_per_layer", "k": ks, "renorm": self.renorm.value}


@final
@dataclass(frozen=True)
class ScaleWeights(Policy):
    """Every weight of a layer times that layer's factor; other layers are left alone.

    Source: terms.md#fitted-scale
    """

    scales: Mapping[int, float]

    def apply(self, routing: Routing, context: RouterContext) -> Routing:
        """The same choice at scaled weights."""
        scale = self.scales.get(context.layer)
        return routing if scale is None else routing.with_slots(weights=routing.weights * scale)

    def describe(self) -> Mapping[str, object]:
        """Name and factors."""
        scales = {str(layer): scale for layer, scale in sorted(self.scales.items())}
        return {"policy": "scale_weights", "scale": scales}
