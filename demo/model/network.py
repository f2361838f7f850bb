"""The demo model's shape, initial weights and optimisers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from demo.model.kernels import ATTENTION, IMPLEMENTATION
from demo.model.muon import Muon
from demo.tokenizer import CONTEXT
from moe_lens.models.deepseek import DeepseekConfig, DeepseekExperts, DeepseekForCausalLM

# Peak learning rates. Matrices take Muon, everything else AdamW.
LR_MATRICES = 0.035
LR_EMBEDDING = 0.03
LR_HEAD = 0.01
LR_ROUTER = 0.008
LR_NORMS = 0.01


def demo_config(tokenizer: PreTrainedTokenizerFast) -> DeepseekConfig:
    """One dense layer, then four of 64 fine-grained experts, top 6, plus 2 shared ones."""
    return DeepseekConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=512,
        moe_intermediate_size=64,
        num_hidden_layers=5,
        num_attention_heads=5,
        num_key_value_heads=5,
        n_routed_experts=64,
        n_shared_experts=2,
        num_experts_per_tok=6,
        first_k_dense_replace=1,
        norm_topk_prob=False,
        aux_loss_alpha=0.01,
        seq_aux=False,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def initialise(model: DeepseekForCausalLM) -> None:
    """Blocks begin as the identity; matrices are semi-orthogonal in scale, routers decided.

    A router starts with logits of standard deviation 1 on normed input: without
    renormalisation, flat scores would give every expert a weight near 1/64 and mute it.
    """
    d_model = model.config.hidden_size
    nn.init.normal_(model.model.embed_tokens.weight, std=0.5)
    nn.init.normal_(model.lm_head.weight, std=0.01)
    for name, parameter in model.model.layers.named_parameters():
        if name.endswith("mlp.gate.weight"):
            nn.init.normal_(parameter, std=d_model**-0.5)
        elif name.endswith(("o_proj.weight", "down_proj.weight", "experts.down_proj")):
            nn.init.zeros_(parameter)
        elif parameter.dim() >= 2:
            nn.init.uniform_(parameter, -((3 / d_model) ** 0.5), (3 / d_model) ** 0.5)


def new_model(tokenizer: PreTrainedTokenizerFast, device: torch.device) -> DeepseekForCausalLM:
    """An untrained demo model that uses the experts implementation fit for the device."""
    model = DeepseekForCausalLM(demo_config(tokenizer))
    initialise(model)
    if device.type == "cuda":
        model.set_experts_implementation("grouped_mm")
    else:
        model.set_experts_implementation(IMPLEMENTATION)
        model.set_attn_implementation(ATTENTION)
    model.to(device)
    return model


@dataclass(frozen=True)
class Optimizers:
    """Muon for the layers' matrices, AdamW for the rest, driven as one."""

    muon: Muon
    adamw: torch.optim.AdamW

    @staticmethod
    def of(model: DeepseekForCausalLM, *, dtype: torch.dtype = torch.float32) -> Optimizers:
        """Sort the parameters into groups, each with its peak learning rate.

        Muon's products are taken in `dtype`.
        """
        fused = [m.gate_up_proj for m in model.modules() if isinstance(m, DeepseekExperts)]
        matrices, routers, norms = [], [], []
        for name, parameter in model.model.named_parameters():
            if name.endswith("mlp.gate.weight"):
                routers.append(parameter)
            elif parameter.dim() < 2:
                norms.append(parameter)
            elif name != "embed_tokens.weight" and not any(parameter is f for f in fused):
                matrices.append(parameter)
        muon = Muon(matrices, fused, lr=LR_MATRICES, weight_decay=0.05, dtype=dtype)
        adamw = torch.optim.AdamW(
            [
                {"params": [model.model.embed_tokens.weight], "lr": LR_EMBEDDING},
                {"params": [model.lm_head.weight], "lr": LR_HEAD},
                {"params": routers, "lr": LR_ROUTER},
                {"params": norms, "lr": LR_NORMS},
            ],
            betas=(0.8, 0.95),
            eps=1e-10,
            weight_decay=0.0,
        )
        for group in (*muon.param_groups, *adamw.param_groups):
            group["peak_lr"] = group["lr"]
        return Optimizers(muon, adamw)

    def step(self, fraction: float) -> None:
        """One step at this fraction of the peak learning rates; clears the gradients."""
        for optimizer in (self.muon, self.adamw):
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * fraction
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
