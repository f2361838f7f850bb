"""What tests of pruning share: shapes, plans, tiny checkpoints and models pruned by hand."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from moe_lens.models.structure import find_moe_layers
from moe_lens.models.tiny import tiny_model
from moe_lens.prune.choosing import choose, random_scores
from moe_lens.prune.plan import Budget, Plan
from moe_lens.prune.shape import ModelShape, shape_of_config
from tests.engine.families import _shrink

LISTED = (
    "deepseek",
    "olmoe",
    "qwen2_moe",
    "qwen3_moe",
    "mixtral",
    "deepseek_v2",
    "deepseek_v3",
    "glm4_moe",
    "ernie4_5_moe",
    "gpt_oss",
)
"""The families that export is promised for."""


def shape_of(**changes: object) -> ModelShape:
    values: dict[str, object] = {
        "source": "tiny",
        "model_type": "olmoe",
        "layers": (0, 1, 2),
        "num_experts": 8,
        "top_k": 2,
    }
    return ModelShape(**(values | changes))  # type: ignore[arg-type]


def plan_of(model: ModelShape, keep: Mapping[int, tuple[int, ...]], **changes: object) -> Plan:
    counts = {len(kept) for kept in keep.values()}
    values: dict[str, object] = {
        "criterion": "by hand",
        "domains": ("all",),
        "calibration": {},
        "budget": Budget(max(counts), "uniform" if len(counts) == 1 else "custom"),
    }
    return Plan(model=model, keep=keep, **(values | changes))  # type: ignore[arg-type]


def checkpoint_of(directory: Path, model_type: str, *, dtype: torch.dtype = torch.float32) -> Path:
    tiny_model(model_type, dtype=dtype).save_pretrained(directory)
    return directory


def random_plan(directory: Path, *, seed: int = 0, **changes: object) -> Plan:
    """About two thirds of the experts, other ones in every layer."""
    model = shape_of_config(str(directory))
    step = max(model.num_groups, 1)
    budget = Budget(model.num_experts * 2 // 3 // step * step)
    keep = choose(model, budget, random_scores(model, seed=seed))
    return plan_of(model, keep, budget=budget, **changes)


def pruned_by_hand(hf: PreTrainedModel, keep: Mapping[int, tuple[int, ...]]) -> PreTrainedModel:
    """A copy of a loaded model whose other experts are cut from its tensors in memory."""
    small = copy.deepcopy(hf)
    for layer in find_moe_layers(small):
        index = torch.tensor(keep[layer.index])
        for module in (layer.block, *layer.block.modules()):
            _shrink(module, layer.num_experts, index)
    return small


@torch.no_grad()
def logits_of(hf: PreTrainedModel, *, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 128, (2, 20), generator=generator)
    logits: Tensor = hf(input_ids=ids, use_cache=False).logits
    return logits


def scores_of(model: ModelShape, *rows: list[float]) -> dict[int, np.ndarray]:
    return dict(zip(model.layers, (np.array(row, dtype=np.float64) for row in rows), strict=True))
