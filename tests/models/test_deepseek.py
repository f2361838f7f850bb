"""DeepSeekMoE v1 against the paper's equations, its checkpoint layout and its config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from moe_lens.models.deepseek import (
    DeepseekConfig,
    DeepseekForCausalLM,
    DeepseekMoE,
    DeepseekRouter,
    balance_loss,
    register,
)

Array = NDArray[np.float64]

# config.json of deepseek-moe-16b-base, as published.
BASE_16B: dict[str, Any] = {
    "architectures": ["DeepseekForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_deepseek.DeepseekConfig",
        "AutoModel": "modeling_deepseek.DeepseekModel",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekForCausalLM",
    },
    "aux_loss_alpha": 0.001,
    "bos_token_id": 100000,
    "eos_token_id": 100001,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 10944,
    "max_position_embeddings": 4096,
    "model_type": "deepseek",
    "moe_intermediate_size": 1408,
    "moe_layer_freq": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 28,
    "num_key_value_heads": 16,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000,
    "scoring_func": "softmax",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "use_cache": True,
    "vocab_size": 102400,
}


def tiny_config(**changes: Any) -> DeepseekConfig:
    values: dict[str, Any] = {
        "vocab_size": 41,
        "hidden_size": 24,
        "intermediate_size": 40,
        "moe_intermediate_size": 12,  # grouped_mm wants rows of a multiple of 16 bytes
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 3,
        "first_k_dense_replace": 1,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return DeepseekConfig(**values | changes)


def tiny_model(seed: int = 0, **changes: Any) -> DeepseekForCausalLM:
    torch.manual_seed(seed)
    return DeepseekForCausalLM(tiny_config(**changes)).eval()


# --- the oracle: the paper's equations in float64, on the tensors as they lie on disk ---


def rms_norm(x: Array, weight: Array) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def rotate(x: Array) -> Array:
    """Rotary position embedding of one head, [position, dim], theta 10000."""
    half = x.shape[1] // 2
    angle = np.outer(np.arange(len(x)), 10000.0 ** (-np.arange(half) / half))
    a, b = x[:, :half], x[:, half:]
    return np.concatenate(
        [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=1
    )


def ffn(x: Array, w: dict[str, Array], name: str) -> Array:
    gate = x @ w[f"{name}.gate_proj.weight"].T
    up = x @ w[f"{name}.up_proj.weight"].T
    return (gate / (1 + np.exp(-gate)) * up) @ w[f"{name}.down_proj.weight"].T


def attention(x: Array, w: dict[str, Array], name: str, *, heads: int, kv_heads: int) -> Array:
    q, k, v = (x @ w[f"{name}.{part}_proj.weight"].T for part in "qkv")
    dim = q.shape[1] // heads
    future = np.triu(np.full((len(x), len(x)), -np.inf), 1)
    out = []
    for h in range(heads):
        g = h // (heads // kv_heads)
        query = rotate(q[:, h * dim : (h + 1) * dim])
        key = rotate(k[:, g * dim : (g + 1) * dim])
        out.append(softmax(query @ key.T / np.sqrt(dim) + future) @ v[:, g * dim : (g + 1) * dim])
    return np.concatenate(out, axis=1) @ w[f"{name}.o_proj.weight"].T


def moe(x: Array, w: dict[str, Array], name: str, config: dict[str, Any]) -> Array:
    out = np.zeros_like(x)
    for t, scores in enumerate(softmax(x @ w[f"{name}.gate.weight"].T)):
        chosen = np.argsort(-scores)[: config["num_experts_per_tok"]]
        total = scores[chosen].sum() if config["norm_topk_prob"] else 1.0
        for e in chosen:
            out[t] += scores[e] / total * ffn(x[t], w, f"{name}.experts.{e}")
    return out + ffn(x, w, f"{name}.shared_experts") if config["n_shared_experts"] else out


def reference_logits(directory: Path, ids: list[int]) -> Array:
    config = json.loads((directory / "config.json").read_text())
    w = {k: v.astype(np.float64) for k, v in load_file(directory / "model.safetensors").items()}
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        x = x + attention(
            rms_norm(x, w[f"{name}.input_layernorm.weight"]),
            w,
            f"{name}.self_attn",
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
        )
        normed = rms_norm(x, w[f"{name}.post_attention_layernorm.weight"])
        dense = layer < config["first_k_dense_replace"] or layer % config["moe_layer_freq"]
        x = x + (ffn(normed, w, f"{name}.mlp") if dense else moe(normed, w, f"{name}.mlp", config))
    return rms_norm(x, w["model.norm.weight"]) @ w["lm_head.weight"].T


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_topk_prob": True},
        {"num_experts_per_tok": 2},
        {"num_experts_per_tok": 2, "norm_topk_prob": True},
        {"n_shared_experts": None},
        {"n_shared_experts": 1, "first_k_dense_replace": 0, "moe_layer_freq": 2},
    ],
    ids=str,
)
def test_logits_follow_the_papers_equations(
    changes: dict[str, Any], implementation: str, tmp_path: Path
) -> None:
    model = tiny_model(**changes)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(tmp_path)
    model.set_experts_implementation(implementation)
    ids = torch.randint(0, 41, (19,)).tolist()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    expected = reference_logits(tmp_path, ids)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5, rtol=1e-5)


def test_checkpoint_keeps_the_original_keys_and_every_bit(tmp_path: Path) -> None:
    model = tiny_model(n_routed_experts=12)
    model.save_pretrained(tmp_path)
    ffn_keys = [f"{part}_proj.weight" for part in ("gate", "up", "down")]
    expected = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    for layer in range(3):
        at = f"model.layers.{layer}"
        expected |= {f"{at}.self_attn.{part}_proj.weight" for part in "qkvo"}
        expected |= {f"{at}.input_layernorm.weight", f"{at}.post_attention_layernorm.weight"}
        if layer == 0:
            expected |= {f"{at}.mlp.{key}" for key in ffn_keys}
            continue
        expected |= {f"{at}.mlp.gate.weight"}
        expected |= {f"{at}.mlp.shared_experts.{key}" for key in ffn_keys}
        expected |= {f"{at}.mlp.experts.{e}.{key}" for e in range(12) for key in ffn_keys}
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == expected
        expert_11 = file.get_tensor("model.layers.2.mlp.experts.11.down_proj.weight")
    block = model.model.layers[2].mlp
    assert isinstance(block, DeepseekMoE)
    assert torch.equal(expert_11, block.experts.down_proj[11])

    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is DeepseekForCausalLM
    ids = torch.randint(0, 41, (2, 9))
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_the_published_16b_config_builds_with_the_right_size(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(BASE_16B))
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, DeepseekConfig)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10000}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    d, dense, expert, vocab = 2048, 10944, 1408, 102400
    moe_layer = 64 * 3 * d * expert + 3 * d * (2 * expert) + 64 * d
    by_hand = 2 * vocab * d + 28 * (4 * d * d + 2 * d) + d + 3 * d * dense + 27 * moe_layer
    assert by_hand == 16_375_728_128
    assert sum(p.numel() for p in model.parameters()) == by_hand


def test_saved_config_needs_no_remote_code(tmp_path: Path) -> None:
    config = DeepseekConfig(**BASE_16B)
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "auto_map" not in saved
    again = DeepseekConfig.from_pretrained(tmp_path)
    for key in ("n_routed_experts", "n_shared_experts", "moe_layer_freq", "rope_parameters"):
        assert getattr(again, key) == getattr(config, key)


def test_cached_generation_equals_uncached() -> None:
    model = tiny_model()
    prompt = torch.randint(2, 41, (2, 5))
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    settings |= {"pad_token_id": 0, "attention_mask": torch.ones_like(prompt)}
    cached = model.generate(prompt, use_cache=True, **settings)
    assert torch.equal(cached, model.generate(prompt, use_cache=False, **settings))
    assert cached.shape == (2, 17)


def test_packed_documents_do_not_see_each_other() -> None:
    model = tiny_model()
    first, second = torch.randint(0, 41, (1, 6)), torch.randint(0, 41, (1, 8))
    positions = torch.cat([torch.arange(6), torch.arange(8)])[None]
    packed = model(torch.cat([first, second], 1), position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(packed[:, 6:], model(second).logits, atol=1e-5, rtol=1e-5)


def test_router_logits_are_recorded_per_moe_layer() -> None:
    model = tiny_model()
    ids = torch.randint(0, 41, (2, 7))
    recorded = model(ids, output_router_logits=True).router_logits
    assert [tuple(logits.shape) for logits in recorded] == [(14, 8), (14, 8)]
    assert model(ids).router_logits is None


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_every_parameter_learns(implementation: str) -> None:
    model = tiny_model(num_experts_per_tok=8).train()
    model.set_experts_implementation(implementation)
    ids = torch.randint(0, 41, (2, 9))
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_other_scoring_functions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scoring_func 'sigmoid'.*'softmax' only"):
        tiny_config(scoring_func="sigmoid")


def test_more_active_experts_than_experts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_experts_per_tok 9: .*n_routed_experts \(8\)"):
        tiny_config(num_experts_per_tok=9)


@pytest.mark.parametrize("num_sequences", [1, 2])
def test_balance_loss_of_uniform_routing_is_alpha(num_sequences: int) -> None:
    experts = torch.arange(8).repeat(3).view(-1, 2)  # every expert three times in each half
    experts = torch.cat([experts, experts])
    loss = balance_loss(torch.zeros(24, 8), experts, alpha=0.01, num_sequences=num_sequences)
    assert loss.item() == pytest.approx(0.01)


def test_balance_loss_sees_imbalance_within_each_sequence_only_if_asked() -> None:
    sure = 20 * torch.eye(4)
    logits = torch.cat([sure[0].expand(5, 4), sure[1].expand(5, 4)])  # one expert a sequence
    experts = torch.tensor([[0]] * 5 + [[1]] * 5)
    by_sequence = balance_loss(logits, experts, alpha=1.0, num_sequences=2)
    assert by_sequence.item() == pytest.approx(4.0)  # f = 4, P = 1 for the only expert used
    by_batch = balance_loss(logits, experts, alpha=1.0)
    assert by_batch.item() == pytest.approx(2.0)  # two experts, each f = 2, P = 1/2


def test_balance_loss_pushes_away_from_the_busy_expert() -> None:
    logits = torch.zeros(6, 4, requires_grad=True)
    balance_loss(logits, torch.tensor([[0, 1]] * 6), alpha=1.0).backward()
    assert logits.grad is not None
    assert (logits.grad[:, :2] > 0).all()
    assert (logits.grad[:, 2:] < 0).all()


def test_registering_twice_changes_nothing(tmp_path: Path) -> None:
    register()
    register()
    tiny_model().save_pretrained(tmp_path)
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is DeepseekForCausalLM


def test_router_stays_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    router = DeepseekRouter(DeepseekConfig(hidden_size=32, n_routed_experts=8))
    torch.nn.init.normal_(router.weight)
    hidden = torch.randn(5, 32)
    plain = router(hidden)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = router(hidden)
    for a, b in zip(plain, mixed, strict=True):
        assert torch.equal(a, b)
