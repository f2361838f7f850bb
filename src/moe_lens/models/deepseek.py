"""DeepSeekMoE, the first version (`model_type: "deepseek"`), for transformers 5.

Config:  DeepseekConfig reads the original `config.json` as it is.
Model:   DeepseekModel, DeepseekForCausalLM; their parts DeepseekRouter,
         DeepseekExperts, DeepseekMoE, DeepseekDecoderLayer.
Loss:    balance_loss, the expert-level balance loss of the paper.
Auto:    register() makes transformers' Auto classes find all this; importing
         the module calls it.

Checkpoints keep the original keys on disk (one tensor per expert and projection).
transformers fuses them at load and splits them again at save.

Source: Dai et al., DeepSeekMoE (arXiv 2401.06066), sections 3 and 3.3.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast, no_type_check

import torch
from huggingface_hub.dataclasses import strict
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.generation import GenerationMixin
from transformers.integrations import use_experts_implementation
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeMLP
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

MODEL_TYPE = "deepseek"


@no_type_check  # strict checks the fields, and takes keys that are none: no other checker may
@strict
class DeepseekConfig(LlamaConfig):
    """What shapes a DeepSeekMoE model, under the names of the original `config.json`.

    Layers below `first_k_dense_replace`, and those whose index is not a multiple of
    `moe_layer_freq`, are dense. `auto_map` is dropped: nothing remote is ever needed.

    Raises:
        ValueError: The config asks for what the published model does not have.
    """

    model_type = MODEL_TYPE
    attribute_map: ClassVar = {
        "num_experts": "n_routed_experts",
        "num_local_experts": "n_routed_experts",
    }

    vocab_size: int = 102400
    max_position_embeddings: int = 4096
    bos_token_id: int | None = 100000
    eos_token_id: int | list[int] | None = 100001
    moe_intermediate_size: int = 1408
    n_routed_experts: int = 64
    n_shared_experts: int | None = 2
    num_experts_per_tok: int = 6
    first_k_dense_replace: int = 0
    moe_layer_freq: int = 1
    scoring_func: str = "softmax"
    norm_topk_prob: bool = False
    aux_loss_alpha: float | int = 0.001
    seq_aux: bool = True
    output_router_logits: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("auto_map", None)
        if self.scoring_func != "softmax":
            raise ValueError(
                f"scoring_func {self.scoring_func!r}: DeepSeekMoE (model_type 'deepseek') scores "
                "its experts with 'softmax' only. Other scorings belong to later families, such "
                "as model_type 'deepseek_v3'."
            )
        if not 1 <= self.num_experts_per_tok <= self.n_routed_experts:
            raise ValueError(
                f"num_experts_per_tok {self.num_experts_per_tok}: must be between 1 and "
                f"n_routed_experts ({self.n_routed_experts})."
            )
        super().__post_init__(**kwargs)

    def is_moe_layer(self, layer: int) -> bool:
        """Whether the layer with this index (dense layers included) has experts."""
        return layer >= self.first_k_dense_replace and layer % self.moe_layer_freq == 0


class DeepseekRouter(nn.Module):
    """Chooses each token's experts: softmax over all of them, then the k largest.

    The choice is made in float32 whatever the model's dtype, and under autocast too.
    """

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.num_experts = config.n_routed_experts
        self.norm_topk_prob = config.norm_topk_prob
        self.hidden_dim = config.hidden_size
        self.weight = nn.Parameter(torch.zeros(self.num_experts, self.hidden_dim))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Router logits of every expert; the chosen experts' weights; their ids."""
        hidden_states = hidden_states.reshape(-1, self.hidden_dim)
        with torch.autocast(hidden_states.device.type, enabled=False):
            logits = functional.linear(hidden_states.float(), self.weight.float())
        weights, experts = torch.topk(logits.softmax(dim=-1), self.top_k, dim=-1)
        if self.norm_topk_prob and self.top_k > 1:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return logits, weights, experts


@use_experts_implementation
class DeepseekExperts(nn.Module):
    """The routed experts of one layer, fused in two 3-D tensors (expert first)."""

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__()
        self.num_experts = config.n_routed_experts
        self.hidden_dim = config.hidden_size
        self.intermediate_dim = config.moe_intermediate_size
        shape = (self.num_experts, self.hidden_dim, self.intermediate_dim)
        self.gate_up_proj = nn.Parameter(torch.empty(shape[0], 2 * shape[2], shape[1]))
        self.down_proj = nn.Parameter(torch.empty(shape))
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Sum of the chosen experts' outputs, each times its weight ("eager" implementation)."""
        top_k = top_k_index.shape[-1]
        order = torch.argsort(top_k_index.flatten(), stable=True)
        rows = order // top_k
        counts = torch.bincount(top_k_index.flatten(), minlength=self.num_experts).tolist()
        outputs = []
        for expert, x in enumerate(torch.split(hidden_states[rows], counts)):
            if len(x):
                gate, up = functional.linear(x, self.gate_up_proj[expert]).chunk(2, dim=-1)
                outputs.append(functional.linear(self.act_fn(gate) * up, self.down_proj[expert]))
        weighted = torch.cat(outputs) * top_k_weights.flatten()[order, None]
        return torch.zeros_like(hidden_states).index_add(0, rows, weighted.to(hidden_states.dtype))


class DeepseekMoE(nn.Module):
    """Routed experts plus, where the config has them, shared experts fused in one MLP."""

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__()
        self.gate = DeepseekRouter(config)
        self.experts = DeepseekExperts(config)
        self.shared_experts = (
            Qwen2MoeMLP(config, config.moe_intermediate_size * config.n_shared_experts)
            if config.n_shared_experts
            else None
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The block's output, to be added to the residual stream."""
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        _, weights, experts = self.gate(flat)
        output = self.experts(flat, experts, weights).view_as(hidden_states)
        if self.shared_experts is not None:
            output = output + self.shared_experts(hidden_states)
        return cast(Tensor, output)


class DeepseekDecoderLayer(LlamaDecoderLayer):
    """Llama's layer, with a DeepSeekMoE block in the MLP's place where the config says so."""

    def __init__(self, config: DeepseekConfig, layer_idx: int) -> None:
        super(LlamaDecoderLayer, self).__init__()
        self.hidden_size = config.hidden_size
        self.self_attn = LlamaAttention(config=config, layer_idx=layer_idx)
        self.mlp = DeepseekMoE(config) if config.is_moe_layer(layer_idx) else Qwen2MoeMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class DeepseekPreTrainedModel(PreTrainedModel):
    """What both models share: names, capabilities and initial weights."""

    config: DeepseekConfig
    config_class = DeepseekConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["DeepseekDecoderLayer"]
    _skip_keys_device_placement: ClassVar = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs: ClassVar = {
        "router_logits": OutputRecorder(DeepseekRouter, index=0),
        "hidden_states": DeepseekDecoderLayer,
        "attentions": LlamaAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, DeepseekExperts):
            init.normal_(module.gate_up_proj, mean=0.0, std=std)
            init.normal_(module.down_proj, mean=0.0, std=std)
        elif isinstance(module, DeepseekRouter):
            init.normal_(module.weight, mean=0.0, std=std)


class DeepseekModel(DeepseekPreTrainedModel):
    """Token ids to the normed last hidden state."""

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(
            DeepseekDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults  # type: ignore[untyped-decorator]
    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> MoeModelOutputWithPast:
        """Run the layers.

        Without cache and attention mask, positions that start again at 0 mark packed
        documents, which do not see each other.

        Raises:
            ValueError: Neither or both of `input_ids` and `inputs_embeds` were given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        assert inputs_embeds is not None
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + seen
            position_ids = position_ids.unsqueeze(0)
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_states, position_ids=position_ids)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=causal_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_embeddings=position_embeddings,
                **kwargs,
            )
        return MoeModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values
        )


class DeepseekForCausalLM(DeepseekPreTrainedModel, GenerationMixin):
    """Token ids to the next token's logits.

    With `labels`, `loss` is the cross-entropy alone; training adds `balance_loss`.
    """

    _tied_weights_keys: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__(config)
        self.model = DeepseekModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        """Run the model and decode the last `logits_to_keep` positions (0: all of them)."""
        if output_router_logits is None:
            output_router_logits = self.config.output_router_logits
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_router_logits=output_router_logits,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.vocab_size, **kwargs)
        return MoeCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
        )


def balance_loss(
    router_logits: Float[Tensor, "tok expert"],
    experts: Int[Tensor, "tok slot"],
    *,
    alpha: float,
    num_sequences: int = 1,
) -> Float[Tensor, ""]:
    """Expert-level balance loss of one layer: alpha times the sum over experts of f P.

    f is the share of slots that went to the expert times the number of experts, P its
    mean probability; both are taken within each of `num_sequences` equally long
    sequences (`seq_aux`), or over the whole batch where that is 1. Perfectly uniform
    routing costs alpha. The gradient goes through P only.

    Source: DeepSeekMoE, equations 12 to 14.
    """
    num_experts = router_logits.shape[-1]
    probabilities = router_logits.softmax(dim=-1).view(num_sequences, -1, num_experts).mean(dim=1)
    chosen = experts.reshape(num_sequences, -1)
    counts = torch.zeros_like(probabilities)
    counts.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=counts.dtype))
    share = counts * (num_experts / chosen.shape[1])
    return alpha * (share.detach() * probabilities).sum(dim=-1).mean()


def register() -> None:
    """Make transformers' Auto classes and its checkpoint conversion know this family.

    Calling it again changes nothing.
    """
    AutoConfig.register(MODEL_TYPE, DeepseekConfig, exist_ok=True)
    AutoModel.register(DeepseekConfig, DeepseekModel, exist_ok=True)
    AutoModelForCausalLM.register(DeepseekConfig, DeepseekForCausalLM, exist_ok=True)
    fuse_experts = get_checkpoint_conversion_mapping("qwen2_moe")
    register_checkpoint_conversion_mapping(MODEL_TYPE, fuse_experts, overwrite=True)


register()
