"""The three steps of scripts/check_old_transformers; `make` and `compare` run in the older one.

Older releases keep configs in their original form (rope_theta, torch_dtype, num_experts): what is
pruned here is what lies on the hub, not what a newer transformers would write.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "rope_theta": 5000.0,
}  # fmt: skip
MLA = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
PARTS = {"intermediate_size": 48, "moe_intermediate_size": 16}
ROUTED = {
    "n_routed_experts": 12, "n_shared_experts": 2, "num_experts_per_tok": 3,
    "first_k_dense_replace": 1, "routed_scaling_factor": 1.5,
}  # fmt: skip
GROUPS = {"n_group": 4, "topk_group": 2, "norm_topk_prob": True}
FAMILIES = {
    "olmoe": {"intermediate_size": 16, "num_experts": 12, "num_experts_per_tok": 3},
    "qwen2_moe": PARTS
    | {"num_experts": 12, "num_experts_per_tok": 3, "shared_expert_intermediate_size": 24},
    "qwen3_moe": PARTS
    | {"num_experts": 12, "num_experts_per_tok": 3, "head_dim": 8, "norm_topk_prob": True},
    "mixtral": {"intermediate_size": 16, "num_local_experts": 8, "num_experts_per_tok": 2},
    "deepseek_v2": PARTS | ROUTED | MLA
    | {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "head_dim": 8},
    "deepseek_v3": PARTS | ROUTED | MLA | GROUPS,
    "glm4_moe": PARTS | ROUTED | GROUPS | {"head_dim": 8, "use_qk_norm": True},
    "ernie4_5_moe": PARTS
    | {"moe_num_experts": 8, "moe_k": 3, "moe_num_shared_experts": 2,
       "moe_layer_start_index": 1, "moe_layer_end_index": 2},
    "gpt_oss": {
        "intermediate_size": 16, "num_local_experts": 8, "num_experts_per_tok": 3, "head_dim": 8,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_scaling": {"rope_type": "default"},
    },
}  # fmt: skip
TOLERANCE = 1e-5


def make(place: Path) -> None:
    """Random models, written by this transformers."""
    for name, sizes in FAMILIES.items():
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, **(SIZES | sizes))
        config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for key, tensor in (*model.named_parameters(), *model.named_buffers()):
                if "inv_freq" in key or not tensor.is_floating_point():
                    continue
                width = 1.0 if tensor.dim() == 1 else tensor[0].numel() ** -0.5
                noise = torch.randn(tensor.shape)
                if "norm" in key:
                    tensor.copy_(1 + 0.1 * noise)
                elif "bias" in key or tensor.dim() == 1:
                    tensor.copy_(0.1 * noise)
                elif "embed" in key:
                    tensor.copy_(noise)
                else:
                    tensor.copy_(noise * (tensor.shape[-2] ** -0.5 if tensor.dim() == 3 else width))
        model.save_pretrained(place / name / "original")
        save_file({"logits": logits(place / name / "original")}, place / name / "old.safetensors")


def prune(place: Path) -> None:
    """Every model without a third of its experts, and what this transformers makes of it."""
    from moe_lens.prune.export import export
    from moe_lens.prune.planning import make_plan

    for name in FAMILIES:
        here = place / name
        keep = 8 if "n_group" in FAMILIES[name] or 12 in FAMILIES[name].values() else 5
        plan = make_plan(here / "original", keep=keep, criterion="random")
        export(here / "original", plan, here / "pruned")
        both = {"original": logits(here / "original"), "pruned": logits(here / "pruned")}
        save_file(both, here / "new.safetensors")


def compare(place: Path) -> None:
    """The pruned models here against what the newer transformers made of them."""
    print(f"transformers {transformers.__version__}, float32; difference of logits / largest logit")
    worst = 0.0
    for name in FAMILIES:
        here = place / name
        newer = load_file(here / "new.safetensors")
        errors = {kind: error(logits(here / kind), newer[kind]) for kind in newer}
        apart = error(newer["pruned"], newer["original"])
        print(
            f"{name:14} original {errors['original']:.1e}  pruned {errors['pruned']:.1e}  "
            f"(pruning itself moves them by {apart:.2f})"
        )
        worst = max(worst, *errors.values())
    if not worst <= TOLERANCE:
        sys.exit(f"logits differ by {worst:.1e}, allowed {TOLERANCE:.0e}")


@torch.no_grad()
def logits(directory: Path) -> Tensor:
    """What a checkpoint gives for some tokens."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    ids = torch.randint(3, 128, (2, 24), generator=torch.Generator().manual_seed(2))
    found: Tensor = model.eval()(input_ids=ids, use_cache=False).logits
    return found.contiguous()


def error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a part of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    steps = {"make": make, "prune": prune, "compare": compare}
    steps[sys.argv[1]](Path(sys.argv[2]))
