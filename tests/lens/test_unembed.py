"""The way from the last layer's output to the model's own logits, family by family."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from moe_lens.errors import InputError, UnsupportedModel
from moe_lens.lens.unembed import find_head, find_unembedding
from moe_lens.models.model import MoEModel
from moe_lens.models.tiny import tiny_model
from tests.engine.families import proven, token_batch, unproven

SCALES = {"cohere2_moe": 0.5, "granitemoe": 0.5}
FAMILIES = ["olmoe", "deepseek", "qwen2_moe", "phimoe", "lfm2_moe", "jamba", "gpt_oss", *SCALES]


def last_states(model: MoEModel) -> tuple[torch.Tensor, torch.Tensor]:
    """The stock model's last layer output, by a hook of the test, and its logits."""
    seen: list[torch.Tensor] = []
    layer = model.layers[-1].modules.layer

    def keep(module: nn.Module, args: object, output: object) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)  # type: ignore[arg-type]

    hook = layer.register_forward_hook(keep)
    batch = token_batch(9, 5, vocab_size=model.vocab_size, seed=4)
    with torch.no_grad():
        logits = model.hf(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).logits
    hook.remove()
    return seen[0], logits


@pytest.mark.parametrize("family", FAMILIES)
def test_norm_and_head_give_the_models_own_logits(family: str) -> None:
    model = proven(family)
    found = find_unembedding(model)
    states, logits = last_states(model)
    inputs = found.inputs(states)
    ours = inputs.double() @ found.head.weight.double().T
    if found.head.bias is not None:
        ours += found.head.bias.double()
    torch.testing.assert_close(ours * found.head.scale, logits.double(), rtol=1e-5, atol=1e-5)
    assert found.head.scale == pytest.approx(SCALES.get(family, 1.0), rel=1e-6)


def test_a_bfloat16_model_is_read_in_float32() -> None:
    model = unproven(tiny_model("olmoe", dtype=torch.bfloat16))
    found = find_unembedding(model)
    assert found.head.weight.dtype == torch.bfloat16
    assert found.head.scale == 1.0
    states = torch.randn(3, 32)
    assert found.inputs(states).dtype == torch.float32
    weight = model.hf.get_submodule("model.norm").weight.float()
    by_hand = states / (states.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    torch.testing.assert_close(found.inputs(states), by_hand, rtol=1e-5, atol=1e-5)


def test_without_norm_states_pass_unchanged() -> None:
    found = find_unembedding(proven("olmoe"))
    states = torch.randn(2, 3, 32)
    assert torch.equal(found.inputs(states, norm="none"), states)
    assert not torch.equal(found.inputs(states), states)


def test_an_unknown_norm_is_named() -> None:
    found = find_unembedding(proven("olmoe"))
    with pytest.raises(InputError, match=r"norm='layer' is unknown; choose one of final, none"):
        found.inputs(torch.randn(1, 32), norm="layer")


def test_a_bias_of_the_head_is_part_of_the_scores() -> None:
    hf = tiny_model("olmoe")
    hf.lm_head.bias = nn.Parameter(torch.randn(128))
    head = find_head(unproven(hf))
    assert torch.equal(head.bias, hf.lm_head.bias)


def test_capped_logits_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match=r"beam: the model's logits .* caps them softly"):
        find_head(proven("beam"))


def test_several_residual_streams_are_refused_but_have_a_head() -> None:
    model = proven("deepseek_v4")
    assert find_head(model).vocab_size == model.vocab_size
    with pytest.raises(UnsupportedModel, match="layer_output cannot be told in this family"):
        find_unembedding(model)


def test_a_missing_norm_is_refused() -> None:
    hf = tiny_model("olmoe")
    hf.model.norm = nn.Identity()
    with pytest.raises(UnsupportedModel, match=r"olmoe: no module beside .* tried: none"):
        find_unembedding(unproven(hf))


def test_a_head_that_is_not_linear_is_refused() -> None:
    hf = tiny_model("olmoe")
    hf.lm_head = nn.Sequential(hf.lm_head)
    with pytest.raises(UnsupportedModel, match=r"not a linear layer \(found: Sequential\)"):
        find_head(unproven(hf))


def test_a_dense_last_layer_is_refused() -> None:
    model = proven("olmoe")
    with pytest.raises(UnsupportedModel, match=r"last decoder layer \(2\) has no experts"):
        find_unembedding(replace(model, layers=model.layers[:-1]))
