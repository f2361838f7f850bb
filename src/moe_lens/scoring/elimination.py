"""Ranked-choice removal: experts leave one by one, and their tokens vote again."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from moe_lens.choice import ChoiceRule, GroupScore


def elimination_order(
    scores: Float[Tensor, "tok expert"], rule: ChoiceRule, top_k: int
) -> Float64[Tensor, " expert"]:
    """How many experts leave before each one; those that never leave share the last place.

    In each round the expert with the fewest tokens is masked, and the tokens that had chosen it
    choose again by the model's own rule; it ends when every token needs all that are left. Of
    equals the one with the smaller soft count leaves first. With groups, no group may be left
    with fewer experts than its share of the choice needs.

    Args:
        scores: Of a sample of tokens (`stats.ballots`).
        rule: The layer's choice rule.
        top_k: Experts that each token needs.

    Raises:
        ValueError: There are fewer experts than a token needs.

    Source: terms.md#rank_removal
    """
    num_experts = scores.shape[1]
    left = scores.double().clone()
    place = torch.zeros(num_experts, dtype=torch.float64)
    gone = torch.zeros(num_experts, dtype=torch.bool)
    liked = rule.shares(left).sum(dim=0)
    experts = rule.choose(left, top_k).experts
    for round_ in range(num_experts):
        free = _may_leave(gone, rule, top_k)
        if not bool(free.any()):
            place[~gone] = round_
            break
        loser = _fewest(experts, liked, free)
        place[loser] = round_
        gone[loser] = True
        left[:, loser] = -torch.inf
        again = _asked_again(experts, loser, rule)
        if bool(again.any()):
            experts[again] = rule.choose(left[again], top_k).experts
    return place


def _fewest(
    experts: Int64[Tensor, "tok slot"],
    liked: Float64[Tensor, " expert"],
    free: Bool[Tensor, " expert"],
) -> int:
    votes = torch.bincount(experts.reshape(-1), minlength=len(free)).double()
    lowest = votes.masked_fill(~free, torch.inf)
    return int(liked.masked_fill(lowest > lowest.min(), torch.inf).argmin())


def _asked_again(
    experts: Int64[Tensor, "tok slot"], loser: int, rule: ChoiceRule
) -> Bool[Tensor, " tok"]:
    if rule.has_successor:
        return (experts == loser).any(dim=1)
    return torch.ones(len(experts), dtype=torch.bool)


def _may_leave(
    gone: Bool[Tensor, " expert"], rule: ChoiceRule, top_k: int
) -> Bool[Tensor, " expert"]:
    """The experts whose leaving lets every token still find enough."""
    if rule.groups is None:
        return ~gone if int((~gone).sum()) > top_k else torch.zeros_like(gone)
    need = -(-top_k // rule.groups.num_kept)
    if rule.groups.score is GroupScore.TOP_TWO:
        need = max(need, 2)
    alive = (~gone).view(rule.groups.num_groups, -1)
    roomy = alive.sum(dim=1, keepdim=True) > need
    return (alive & roomy).reshape(-1)
