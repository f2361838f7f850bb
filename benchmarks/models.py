"""Random models of real width, batches for them, and what their arithmetic amounts to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, OlmoeConfig, PreTrainedConfig

from moe_lens.corpus import TokenBatch
from moe_lens.engine.proof import prove
from moe_lens.engine.session import Session
from moe_lens.event import Field, LayerEvent
from moe_lens.models.deepseek import DeepseekConfig
from moe_lens.models.model import LayerFacts, MoEModel, ObservedLayer
from moe_lens.models.structure import find_moe_layers
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.coactivation import Coactivation
from moe_lens.stats.documents import DocumentUsage
from moe_lens.stats.transitions import Transitions
from moe_lens.stats.usage import Usage
from moe_lens.stats.vocabulary import TokenVocabulary
from moe_lens.stats.weight_mass import WeightMass

_COMMON: dict[str, Any] = {
    "vocab_size": 2048,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}


def deepseek_layer(hidden: int = 2048, *, experts: int = 64, width: int = 1408) -> PreTrainedConfig:
    """DeepSeekMoE-16B's layer, or a narrower one of its kind: heads of 128, two shared, top 6."""
    return DeepseekConfig(
        **_COMMON,
        hidden_size=hidden,
        num_attention_heads=hidden // 128,
        num_key_value_heads=hidden // 128,
        n_routed_experts=experts,
        n_shared_experts=2,
        num_experts_per_tok=6,
        moe_intermediate_size=width,
        first_k_dense_replace=0,
    )


CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "deepseek": deepseek_layer,
    "olmoe": lambda: OlmoeConfig(**_COMMON, intermediate_size=1024),
}
"""DeepSeekMoE-16B's and OLMoE-1B-7B's layers, with a small vocabulary."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build(
    config: PreTrainedConfig, dtype: torch.dtype, *, num_layers: int, device: str = "cpu"
) -> MoEModel:
    """Random layers, proven; router weights spread so that experts get unequal shares."""
    config.num_hidden_layers = num_layers
    hf = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().to(device)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in find_moe_layers(hf):
            router = layer.router.get_parameter("weight")
            router.copy_(torch.randn(router.shape, generator=generator) * 0.02)
    layers = tuple(ObservedLayer(layer, LayerFacts()) for layer in find_moe_layers(hf))
    return prove(MoEModel(hf=hf, tokenizer=None, layers=layers, source=config.model_type))


def token_batch(model: MoEModel, *, num_tokens: int, length: int) -> TokenBatch:
    """Rows of `length` random tokens, without padding."""
    shape = (num_tokens // length, length)
    ids = torch.randint(model.vocab_size, shape, generator=torch.Generator().manual_seed(1))
    real = torch.ones(shape, dtype=torch.bool)
    document = torch.arange(shape[0]).unsqueeze(1).expand(shape).contiguous()
    position = torch.arange(shape[1]).expand(shape).contiguous()
    return TokenBatch(ids, real, real, document, position)


def statistics_of(model: MoEModel) -> list[Accumulator]:
    """Every routing statistic."""
    transitions = Transitions([layer.modules.index for layer in model.layers])
    plain = [Usage(), WeightMass(), Coactivation(), DocumentUsage(), TokenVocabulary()]
    return [*plain, transitions]


def observation(
    model: MoEModel, batch: TokenBatch, accumulators: Sequence[Accumulator], *fields: Field
) -> Callable[[], None]:
    """A task: the batch through a session, which keeps its buffers as in a run of many batches."""

    def feed(event: LayerEvent) -> None:
        for accumulator in accumulators:
            accumulator.update(event)

    session = Session(model, sink=feed, fields=fields)

    def run() -> None:
        with session:
            session.run(batch)

    return run


def shapes_of(model: MoEModel, batch: TokenBatch) -> dict[str, int]:
    """What a result says of the sizes it was measured at."""
    config, modules = model.hf.config, model.layers[0].modules
    return {
        "tokens": batch.input_ids.numel(),
        "sequence": batch.input_ids.shape[1],
        "layers": len(model.layers),
        "hidden": config.hidden_size,
        "heads": config.num_attention_heads,
        "experts": modules.num_experts,
        "expert_width": modules.experts.get_parameter("down_proj").shape[2],
        "top_k": modules.top_k,
        "shared_width": _shared_width(model),
    }


def _shared_width(model: MoEModel) -> int:
    shared = model.layers[0].modules.shared
    return 0 if shared is None else int(shared.get_parameter("down_proj.weight").shape[1])


def layer_flops(model: MoEModel, batch: TokenBatch) -> dict[str, int]:
    """Floating-point operations of a layer's matrix products, by part.

    Attention counts the lower triangle alone: what a causal model needs. Observation (the Gram)
    counts as nothing: it is not the model's work.
    """
    s = shapes_of(model, batch)
    tokens, hidden = s["tokens"], s["hidden"]
    return {
        "attention projections": tokens * 4 * 2 * hidden * hidden,
        "attention": tokens * (s["sequence"] + 1) // 2 * 4 * hidden,
        "router": tokens * 2 * hidden * s["experts"],
        "routed experts": tokens * s["top_k"] * 3 * 2 * hidden * s["expert_width"],
        "shared experts": tokens * 3 * 2 * hidden * s["shared_width"],
    }
