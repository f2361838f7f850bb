"""How many experts a token gets, from what its router thinks of it: min-p, top-p, entropy."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from moe_lens.errors import UnsupportedModel
from moe_lens.policies.base import Policy, RouterContext, each_chosen_anew, rule_and_scores
from moe_lens.policies.keep import Renorm, kept_slots
from moe_lens.routing import Routing

Threshold: TypeAlias = float | Mapping[int, float]
"""One number, or one for each layer; a layer that is not named is left alone."""


class PerToken(Policy):
    """Keeps the first slots of each token, how many depends on the token.

    Every token keeps at least its first slot. A decision depends on the token alone, so batching
    changes nothing. With `Renorm.NATIVE` a token gets what the model would give it with that
    top_k.
    """

    renorm: Renorm

    @property
    def chooses_anew(self) -> bool:
        """Whether the router's scores are read again."""
        return self.renorm is Renorm.NATIVE

    @abstractmethod
    def num_kept(self, routing: Routing, context: RouterContext) -> Int[Tensor, " tok"] | None:
        """How many slots each token keeps, if it has them; None for all."""

    def apply(self, routing: Routing, context: RouterContext) -> Routing:
        """The first slots of each token; the others become inactive."""
        counts = self.num_kept(routing, context)
        if counts is None:
            return routing
        counts = torch.minimum(counts.clamp_min(1), routing.active.sum(dim=-1))
        if self.chooses_anew:
            name = self.describe()["policy"]
            rule, _ = rule_and_scores(routing, context, needed_by=f"{name} with native weights")
            return each_chosen_anew(routing, rule, counts)
        rank = torch.arange(routing.num_slots, device=routing.experts.device)
        return kept_slots(routing, rank < counts.unsqueeze(1), self.renorm)


@final
@dataclass(frozen=True)
class MinP(PerToken):
    """Keep a slot beyond the first `min_k` only if its weight is more than `threshold` x rank 1's.

    0 keeps every slot that has weight; 1 keeps `min_k`. Source: terms.md#min-p
    """

    threshold: Threshold
    min_k: int = 1
    renorm: Renorm = Renorm.NATIVE

    def __post_init__(self) -> None:
        _check_parts("threshold", self.threshold)
        if self.min_k < 1:
            raise ValueError(f"min_k = {self.min_k}: at least 1 expert must stay active")

    def num_kept(self, routing: Routing, context: RouterContext) -> Int[Tensor, " tok"] | None:
        """Weights fall with rank, so the slots that pass are the first ones."""
        threshold = _at(self.threshold, context.layer)
        if threshold is None:
            return None
        best = routing.weights[:, :1].double()
        passing = (routing.weights.double() > threshold * best).sum(dim=-1)
        return passing.clamp_min(self.min_k)

    def describe(self) -> Mapping[str, object]:
        """Name, threshold, min_k and renorm."""
        return {
            "policy": "min_p",
            "threshold": _as_json(self.threshold),
            "min_k": self.min_k,
            "renorm": self.renorm.value,
        }


@final
@dataclass(frozen=True)
class TopP(PerToken):
    """Keep the fewest slots whose weights sum to at least `share` of the chosen weights' sum.

    1 keeps every slot that has weight; near 0 it keeps the first. Source: terms.md#top-p
    """

    share: Threshold
    renorm: Renorm = Renorm.NATIVE

    def __post_init__(self) -> None:
        _check_parts("share", self.share)

    def num_kept(self, routing: Routing, context: RouterContext) -> Int[Tensor, " tok"] | None:
        """A slot stays if those before it do not reach the share."""
        share = _at(self.share, context.layer)
        if share is None:
            return None
        weights = routing.weights.double()
        before = weights.cumsum(dim=-1) - weights
        return (before < share * weights.sum(dim=-1, keepdim=True)).sum(dim=-1)

    def describe(self) -> Mapping[str, object]:
        """Name, share and renorm."""
        share = _as_json(self.share)
        return {"policy": "top_p", "share": share, "renorm": self.renorm.value}


@final
@dataclass(frozen=True)
class EntropyK(PerToken):
    """Fewer experts for tokens whose router is sure.

    Attributes:
        steps: (threshold, k), thresholds and ks rising: a token keeps the k of the first
            threshold that its router's entropy is below, and all of its slots above the last.
        renorm: What kept weights become.

    Source: terms.md#router-entropy
    """

    steps: tuple[tuple[Threshold, int], ...]
    renorm: Renorm = Renorm.NATIVE

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("entropy: give at least one threshold and its number of experts")
        for threshold, k in self.steps:
            _check_parts("entropy threshold", threshold)
            if k < 1:
                raise ValueError(f"k = {k}: at least 1 expert must stay active")
        for (low, few), (high, more) in zip(self.steps, self.steps[1:], strict=False):
            falls = isinstance(low, float) and isinstance(high, float) and low > high
            if few > more or falls:
                raise ValueError(
                    f"entropy: {high} gives {more} experts after {low} gave {few}; thresholds "
                    f"and numbers of experts must rise together"
                )

    def num_kept(self, routing: Routing, context: RouterContext) -> Int[Tensor, " tok"] | None:
        """By the entropy of each token's router."""
        if routing.scores is None:
            raise UnsupportedModel(
                f"layer {context.layer}: entropy reads the router's scores, which a recorded "
                f"trace does not hold; run it on the model"
            )
        entropy = router_entropy(routing.scores)
        kept = torch.full_like(routing.experts[:, 0], routing.num_slots)
        for threshold, k in reversed(self.steps):
            at = _at(threshold, context.layer)
            if at is not None:
                kept = torch.where(entropy < at, k, kept)
        return kept

    def describe(self) -> Mapping[str, object]:
        """Name, steps and renorm."""
        steps = [[_as_json(threshold), k] for threshold, k in self.steps]
        return {"policy": "entropy", "steps": steps, "renorm": self.renorm.value}


def router_entropy(scores: Float[Tensor, "tok expert"]) -> Float[Tensor, " tok"]:
    """Entropy of the softmax of a router's scores over all experts, over ln N: 0 to 1.

    Experts that were masked (score -inf) have no part in the sum; N counts them.

    Source: terms.md#router-entropy
    """
    shares = scores.double().softmax(dim=-1)
    entropy: Tensor = torch.special.entr(shares).sum(dim=-1)
    return entropy / math.log(scores.shape[-1])


def _at(threshold: Threshold, layer: int) -> float | None:
    return threshold.get(layer) if isinstance(threshold, Mapping) else threshold


def _check_parts(name: str, threshold: Threshold) -> None:
    for value in threshold.values() if isinstance(threshold, Mapping) else (threshold,):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} = {value:g}: a part, from 0 to 1")


def _as_json(threshold: Threshold) -> object:
    if isinstance(threshold, Mapping):
        return {str(layer): value for layer, value in sorted(threshold.items())}
    return threshold
