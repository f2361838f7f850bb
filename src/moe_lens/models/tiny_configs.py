"""What to change in each family's default configuration to make it tiny, as data.

About three layers of width 32, of which the first is dense where the family allows it; eight
experts of width 16 with two or three per token; expert groups, selection biases, shared experts
and scale factors wherever the family has them, with values that would show if they were missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_VOCAB, _HIDDEN, _DENSE, _MOE, _SHARED = 128, 32, 48, 16, 24

_Fields = Mapping[str, object]


@dataclass(frozen=True)
class TinyFamily:
    """A family's tiny configuration.

    Attributes:
        model_type: The family's name in transformers (or in this package).
        overrides: What differs from the family's default configuration.
        router_gain: What the router's drawn weights are multiplied by, where the family shrinks
            the router's input.
    """

    model_type: str
    overrides: _Fields
    router_gain: float = 1.0


_COMMON: _Fields = {
    "vocab_size": _VOCAB,
    "hidden_size": _HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

# Sizes of the feed-forward parts: a dense layer and an expert, or experts in every layer.
_SIZES: _Fields = {"intermediate_size": _DENSE, "moe_intermediate_size": _MOE}
_ALL_MOE: _Fields = {"intermediate_size": _MOE}
_SHARED_EXPERT: _Fields = {"shared_expert_intermediate_size": _SHARED}

# The experts, under the names that different families give them.
_EXPERTS: _Fields = {"num_experts": 12, "num_experts_per_tok": 3}
_LOCAL: _Fields = {"num_local_experts": 8, "num_experts_per_tok": 3}
_ROUTED: _Fields = {"n_routed_experts": 12, "n_shared_experts": 2, "num_experts_per_tok": 3}
_SCALE: _Fields = {"norm_topk_prob": True, "routed_scaling_factor": 1.5}
_GROUPS: _Fields = {"n_group": 4, "topk_group": 2, **_SCALE}
_KIMI: _Fields = {
    "num_experts": 12,
    "num_experts_per_token": 3,
    "num_shared_experts": 2,
    "num_expert_group": 4,
    "topk_group": 2,
    "moe_renormalize": True,
    "routed_scaling_factor": 1.5,
}

# Which layer is dense.
_FIRST_K: _Fields = {"first_k_dense_replace": 1}
_MLP_TYPES: _Fields = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
_MLP_ONLY: _Fields = {"mlp_only_layers": [0]}

# Attention.
_HEAD: _Fields = {"head_dim": 8}
_WINDOW: _Fields = {
    "head_dim": 8,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
_MLA: _Fields = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
_INDEXER: _Fields = {"index_topk": 8, "index_head_dim": 16, "index_n_heads": 2}
_KDA: _Fields = {
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
}
_DELTA_NET: _Fields = {
    "head_dim": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
_INKLING: _Fields = {
    "head_dim": 8,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "sliding_window_size": 16,
    "d_rel": 4,
    "rel_extent": 32,
    "layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding"],
}
_GRANITE: _Fields = {
    "embedding_multiplier": 1.5,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.35,
}
_GRANITE_SHARED: _Fields = {"shared_intermediate_size": _SHARED}


def _family(
    model_type: str, *parts: _Fields, router_gain: float = 1.0, **overrides: object
) -> TinyFamily:
    fields: dict[str, object] = dict(_COMMON)
    for part in (*parts, overrides):
        fields |= part
    return TinyFamily(model_type, MappingProxyType(fields), router_gain)


# fmt: off
_FAMILIES = (
    _family(
        "afmoe", _SIZES, _EXPERTS, _WINDOW, num_shared_experts=2, num_dense_layers=1,
        route_scale=1.5,
    ),
    _family("aria_text", _ALL_MOE, _HEAD, moe_num_experts=8, moe_topk=3, moe_num_shared_experts=2),
    _family("axk1", _SIZES, _ROUTED, _GROUPS, _MLP_TYPES, _MLA),
    _family(
        "axk2", _SIZES, _ROUTED, _SCALE, _MLP_TYPES, _MLA, _INDEXER, router_gain=1.8,
        gated_norm_rank=4,
    ),
    _family("bailing_hybrid", _SIZES, _KIMI, _MLP_TYPES, _MLA, _KDA, num_nextn_predict_layers=0),
    _family("beam", _SIZES, _EXPERTS, _GROUPS, _MLP_TYPES, _WINDOW),
    _family(
        "cohere2_moe", _ALL_MOE, _EXPERTS, _MLP_TYPES, _WINDOW, num_shared_experts=2,
        prefix_dense_intermediate_size=_DENSE, logit_scale=0.5,
    ),
    _family(
        "dbrx", d_model=_HIDDEN, n_heads=4, n_layers=3, max_seq_len=128,
        attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        ffn_config={
            "hidden_size": _HIDDEN, "ffn_hidden_size": _MOE, "moe_num_experts": 8, "moe_top_k": 3,
        },
    ),
    _family(
        "deepseek", _SIZES, _ROUTED, _FIRST_K, num_key_value_heads=4, moe_layer_freq=1,
        norm_topk_prob=False, scoring_func="softmax",
    ),
    _family(
        "deepseek_v2", _SIZES, _ROUTED, _FIRST_K, _MLA, topk_method="group_limited_greedy",
        n_group=4, topk_group=2, routed_scaling_factor=1.5, head_dim=8,
    ),
    _family("deepseek_v3", _SIZES, _ROUTED, _GROUPS, _FIRST_K, _MLA),
    _family("deepseek_v32", _SIZES, _ROUTED, _GROUPS, _MLP_TYPES, _MLA, _INDEXER),
    _family(
        "deepseek_v4", _ROUTED, _INDEXER, moe_intermediate_size=_MOE, n_shared_experts=1,
        num_key_value_heads=1, head_dim=16, q_lora_rank=16, o_groups=2, o_lora_rank=8,
        partial_rotary_factor=0.5, sliding_window=16, hc_mult=2,
        layer_types=[
            "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention",
        ],
        compress_rates={"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
        mlp_layer_types=["hash_moe", "moe", "moe"], num_nextn_predict_layers=0,
    ),
    _family("doge", is_moe=True, intermediate_size=_DENSE, num_experts=16, num_experts_per_tok=3),
    _family("dots1", _SIZES, _ROUTED, _GROUPS, _FIRST_K, _HEAD),
    _family(
        "dots3_note_text", _SIZES, _ROUTED, _GROUPS, _MLP_TYPES, _MLA, _INDEXER, head_dim=16,
        shared_experts_intermediate_size=_SHARED, sliding_window=16,
        layer_types=["indexed_attention", "sliding_attention", "sliding_attention"],
        swa_num_attention_heads=4, swa_num_key_value_heads=4, swa_q_lora_rank=16,
        swa_kv_lora_rank=16, swa_head_dim=16, swa_qk_nope_head_dim=8, swa_v_head_dim=8,
    ),
    _family(
        "ernie4_5_moe", _SIZES, moe_num_experts=8, moe_k=3, moe_num_shared_experts=2,
        moe_layer_start_index=1, moe_layer_end_index=2,
    ),
    _family("exaone_moe", _SIZES, _EXPERTS, _GROUPS, _MLP_TYPES, _WINDOW, num_shared_experts=2),
    _family("flex_olmo", _ALL_MOE, _EXPERTS, router_gain=0.4),
    _family("flint", _SIZES, _EXPERTS, _SHARED_EXPERT, _MLP_ONLY, _WINDOW),
    _family(
        "gemma4_text", _SIZES, router_gain=_HIDDEN**0.5, enable_moe_block=True, num_experts=8,
        top_k_experts=3, head_dim=8, global_head_dim=8, sliding_window=16,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=_VOCAB,
    ),
    _family("glm4_moe", _SIZES, _ROUTED, _GROUPS, _FIRST_K, _HEAD, use_qk_norm=True),
    _family("glm4_moe_lite", _SIZES, _ROUTED, _GROUPS, _MLP_TYPES, _MLA),
    _family("glm_moe_dsa", _SIZES, _ROUTED, _GROUPS, _MLP_TYPES, _MLA, _INDEXER),
    _family(
        "gpt_oss", _ALL_MOE, _LOCAL, _WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    _family("granitemoe", _ALL_MOE, _LOCAL, _GRANITE),
    _family(
        "granitemoe_swa", _ALL_MOE, _LOCAL, _GRANITE, _GRANITE_SHARED, sliding_window=16,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
        layer_rope_theta=[10000.0, 10000.0, 10000.0],
    ),
    _family(
        "granitemoehybrid", _ALL_MOE, _LOCAL, _GRANITE, _GRANITE_SHARED,
        layer_types=["linear_attention", "full_attention", "linear_attention"], mamba_n_heads=4,
        mamba_d_head=16, mamba_d_state=16, mamba_chunk_size=8,
    ),
    _family("granitemoeshared", _ALL_MOE, _LOCAL, _GRANITE, _GRANITE_SHARED),
    _family("hunyuan_v1_moe", _ALL_MOE, _HEAD, num_experts=8, moe_topk=3),
    _family("hy_v3", _SIZES, _EXPERTS, _MLP_TYPES, _HEAD, num_shared_experts=2),
    _family("hy_v4", _SIZES, _ROUTED, _GROUPS, _MLP_TYPES, _MLA, _INDEXER, head_dim=8, hc_mult=2),
    _family(
        "inkling2_text", _INKLING, unpadded_vocab_size=_VOCAB, moe_intermediate_size=_MOE,
        n_routed_experts=8, num_experts_per_tok=3, route_scale=1.5, n_layers_per_attn_res_block=2,
    ),
    _family(
        "inkling_text", _SIZES, _ROUTED, _MLP_TYPES, _INKLING, route_scale=1.5,
        logits_mup_width_multiplier=1.0,
    ),
    _family(
        "jamba", _ALL_MOE, num_hidden_layers=4, num_experts=8, num_experts_per_tok=2,
        expert_layer_period=2, expert_layer_offset=1, attn_layer_period=2, attn_layer_offset=1,
        mamba_d_state=8, mamba_dt_rank=4,
    ),
    _family("jetmoe", _ALL_MOE, kv_channels=8, num_local_experts=8, num_experts_per_tok=2),
    _family("kimi_linear", _SIZES, _KIMI, _MLP_TYPES, _MLA, _KDA),
    _family("kolibri1", _LOCAL, _SHARED_EXPERT, _WINDOW, moe_intermediate_size=_MOE),
    _family(
        "laguna", _SIZES, _EXPERTS, _SHARED_EXPERT, _MLP_TYPES, _WINDOW,
        num_attention_heads_per_layer=[4, 4, 4], moe_routed_scaling_factor=1.5,
        moe_router_logit_softcapping=5.0,
    ),
    _family(
        "lfm2_moe", _SIZES, _EXPERTS, _SCALE, num_dense_layers=1,
        layer_types=["conv", "full_attention", "conv"],
    ),
    _family(
        "llama4_text", intermediate_size=_MOE, intermediate_size_mlp=_DENSE, head_dim=8,
        num_local_experts=8, num_experts_per_tok=2, moe_layers=[1, 2], attention_chunk_size=32,
        no_rope_layers=[1, 1, 0],
        layer_types=["chunked_attention", "chunked_attention", "full_attention"],
    ),
    _family(
        "longcat_flash", _MLA, num_hidden_layers=6, ffn_hidden_size=_DENSE,
        expert_ffn_hidden_size=_MOE,
        n_routed_experts=8, zero_expert_num=4, moe_topk=3, routed_scaling_factor=1.5, head_dim=8,
    ),
    _family("mellum", _SIZES, _LOCAL, _MLP_TYPES, _WINDOW),
    _family(
        "mimo_v2_flash", _SIZES, _GROUPS, _MLP_TYPES, _WINDOW, n_routed_experts=12,
        num_experts_per_tok=3, head_dim=16, v_head_dim=8,
    ),
    _family(
        "minimax", _ALL_MOE, num_local_experts=8, num_experts_per_tok=2, head_dim=8, block_size=8,
        layer_types=["full_attention", "linear_attention", "full_attention"],
        full_attn_alpha_factor=1.5, mlp_alpha_factor=1.5, mlp_beta_factor=0.75,
    ),
    _family("minimax_m2", _ALL_MOE, _LOCAL, _HEAD),
    _family(
        "minimax_m3_vl_text", _ALL_MOE, _LOCAL, _MLP_TYPES, _HEAD, dense_intermediate_size=_DENSE,
        shared_intermediate_size=_SHARED, rotary_dim=8, routed_scaling_factor=1.5,
        layer_types=["full_attention", "full_attention", "full_attention"],
    ),
    _family("mixtral", _ALL_MOE, num_local_experts=8, num_experts_per_tok=2),
    _family(
        "nemotron_h", _SIZES, _ROUTED, _GROUPS, num_hidden_layers=5,
        layers_block_type=["linear_attention", "moe", "full_attention", "moe", "mlp"], head_dim=8,
        n_shared_experts=1, moe_shared_expert_intermediate_size=_SHARED, moe_latent_size=16,
        ssm_state_size=8, mamba_num_heads=4, mamba_head_dim=16, n_groups=2, chunk_size=8,
    ),
    _family("olmoe", _ALL_MOE, _EXPERTS),
    _family("phimoe", _ALL_MOE, num_local_experts=8, num_experts_per_tok=2),
    _family("qwen2_moe", _SIZES, _EXPERTS, _SHARED_EXPERT, _MLP_ONLY),
    _family("qwen3_5_moe_text", _EXPERTS, _SHARED_EXPERT, _DELTA_NET, moe_intermediate_size=_MOE),
    _family("qwen3_moe", _SIZES, _LOCAL, _MLP_ONLY, _HEAD, norm_topk_prob=True),
    _family("qwen3_next", _SIZES, _EXPERTS, _SHARED_EXPERT, _MLP_ONLY, _DELTA_NET),
    _family(
        "qwen4_exp_text", _EXPERTS, _SHARED_EXPERT, _DELTA_NET, router_gain=2.0,
        moe_intermediate_size=_MOE, hc_count=2, hc_lowrank=8, indexer_n_heads=2, indexer_kv_heads=1,
        indexer_head_dim=8, indexer_budget=8, indexer_compress_ratio=2,
    ),
    _family("solar_open", _ROUTED, _GROUPS, _HEAD, moe_intermediate_size=_MOE),
    _family(
        "zaya", router_gain=1.7, moe_intermediate_size=_MOE, num_experts=8, num_experts_per_tok=1,
        head_dim=8, router_hidden_size=16, layer_types=["hybrid", "hybrid", "hybrid"],
    ),
)
# fmt: on

TINY_FAMILIES: Mapping[str, TinyFamily] = MappingProxyType({f.model_type: f for f in _FAMILIES})
