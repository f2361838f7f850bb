"""The load-time proof catches models that would give wrong numbers: each break is made here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from moe_lens.engine.proof import BLOCK_SUM, COUNTS, IDENTITY, RESTORED, prove
from moe_lens.engine.rules import fit_rule
from moe_lens.errors import ProofFailed, UnsupportedModel
from moe_lens.models.model import MoEModel
from moe_lens.models.tiny import tiny_model
from moe_lens.routing import Routing
from tests.engine.families import proven, unproven


def broken(change: Callable[[MoEModel], None], model_type: str = "olmoe") -> MoEModel:
    model = unproven(tiny_model(model_type))
    change(model)
    return model


def wrap(module: nn.Module, outer: Callable[..., Any]) -> None:
    """Put a function around a module's forward, as another tool's patch would."""
    inner = module.forward
    module.forward = lambda *args, **kwargs: outer(inner, *args, **kwargs)


def test_a_sound_model_passes_every_check() -> None:
    model = proven("deepseek")
    assert [check.name for check in model.checks] == [IDENTITY, COUNTS, BLOCK_SUM, RESTORED]
    assert all(check.error <= check.tolerance for check in model.checks)
    facts = model.layers[0].facts
    assert facts.residual_scale == 1.0
    assert facts.rule is not None
    assert facts.rule.describe() == "softmax"


def test_a_stated_residual_scale_is_found() -> None:
    assert {layer.facts.residual_scale for layer in proven("granitemoe").layers} == {0.5}


def test_scales_inside_the_block_become_part_of_the_weights() -> None:
    facts = proven("laguna").layers[0].facts
    assert (facts.routed_scale, facts.shared_scale) == (1.5, 1.0)
    facts = proven("cohere2_moe").layers[0].facts
    assert (facts.routed_scale, facts.shared_scale) == (0.5, 0.5)


def test_a_block_that_does_more_than_add_is_refused() -> None:
    def change(model: MoEModel) -> None:
        block = model.layers[1].modules.block
        wrap(block, lambda inner, x: inner(x) + 0.01 * x)

    with pytest.raises(ProofFailed, match=r"block sum.* failed at layer 1: relative error \d"):
        prove(broken(change))


def test_a_block_that_changes_the_choice_is_refused() -> None:
    def change(model: MoEModel) -> None:
        experts = model.layers[2].modules.experts
        wrap(experts, lambda inner, x, ids, weights: inner(x, ids.flip(0), weights))

    with pytest.raises(UnsupportedModel, match="layer 2: the block changes the router's choice"):
        prove(broken(change))


def test_a_router_that_lists_an_expert_twice_is_refused() -> None:
    def twice(inner: Callable[..., Any], x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores, weights, ids = inner(x)
        return scores, weights, ids[:, :1].expand_as(ids).contiguous()

    def change(model: MoEModel) -> None:
        wrap(model.layers[0].modules.router, twice)

    with pytest.raises(ProofFailed, match=r"counts.* failed at layer 0: .*lists an expert twice"):
        prove(broken(change))


def test_a_router_that_chooses_fewer_is_refused() -> None:
    def fewer(inner: Callable[..., Any], x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores, weights, ids = inner(x)
        return scores, weights[:, :-1], ids[:, :-1]

    def change(model: MoEModel) -> None:
        wrap(model.layers[0].modules.router, fewer)

    with pytest.raises(ProofFailed, match="layer 0: 128 slots, expected 64 tokens x 3 = 192"):
        prove(broken(change))


def test_experts_that_skip_the_registry_are_noticed() -> None:
    """The fault that made other tools read zeros: the hook is there and never called."""

    def change(model: MoEModel) -> None:
        experts = model.layers[0].modules.experts
        experts.forward = lambda x, ids, weights: torch.zeros_like(x)  # type: ignore[assignment]

    with pytest.raises(UnsupportedModel, match="layer 0: its experts were not called through"):
        prove(broken(change))


def test_a_model_that_is_not_deterministic_is_refused() -> None:
    def change(model: MoEModel) -> None:
        norm = model.hf.base_model.norm
        wrap(norm, lambda inner, x: inner(x) + 1e-7 * torch.rand_like(x))

    with pytest.raises(ProofFailed, match=r"restored.* failed: a second stock run differs by"):
        prove(broken(change))


def test_activations_that_overflow_are_refused() -> None:
    def change(model: MoEModel) -> None:
        wrap(model.layers[0].modules.layer, lambda inner, *a, **k: inner(*a, **k) * float("inf"))

    with pytest.raises(ProofFailed, match=r"not finite on the probe batch in torch\.float32"):
        prove(broken(change))


def test_no_rule_is_claimed_for_a_router_that_follows_none() -> None:
    model = proven("olmoe")
    layer = model.layers[0].modules
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(64, 8, generator=generator)
    experts = torch.stack([torch.randperm(8, generator=generator)[:3] for _ in range(64)])
    weights = torch.rand(64, 3, generator=generator)
    made = Routing.from_choice(experts, weights, num_experts=8, scores=scores)
    assert fit_rule(layer, made) is None


def test_a_rule_that_is_right_but_for_one_token_is_not_claimed() -> None:
    model = proven("olmoe")
    layer = model.layers[0].modules
    scores = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    weights, experts = scores.softmax(-1).topk(3)
    sound = Routing.from_choice(experts, weights, num_experts=8, scores=scores)
    assert fit_rule(layer, sound) is not None
    weights[17, 1] *= 1.001
    off = Routing.from_choice(experts, weights, num_experts=8, scores=scores)
    assert fit_rule(layer, off) is None
