"""What a plan does to a model that is still whole: the policy that simulates it."""

from __future__ import annotations

from moe_lens.policies import Chain, KeepTopK, MaskExperts, Policy, ScaleWeights
from moe_lens.prune.plan import ExpertsByLayer, Plan


def policy_of(plan: Plan) -> Policy:
    """Mask what goes, keep fewer active experts if the plan says so, scale the routed sum."""
    return with_settings(MaskExperts(plan.masked), plan)


def with_settings(removal: Policy, plan: Plan) -> Policy:
    """A way to take experts away, with the plan's other settings."""
    parts = [removal]
    if plan.active < plan.model.top_k:
        fewer = KeepTopK(plan.active)
        parts = [removal, fewer] if removal.chooses_anew else [fewer, removal]
    if plan.scale is not None:
        parts.append(ScaleWeights(plan.scale))
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def complement(keep: ExpertsByLayer, num_experts: int) -> dict[int, tuple[int, ...]]:
    """The experts that are not kept, by layer."""
    return {
        layer: tuple(e for e in range(num_experts) if e not in set(kept))
        for layer, kept in keep.items()
    }
