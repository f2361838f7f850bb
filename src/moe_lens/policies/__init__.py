"""Policies: pure functions from a router's decision to another decision."""

from moe_lens.policies.base import Policy, RouterContext
from moe_lens.policies.chain import Chain, Identity
from moe_lens.policies.experts import DropExperts, MaskExperts, RandomExperts, ReplaceExpert
from moe_lens.policies.keep import KeepTopK, Renorm

__all__ = [
    "Chain",
    "DropExperts",
    "Identity",
    "KeepTopK",
    "MaskExperts",
    "Policy",
    "RandomExperts",
    "Renorm",
    "ReplaceExpert",
    "RouterContext",
]
