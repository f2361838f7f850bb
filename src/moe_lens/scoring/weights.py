"""AIMER: how important an expert is by its weights alone, with no text."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from moe_lens.engine.reading import LayerReader
from moe_lens.models.model import MoEModel

_MATRICES = ("gate_up_proj", "up_proj", "down_proj")


def aimer(model: MoEModel) -> dict[int, Float64[Tensor, " expert"]]:
    """For each MoE layer, minus AIMER's ratio of every expert: higher is more important.

    The ratio is the mean of |w| over the root of the mean of w^2, all weight matrices of an expert
    taken as one vector, biases left out; between 0 and 1, and 1 where all weights are of one size.
    AIMER prunes experts of large ratio first.

    Source: terms.md#aimer
    """
    found = {}
    with nullcontext() if model.store is None else LayerReader(model.store) as reader:
        for layer in model.layers:
            index = layer.modules.index
            with nullcontext() if reader is None else reader.layer(index):
                found[index] = -_ratios(layer.modules.experts)
    return found


@torch.no_grad()
def _ratios(experts: nn.Module) -> Float64[Tensor, " expert"]:
    matrices = [p for name, p in experts.named_parameters() if name in _MATRICES]
    found = []
    for expert in range(matrices[0].shape[0]):
        parts = [matrix[expert].double() for matrix in matrices]
        size = sum(part.numel() for part in parts)
        mean = sum(float(part.abs().sum()) for part in parts) / size
        square = sum(float(part.square().sum()) for part in parts) / size
        found.append(mean / square**0.5 if square > 0 else 0.0)
    return torch.tensor(found, dtype=torch.float64)
