"""Policies: pure functions from a router's decision to another decision."""

from moe_lens.policies.ablate import Ablate, Ablation
from moe_lens.policies.base import BatchPlace, Policy, RouterContext
from moe_lens.policies.budget import ExpertBudget
from moe_lens.policies.chain import Chain, Identity
from moe_lens.policies.experts import DropExperts, MaskExperts, RandomExperts, ReplaceExpert
from moe_lens.policies.keep import KeepTopK, Renorm
from moe_lens.policies.per_layer import KeepPerLayer, ScaleWeights
from moe_lens.policies.per_token import EntropyK, MinP, TopP

__all__ = [
    "Ablate",
    "Ablation",
    "BatchPlace",
    "Chain",
    "DropExperts",
    "EntropyK",
    "ExpertBudget",
    "Identity",
    "KeepPerLayer",
    "KeepTopK",
    "MaskExperts",
    "MinP",
    "Policy",
    "RandomExperts",
    "Renorm",
    "ReplaceExpert",
    "RouterContext",
    "ScaleWeights",
    "TopP",
]
