"""`Reduction`: how far a layer's routed sum moves under policies, without running any of them.

The Gram of a token holds every inner product that is needed: policies re-weigh the experts that
the model chose anyway, and a pass with the model's own routing tells about all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import polars as pl
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from moe_lens.choice import ChoiceRule
from moe_lens.event import Field, LayerEvent
from moe_lens.policies import Policy, RouterContext
from moe_lens.routing import Routing
from moe_lens.stats.ranks import refuse_unweighted, unweighted
from moe_lens.stats.sums import LayerSums

_NUM_LEADING_STATES = 2
_FULL, _CROSS, _PART, _ERROR = range(4)


@dataclass(frozen=True, eq=False)
class LayerFactors:
    """What a layer does with its router's decision, as the load-time proof found it.

    Attributes:
        rule: The choice rule, for policies that choose anew.
        routed_scale: What the block multiplies the routed sum by.
        residual_scale: What the layer multiplies the block's output by.
    """

    rule: ChoiceRule | None = None
    routed_scale: float = 1.0
    residual_scale: float = 1.0


@final
class Reduction:
    """Sums over tokens, per layer and policy, that give the error and the best scale.

    Merging, states and order are as for every statistic; it is no `Accumulator` only since a
    policy is no tensor and its state has to be given again.

    Args:
        policies: By name. Each may only re-weigh or take away experts that the model chose.
        factors: Of every layer.

    Source: terms.md#reduction-error, terms.md#fitted-scale
    """

    needs = frozenset({Field.GRAM, Field.SCORES})

    def __init__(self, policies: Mapping[str, Policy], factors: Mapping[int, LayerFactors]) -> None:
        self._policies, self._factors = dict(policies), dict(factors)
        self._sums = LayerSums("sums")
        self._tokens = LayerSums("tokens")

    def update(self, event: LayerEvent) -> None:
        """Add one layer's tokens.

        Raises:
            ValueError: The event has no Gram or no weights, or a policy brings in experts that
                the model did not choose.
        """
        layer, routing = event.layer, event.routing
        if event.gram is None:
            raise ValueError(f"layer {layer}: reduction needs the Gram (Field.GRAM) in events")
        refuse_unweighted(int(unweighted(routing).sum()), layer=layer, what="reduction")
        factors = self._factors.get(layer, LayerFactors())
        G = event.gram.double()
        slots = slice(_NUM_LEADING_STATES, _NUM_LEADING_STATES + routing.num_slots)
        E, rr = G[:, slots, slots], G[:, 0, 0]
        full = routing.weights.double().to(G.device)
        context = RouterContext(layer, event.tokens, factors.rule)
        totals = self._sums.zeros(
            layer, (len(self._policies), 4), dtype=torch.float64, device=G.device
        )
        for place, policy in enumerate(self._policies.values()):
            part = _reduced(routing, policy, context, factors.routed_scale).to(G.device)
            gone = full - part
            error = factors.residual_scale**2 * _form(E, gone, gone) / rr
            values = (_form(E, full, full), _form(E, full, part), _form(E, part, part), error)
            totals[place] += torch.stack([value.sum() for value in values])
        self._tokens.add(layer, torch.tensor([routing.num_tokens]))

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Add what another's `state` gave."""
        self._sums.merge(LayerSums.from_state("sums", state))
        self._tokens.merge(LayerSums.from_state("tokens", state))

    def state(self) -> dict[str, Tensor]:
        """Everything seen so far, as tensors that safetensors can hold."""
        return self._sums.state() | self._tokens.state()

    def table(self) -> pl.DataFrame:
        """One row for each policy and layer.

        Columns: policy, layer, num_tokens, error (`terms.md#reduction-error`), error_layer
        (sum of |M_k - M'|^2 over sum of |M_k|^2), scale (`terms.md#fitted-scale`; null where the
        policy leaves nothing), error_layer_scaled (with that scale).
        """
        schema = {
            "policy": pl.String,
            "layer": pl.Int64,
            "num_tokens": pl.Int64,
            "error": pl.Float64,
            "error_layer": pl.Float64,
            "scale": pl.Float64,
            "error_layer_scaled": pl.Float64,
        }
        rows = []
        for place, name in enumerate(self._policies):
            for layer, sums in self._sums.items():
                full, cross, part, error = sums[place].tolist()
                count = int(self._tokens.of(layer)[0])
                scale = cross / part if part > 0 else None
                rows.append(
                    {
                        "policy": name,
                        "layer": layer,
                        "num_tokens": count,
                        "error": error / count,
                        "error_layer": max(full - 2 * cross + part, 0.0) / full,
                        "scale": scale,
                        "error_layer_scaled": max(full - cross * (scale or 0.0), 0.0) / full,
                    }
                )
        return pl.DataFrame(rows, schema=schema, orient="row")


def _form(
    E: Float64[Tensor, "tok slot slot"],
    left: Float64[Tensor, "tok slot"],
    right: Float64[Tensor, "tok slot"],
) -> Float64[Tensor, " tok"]:
    """The inner product of two sums of the same vectors."""
    return torch.einsum("ti,tij,tj->t", left, E, right)


def _reduced(
    routing: Routing, policy: Policy, context: RouterContext, routed_scale: float
) -> Float[Tensor, "tok slot"]:
    """The weights under a policy, in the slots of the full routing."""
    after = policy.apply(_unscaled(routing, routed_scale), context)
    same = after.experts.unsqueeze(1) == routing.experts.unsqueeze(2)
    same &= after.active.unsqueeze(1)
    if not torch.equal(same.sum(dim=(1, 2)), after.active.sum(dim=1)):
        name = policy.describe()["policy"]
        raise ValueError(
            f"layer {context.layer}: {name} brings in experts that the model did not choose, "
            f"whose outputs the Gram does not hold; run it instead"
        )
    weights = torch.where(same, after.weights.unsqueeze(1), 0.0).sum(dim=2)
    return weights.double() * routed_scale


def _unscaled(routing: Routing, routed_scale: float) -> Routing:
    """The routing as the router gave it, which is what its rule reproduces."""
    if routed_scale == 1.0:
        return routing
    return replace(routing, weights=routing.weights / routed_scale)
