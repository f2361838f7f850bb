"""AIMER by hand and by its definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moe_lens.loading import load_model
from moe_lens.scoring.weights import aimer
from tests.checkpoints import save_checkpoint
from tests.engine.families import proven


@pytest.mark.parametrize("model_type", ["deepseek", "gpt_oss", "olmoe"])
def test_aimer_is_the_ratio_of_mean_size_to_root_mean_square(model_type: str) -> None:
    model = proven(model_type)
    found = aimer(model)
    for layer in model.layers:
        experts = layer.modules.experts
        for expert in range(layer.modules.num_experts):
            flat = torch.cat(
                [
                    experts.get_parameter(name)[expert].detach().double().reshape(-1)
                    for name in ("gate_up_proj", "down_proj")
                ]
            )
            ratio = float(flat.abs().mean() / flat.square().mean().sqrt())
            assert float(found[layer.modules.index][expert]) == pytest.approx(-ratio, rel=1e-9)


def test_a_streamed_model_has_the_same(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "deepseek")
    resident, streamed = (
        aimer(load_model(tmp_path, device="cpu", engine=engine))
        for engine in ("resident", "streaming")
    )
    assert resident.keys() == streamed.keys()
    assert all(torch.equal(resident[layer], streamed[layer]) for layer in resident)


def test_one_size_of_weights_is_least_important() -> None:
    """|w| all equal: ratio 1. One weight of n: ratio 1 / sqrt(n)."""
    from moe_lens.scoring.weights import _ratios

    module = torch.nn.Module()
    up = torch.zeros(3, 2, 2)
    up[0] = torch.tensor([[1.0, -1], [1, -1]])
    up[1, 0, 0] = 5.0
    down = torch.zeros(3, 2, 2)
    down[0] = 1.0
    module.gate_up_proj, module.down_proj = torch.nn.Parameter(up), torch.nn.Parameter(down)
    module.down_proj_bias = torch.nn.Parameter(torch.full((3, 2), 7.0))
    assert _ratios(module).tolist() == pytest.approx([1.0, 8**-0.5, 0.0])
