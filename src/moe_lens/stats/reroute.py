"""What the layer's output would lose if one expert were pruned and its tokens went elsewhere.

Source: terms.md#reroute_error
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from moe_lens.choice import ChoiceRule, Scoring
from moe_lens.routing import Routing


def reroute_squares(
    gram: Float[Tensor, "tok state state"],
    routing: Routing,
    rule: ChoiceRule,
    *,
    routed_scale: float,
) -> Float64[Tensor, "tok expert"]:
    """|M_k - M_k'|^2 for each expert, M_k' being the routed sum with that expert masked.

    A token that chose the expert sends its place to the next in line, and all weights become what
    the rule gives then. A token that did not choose it loses nothing, except under a softmax over
    all experts that is not normalised afterwards: there every weight grows by 1 / (1 - p_e).

    Args:
        gram: Of [resid_mid, shared, E_1 .. E_k, E_next].
        routing: With scores; every slot active.
        rule: The layer's; it must have a successor.
        routed_scale: What the block multiplies the routed sum by.

    Raises:
        ValueError: The Gram has no next expert, or the routing no scores or inactive slots.
    """
    num_slots, scores = routing.num_slots, routing.scores
    if scores is None or not bool(routing.active.all()) or gram.shape[1] != num_slots + 3:
        raise ValueError(
            "re-routing needs the model's own routing with its scores, and a Gram whose last "
            "state is the expert that is next in line"
        )
    G = gram.double()[:, 2:, 2:]
    # In the scores' own precision, as the engine found the expert that it ran.
    spare = rule.successor(scores, routing.experts).to(G.device)
    scores = scores.double().to(G.device)
    experts, now = routing.experts.to(G.device), routing.weights.double().to(G.device)
    now = torch.cat([now, torch.zeros_like(now[:, :1])], dim=1)
    squares = torch.zeros_like(scores)
    if rule.scoring is Scoring.SOFTMAX and not rule.normalize:
        share = scores.softmax(dim=-1)
        whole = _quadratic(now, G).unsqueeze(1)
        squares += whole * (share / (1 - share)) ** 2
    for slot in range(num_slots):
        gone = experts[:, slot : slot + 1]
        then_experts = experts.scatter(1, torch.full_like(gone, slot), spare)
        masked = scores.scatter(1, gone, -torch.inf)
        weights = routed_scale * rule.weigh(masked, then_experts)
        then = torch.cat([weights, weights[:, slot : slot + 1]], dim=1)
        then[:, slot] = 0.0
        squares.scatter_(1, gone, _quadratic(now - then, G).unsqueeze(1))
    return squares


def _quadratic(
    a: Float64[Tensor, "tok state"], G: Float64[Tensor, "tok state state"]
) -> Float64[Tensor, " tok"]:
    found: Tensor = (a.unsqueeze(1) @ G @ a.unsqueeze(2)).reshape(-1)
    return found.clamp_min(0.0)
