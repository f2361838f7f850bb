"""From scores to the experts that stay: uniform or global, alike in every group.

The unit of choice is a bundle: with groups, one rank of every group together (the best of each
group, then the second of each ...), and as many ranks as a required multiple takes. Without either
a bundle is one expert. Whole bundles stay or go, so no rule can be broken by the choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64

from moe_lens.errors import InputError
from moe_lens.prune.plan import Budget, ExpertsByLayer
from moe_lens.prune.shape import ModelShape

Scores: TypeAlias = Mapping[int, Float64[np.ndarray, " expert"]]
"""A score for each expert of each layer; nan is lowest: the expert was never seen."""


def check_budget(model: ModelShape, budget: Budget, *, top_k: int | None = None) -> None:
    """Prove that a budget can be kept, before anything is measured or chosen.

    Raises:
        InputError: It cannot; the message says what could.
    """
    active = model.top_k if top_k is None else top_k
    step = bundle_size(model, budget)
    if budget.keep > model.num_experts:
        raise InputError(
            f"keep {budget.keep}, but {model.source} has {model.num_experts} experts in a layer; "
            f"keep fewer"
        )
    if step > model.num_experts:
        raise InputError(
            f"every layer must keep a multiple of {step} experts ({_why(model, budget)}), but has "
            f"{model.num_experts}; choose another --multiple-of"
        )
    if budget.keep % step:
        below = budget.keep // step * step
        raise InputError(
            f"keep {budget.keep} is not a multiple of {step} ({_why(model, budget)}); keep "
            f"{f'{below} or ' if below else ''}{below + step}"
        )
    if budget.keep < least_kept(model, budget, active):
        raise InputError(
            f"keep {budget.keep} leaves too few experts for the {active} that each token needs"
            f"{'' if model.num_groups == 1 else f' from {model.num_groups_kept} groups'}; keep at "
            f"least {least_kept(model, budget, active)}, or lower --top-k"
        )


def choose(
    model: ModelShape, budget: Budget, scores: Scores, *, top_k: int | None = None
) -> dict[int, tuple[int, ...]]:
    """The experts that stay, by layer.

    Equal scores: the lower expert id stays. With shape "global" the scores of all layers are
    compared with each other as they are; every layer keeps at least what its tokens need.

    Raises:
        InputError: The budget cannot be kept.
    """
    check_budget(model, budget, top_k=top_k)
    step = bundle_size(model, budget)
    competing = _guarded(model, budget, scores)
    bundles = {layer: _bundles(model, competing[layer], step) for layer in model.layers}
    total = budget.keep // step
    if budget.shape == "global":
        active = model.top_k if top_k is None else top_k
        counts = _best_counts(
            {layer: found[1] for layer, found in bundles.items()},
            total * len(model.layers),
            least_kept(model, budget, active) // step,
        )
    else:
        counts = dict.fromkeys(model.layers, total)
    keep = {
        layer: tuple(sorted(int(e) for e in members[: counts[layer]].ravel()))
        for layer, (members, _) in bundles.items()
    }
    _check_protected(model, budget, keep)
    return keep


def same_counts(
    model: ModelShape, keep: ExpertsByLayer, scores: Scores
) -> dict[int, tuple[int, ...]]:
    """As many experts of each layer and group as `keep` has, by other scores: a fair control."""
    size = model.group_size
    found = {}
    for layer, kept in keep.items():
        value = np.where(np.isnan(scores[layer]), -np.inf, scores[layer]).reshape(-1, size)
        order = np.argsort(-value, axis=1, kind="stable")
        starts = np.arange(model.num_groups)[:, None] * size
        best = (order + starts)[:, : len(kept) // model.num_groups]
        found[layer] = tuple(sorted(int(e) for e in best.ravel()))
    return found


def random_scores(model: ModelShape, *, seed: int) -> dict[int, Float64[np.ndarray, " expert"]]:
    """Scores that mean nothing: the control that any criterion must beat."""
    return {
        layer: np.random.default_rng([seed, layer]).random(model.num_experts)
        for layer in model.layers
    }


def bundle_size(model: ModelShape, budget: Budget) -> int:
    """Every layer keeps a multiple of this."""
    return math.lcm(model.num_groups, budget.multiple_of)


def least_kept(model: ModelShape, budget: Budget, active: int) -> int:
    """The fewest experts that a layer may keep."""
    step = bundle_size(model, budget)
    per_group = -(-active // model.num_groups_kept)
    least = max(per_group, 2) * model.num_groups if model.num_groups > 1 else active
    return -(-least // step) * step


def _bundles(
    model: ModelShape, value: Float64[np.ndarray, " expert"], step: int
) -> tuple[np.ndarray, Float64[np.ndarray, " bundle"]]:
    """Experts in bundles by falling score, a row each, and the mean score of each bundle."""
    size = model.group_size
    grouped = value.reshape(model.num_groups, size)
    order = np.argsort(-grouped, axis=1, kind="stable")
    members = order + np.arange(model.num_groups)[:, None] * size  # group, rank
    ranks = members.T.ravel()  # of all groups, one rank after another
    ranked = ranks[: len(ranks) // step * step].reshape(-1, step)
    return ranked, value[ranked].mean(axis=1)


def _best_counts(
    scores: Mapping[int, Float64[np.ndarray, " bundle"]], total: int, least: int
) -> dict[int, int]:
    """How many bundles each layer keeps so that the kept ones score most, `least` in each."""
    counts = dict.fromkeys(scores, least)
    rest = sorted(
        ((-value, layer, rank) for layer, row in scores.items() for rank, value in enumerate(row)),
    )
    left = total - least * len(counts)
    for _, layer, rank in rest:
        if left and rank >= least:
            counts[layer] += 1
            left -= 1
    return counts


def _guarded(
    model: ModelShape, budget: Budget, scores: Scores
) -> dict[int, Float64[np.ndarray, " expert"]]:
    """Scores as they compete: the unseen last, the protected first, all finite."""
    for layer in model.layers:
        if len(scores[layer]) != model.num_experts:
            raise InputError(
                f"layer {layer}: {len(scores[layer])} scores for {model.num_experts} experts; "
                f"score again"
            )
    every = np.concatenate([scores[layer] for layer in model.layers])
    seen = every[~np.isnan(every)]
    low, high = (seen.min(), seen.max()) if len(seen) else (0.0, 0.0)
    reach = float(high - low) + 1.0
    competing = {}
    for layer in model.layers:
        value = np.where(np.isnan(scores[layer]), low - reach, scores[layer]).astype(np.float64)
        # So far above that no bundle with one of them comes behind a bundle with none.
        value[list(budget.protected.get(layer, ()))] = high + 4 * reach * model.num_experts
        competing[layer] = value
    return competing


def _check_protected(model: ModelShape, budget: Budget, keep: ExpertsByLayer) -> None:
    for layer, protected in budget.protected.items():
        gone = sorted(set(protected) - set(keep[layer]))
        if gone:
            raise InputError(
                f"layer {layer}: {len(protected)} experts are protected, more than fit beside each "
                f"other into the {len(keep[layer])} that stay (expert {gone[0]} does not); keep "
                f"more, or protect fewer"
            )


def _why(model: ModelShape, budget: Budget) -> str:
    reasons = []
    if model.num_groups > 1:
        reasons.append(f"{model.num_groups} groups that must stay of one size")
    if budget.multiple_of > 1:
        reasons.append(f"--multiple-of {budget.multiple_of}")
    return " and ".join(reasons)
