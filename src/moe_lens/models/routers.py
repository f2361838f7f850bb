"""Router weights as a fingerprint of a model: small, and what routing statistics hang on.

Two checkpoints of one architecture (base and chat, before and after training) have the same config;
their routers differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moe_lens.models.structure import MoELayer

NUM_GROUPS_NAMES = ("num_group", "n_group", "num_expert_group")
TOPK_GROUP_NAMES = ("topk_group", "topk_groups")


def hash_routers(matrices: Iterable[tuple[int, Tensor]]) -> str:
    """The hash of (layer, router matrix) pairs, in the order given.

    Rounded to bfloat16, so that such a checkpoint has one hash whatever dtype it is loaded in.
    """
    digest = hashlib.sha256()
    for layer, matrix in matrices:
        digest.update(f"{layer} {tuple(matrix.shape)}\n".encode())
        rounded = matrix.detach().cpu().to(torch.bfloat16).contiguous()
        digest.update(rounded.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def router_matrix(layer: MoELayer) -> Tensor:
    """The matrix of a router with one row for each expert."""
    found = [
        parameter
        for _, parameter in sorted(layer.router.named_parameters())
        if parameter.dim() == 2 and parameter.shape[0] == layer.num_experts
    ]
    assert found, f"layer {layer.index}: the router has no matrix with a row for each expert"
    return found[0]


class DeclaredGroups(NamedTuple):
    """Groups of neighbouring experts, and how many of them a token may use; 1 and 1 without."""

    num_groups: int
    num_groups_kept: int


def declared_groups(layer: MoELayer) -> DeclaredGroups:
    """The groups that a layer's modules, or their configs, declare.

    A router that may choose from all of its groups still needs them of one size.
    """
    num_groups = declared_number(layer, NUM_GROUPS_NAMES) or 1
    num_kept = declared_number(layer, TOPK_GROUP_NAMES) or num_groups
    return DeclaredGroups(num_groups, min(num_kept, num_groups))


def declared_number(layer: MoELayer, names: tuple[str, ...]) -> int | None:
    """The first whole number that a layer's modules, or their configs, hold under such a name."""
    holders: list[nn.Module | object] = [layer.router, layer.block]
    holders += [getattr(layer.block, "config", None), getattr(layer.experts, "config", None)]
    for holder, name in product(holders, names):
        value = getattr(holder, name, None)
        if isinstance(value, int):
            return value
    return None
