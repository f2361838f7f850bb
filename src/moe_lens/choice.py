"""`ChoiceRule`: how a router turns its scores into a choice and weights, as data.

Families differ in a handful of settings, not in code. A rule is never assumed: it is fitted to
what a router returned on a probe batch, and used only if it reproduces every id and weight there
(`engine.proof`). Masking an expert before the choice, and running with a smaller top-k as the
model itself would, are then exact.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Scoring(enum.Enum):
    """What is done to the logits to get the scores that compete."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    SQRT_SOFTPLUS = "sqrt_softplus"
    CHOSEN_SOFTMAX = "chosen_softmax"
    """Logits compete; the softmax is taken over the chosen ones."""
    CHOSEN_SIGMOID = "chosen_sigmoid"
    """Logits compete; the sigmoid is taken of the chosen ones."""
    SPARSE_MIXER = "sparse_mixer"
    """Logits compete one after another; each is weighed among the rivals that come close to it."""


class GroupScore(enum.Enum):
    """How a group of experts is judged where only some groups may be chosen from."""

    BEST = "best"
    TOP_TWO = "top_two"


@dataclass(frozen=True)
class Groups:
    """Group-limited routing: experts compete within the best `num_kept` of `num_groups`."""

    num_groups: int
    num_kept: int
    score: GroupScore


class Choice(NamedTuple):
    """Chosen experts and their weights, by falling score."""

    experts: Int[Tensor, "tok slot"]
    weights: Float[Tensor, "tok slot"]


@dataclass(frozen=True, eq=False)
class ChoiceRule:
    """From router logits to experts and weights.

    Attributes:
        scoring: From logits to competing scores.
        normalize: Whether the chosen scores are divided by their sum (plus `epsilon`).
        epsilon: Guards that division.
        scale: Multiplies the weights last (a routed scaling factor).
        bias: Added to the scores for the choice only, never to the weights.
        groups: Group-limited routing, or None.
        jitter: Of SPARSE_MIXER: rivals whose logit falls short by more than twice this, relative
            to the larger of the two, do not share in a weight.
    """

    scoring: Scoring
    normalize: bool
    epsilon: float = 0.0
    scale: float = 1.0
    bias: Float[Tensor, " expert"] | None = None
    groups: Groups | None = None
    jitter: float = 0.0

    def choose(self, logits: Float[Tensor, "tok expert"], top_k: int) -> Choice:
        """The `top_k` experts that win, and their weights.

        An expert whose logit is -inf does not compete: it is gone before anything else happens,
        as if its router row had been cut from the checkpoint.

        Raises:
            ValueError: Fewer experts may compete than each token needs.
        """
        gone = torch.isneginf(logits)
        fewest = logits.shape[-1] - int(gone.sum(dim=-1).max()) if len(logits) else top_k
        if fewest < top_k:
            raise ValueError(
                f"{fewest} experts are left, but each token needs {top_k}: "
                f"keep at least {top_k} or lower the number of active experts"
            )
        competing = self.competing(logits).masked_fill(gone, -torch.inf)
        competing = self._within_best_groups(competing)
        experts = competing.topk(top_k, dim=-1).indices
        return Choice(experts, self.weigh(logits, experts))

    def weigh(
        self, logits: Float[Tensor, "tok expert"], experts: Int[Tensor, "tok slot"]
    ) -> Float[Tensor, "tok slot"]:
        """The weights that chosen experts get, whichever way they were chosen."""
        if self.scoring is Scoring.CHOSEN_SOFTMAX:
            weights = logits.gather(1, experts).softmax(dim=-1)
        elif self.scoring is Scoring.SPARSE_MIXER:
            weights = _sparse_mixer_weights(logits, experts, self.jitter)
        elif self.scoring is Scoring.CHOSEN_SIGMOID:
            weights = logits.gather(1, experts).sigmoid()
        else:
            weights = _score(logits, self.scoring).gather(1, experts)
        if self.normalize:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + self.epsilon)
        return weights * self.scale

    def competing(self, logits: Float[Tensor, "tok expert"]) -> Float[Tensor, "tok expert"]:
        """What experts are ordered by when they compete; groups come on top of it."""
        scores = _score(logits, self.scoring)
        return scores if self.bias is None else scores + self.bias.to(scores)

    def shares(self, logits: Float[Tensor, "tok expert"]) -> Float[Tensor, "tok expert"]:
        """How a token's attention is spread over all experts, chosen or not; rows sum to 1.

        The softmax where the family weighs by one, else its own scores over their sum.

        Source: terms.md#soft_count
        """
        if self.scoring in (Scoring.CHOSEN_SOFTMAX, Scoring.SPARSE_MIXER):
            return logits.softmax(dim=-1)
        scoring = Scoring.SIGMOID if self.scoring is Scoring.CHOSEN_SIGMOID else self.scoring
        scores = _score(logits, scoring)
        return scores / scores.sum(dim=-1, keepdim=True)

    @property
    def has_successor(self) -> bool:
        """Whether the same expert takes the place of any chosen one that is masked.

        Groups may change with the expert that is gone; a bias beside a softmax weighs differently
        when the softmax does; the sparse mixer compares rivals that were not chosen, too.
        """
        biased = self.bias is not None and self.scoring is Scoring.SOFTMAX
        return self.groups is None and not biased and self.scoring is not Scoring.SPARSE_MIXER

    def successor(
        self, logits: Float[Tensor, "tok expert"], experts: Int[Tensor, "tok slot"]
    ) -> Int[Tensor, "tok 1"]:
        """The expert that takes the place of whichever chosen one is masked (`has_successor`).

        Raises:
            ValueError: Every expert is chosen.
        """
        if experts.shape[1] >= logits.shape[1]:
            raise ValueError(f"all {logits.shape[1]} experts are chosen; none is next in line")
        competing = self.competing(logits).scatter(1, experts, -torch.inf)
        return competing.argmax(dim=-1, keepdim=True)

    def _within_best_groups(
        self, competing: Float[Tensor, "tok expert"]
    ) -> Float[Tensor, "tok expert"]:
        if self.groups is None:
            return competing
        grouped = competing.view(len(competing), self.groups.num_groups, -1)
        if self.groups.score is GroupScore.BEST:
            judged = grouped.amax(dim=-1)
        else:
            judged = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(dim=-1)
        best = judged.topk(self.groups.num_kept, dim=-1).indices
        keep = torch.zeros_like(judged, dtype=torch.bool).scatter_(1, best, True)
        return grouped.masked_fill(~keep.unsqueeze(-1), -torch.inf).view_as(competing)

    def describe(self) -> str:
        """One line for a table: `sigmoid + bias, 2 of 4 groups, normalized, x 1.5`."""
        parts = [self.scoring.value + ("" if self.bias is None else " + bias")]
        if self.groups is not None:
            parts.append(f"{self.groups.num_kept} of {self.groups.num_groups} groups")
        if self.normalize:
            parts.append("normalized")
        if self.scale != 1.0:
            parts.append(f"x {self.scale:g}")
        return ", ".join(parts)

    def on(self, device: torch.device) -> ChoiceRule:
        """The same rule with its bias on another device."""
        return self if self.bias is None else replace(self, bias=self.bias.to(device))


def _score(logits: Float[Tensor, "tok expert"], scoring: Scoring) -> Float[Tensor, "tok expert"]:
    if scoring is Scoring.SOFTMAX:
        return logits.softmax(dim=-1)
    if scoring is Scoring.SIGMOID:
        return logits.sigmoid()
    if scoring is Scoring.SQRT_SOFTPLUS:
        return torch.nn.functional.softplus(logits).sqrt()
    return logits


def _sparse_mixer_weights(
    logits: Float[Tensor, "tok expert"], experts: Int[Tensor, "tok slot"], jitter: float
) -> Float[Tensor, "tok slot"]:
    """Each chosen expert's softmax among its close rivals, those chosen before it left out.

    Source: Liu et al., Sparse Backpropagation for MoE Training (arXiv 2310.00811), as PhiMoE
    runs it outside training.
    """
    left, weights = logits, []
    for slot in experts.unbind(dim=1):
        column = slot.unsqueeze(1)
        best = left.gather(1, column)
        gap = (best - left) / logits.abs().maximum(best)
        weights.append(
            left.masked_fill(gap > 2 * jitter, -torch.inf).softmax(dim=-1).gather(1, column)
        )
        left = left.scatter(1, column, -torch.inf)
    return torch.cat(weights, dim=1)
