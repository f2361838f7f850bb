"""Find the choice rule that reproduces a router: try every known one, keep what matches exactly.

Nothing is read off a family's name. The settings that a rule could have (a selection bias, groups)
are looked for where routers keep them, and a rule is accepted only if it gives every id and every
weight that the router gave on the probe batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from moe_lens.choice import ChoiceRule, Groups, GroupScore, Scoring
from moe_lens.models.routers import NUM_GROUPS_NAMES, TOPK_GROUP_NAMES, declared_number
from moe_lens.models.structure import MoELayer
from moe_lens.routing import Routing

_TOLERANCE = 1e-5


def fit_rule(layer: MoELayer, routing: Routing) -> ChoiceRule | None:
    """The known rule that gives exactly this routing from its scores, or None.

    Rules that use more of what the router holds are tried first: a selection bias that happened
    not to matter on the probe batch still belongs to the rule.
    """
    if routing.scores is None or routing.scores.shape[-1] != routing.num_experts:
        return None
    candidates = product(_biases(layer), _groups(layer), Scoring, (False, True))
    for bias, groups, scoring, normalize in candidates:
        rule = ChoiceRule(
            scoring,
            normalize,
            epsilon=1e-20,
            bias=bias,
            groups=groups,
            jitter=float(getattr(layer.router, "router_jitter_noise", 0.0)),
        )
        fitted = _scaled(rule, routing)
        if fitted is not None and reproduces(fitted, routing):
            return fitted
    return None


def reproduces(rule: ChoiceRule, routing: Routing) -> bool:
    """Whether a rule gives every id and weight of a routing, weights to a relative 1e-5."""
    assert routing.scores is not None
    choice = rule.choose(routing.scores, routing.num_slots)
    again = Routing.from_choice(choice.experts, choice.weights, num_experts=routing.num_experts)
    same_ids = torch.equal(again.experts.sort().values, routing.experts.sort().values)
    return same_ids and _close(again.weights, routing.weights)


def _scaled(rule: ChoiceRule, routing: Routing) -> ChoiceRule | None:
    """The rule with the one factor that brings its weights to the router's, if there is one."""
    assert routing.scores is not None
    choice = rule.choose(routing.scores, routing.num_slots)
    ratio = routing.weights / choice.weights.sort(dim=-1, descending=True).values
    scale = float(ratio.double().median())
    if not scale > 0:
        return None
    nearest = round(scale, 4)
    exact = nearest if abs(scale - nearest) <= _TOLERANCE * scale else scale
    return replace(rule, scale=exact)


def _close(left: Float[Tensor, "tok slot"], right: Float[Tensor, "tok slot"]) -> bool:
    return bool(((left - right).abs() <= _TOLERANCE * right.abs().clamp(min=1e-6)).all())


def _biases(layer: MoELayer) -> Iterator[Float[Tensor, " expert"] | None]:
    seen: set[int] = set()
    for module in (layer.router, layer.block):
        for name, tensor in (*module.named_buffers(), *module.named_parameters()):
            is_bias = "bias" in name.rsplit(".", 1)[-1] and name.rsplit(".", 1)[-1] != "bias"
            if is_bias and tensor.numel() == layer.num_experts and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor.detach().float().reshape(-1).clone()  # a streamed layer goes
    yield None


def _groups(layer: MoELayer) -> Iterator[Groups | None]:
    num_groups = declared_number(layer, NUM_GROUPS_NAMES)
    num_kept = declared_number(layer, TOPK_GROUP_NAMES)
    if num_groups and num_kept and num_kept < num_groups:
        for score in GroupScore:
            yield Groups(num_groups, num_kept, score)
    yield None
