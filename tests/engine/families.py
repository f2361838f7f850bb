"""Every family that transformers has, on a tiny random model: what holds, found by running it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe_lens.corpus import TokenBatch
from moe_lens.engine.proof import prove
from moe_lens.errors import UnsupportedModel
from moe_lens.models.model import LayerFacts, MoEModel, ObservedLayer
from moe_lens.models.structure import MoELayer, find_moe_layers
from moe_lens.models.tiny import TINY_FAMILIES, tiny_model

REFUSED = {
    "axk1": "the block does more to its experts' outputs than weigh and add them",
    "dbrx": "do not go through transformers' experts registry",
    "doge": "do not go through transformers' experts registry",
    "gemma4_text": "do not sit in an MoE block of their own",
    "inkling_text": "returns 4 values",
    "jetmoe": "do not go through transformers' experts registry",
    "llama4_text": "do not go through transformers' experts registry",
    "longcat_flash": "do not go through transformers' experts registry",
    "nemotron_h": "compute in a space of width",
    "zaya": "returns 4 values",
}
SUPPORTED = sorted(set(TINY_FAMILIES) - set(REFUSED))


def unproven(hf: PreTrainedModel) -> MoEModel:
    layers = tuple(ObservedLayer(layer, LayerFacts()) for layer in find_moe_layers(hf))
    return MoEModel(hf=hf, tokenizer=None, layers=layers, source=str(hf.config.model_type))


@lru_cache
def proven(model_type: str) -> MoEModel:
    return prove(unproven(tiny_model(model_type)))


def token_batch(*lengths: int, vocab_size: int, seed: int = 1) -> TokenBatch:
    """Random documents of these lengths, right-padded; every real token counts."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    columns = torch.arange(shape[1]).expand(shape)
    real = columns < torch.tensor(lengths).unsqueeze(1)
    ids = torch.randint(3, vocab_size, shape, generator=generator) * real
    document = torch.arange(shape[0]).unsqueeze(1).expand(shape).contiguous()
    return TokenBatch(
        input_ids=ids,
        attention_mask=real,
        counted=real,
        document=document,
        position=columns.contiguous(),
    )


@torch.no_grad()
def stock_hidden(hf: PreTrainedModel, batch: TokenBatch) -> Tensor:
    mask = batch.attention_mask
    output = hf.base_model(input_ids=batch.input_ids, attention_mask=mask, use_cache=False)
    hidden: Tensor = output.last_hidden_state
    return hidden


@torch.no_grad()
def stock_expert(layer: MoELayer, expert: int, x: Tensor) -> Tensor:
    """One expert's output by transformers' own eager loop: weight 1 on that expert alone."""
    experts = layer.experts
    ids = torch.full((len(x), 1), expert)
    before = experts.config._experts_implementation
    experts.config._experts_implementation = "eager"
    try:
        output: Tensor = experts(x, ids, torch.ones(len(x), 1))
    finally:
        experts.config._experts_implementation = before
    return output


@dataclass(frozen=True)
class Cut:
    """Which experts stay in every MoE layer."""

    kept: tuple[int, ...]
    masked: tuple[int, ...]


def cut_of(model: MoEModel) -> Cut:
    """Prune one expert, or one of each group where routing is limited to groups."""
    layer = model.layers[0]
    num_experts = layer.modules.num_experts
    rule = layer.facts.rule
    num_groups = 1 if rule is None or rule.groups is None else rule.groups.num_groups
    size = num_experts // num_groups
    masked = tuple(group * size for group in range(num_groups))
    return Cut(tuple(e for e in range(num_experts) if e not in masked), masked)


def pruned(model: MoEModel, kept: tuple[int, ...]) -> PreTrainedModel:
    """A copy of the stock model whose other experts are gone from every tensor that has them."""
    hf = copy.deepcopy(model.hf)
    index = torch.tensor(kept)
    for layer in find_moe_layers(hf):
        for module in (layer.block, *layer.block.modules()):
            _shrink(module, layer.num_experts, index)
    return hf


def _shrink(module: nn.Module, num_experts: int, kept: Tensor) -> None:
    for name in ("num_experts", "n_routed_experts", "num_local_experts", "out_features"):
        if getattr(module, name, None) == num_experts:
            setattr(module, name, len(kept))
    for slots in (module._parameters, module._buffers):
        for name, tensor in slots.items():
            if tensor is None or num_experts not in tensor.shape[:2]:
                continue
            small = tensor.detach().index_select(list(tensor.shape).index(num_experts), kept)
            slots[name] = nn.Parameter(small) if isinstance(tensor, nn.Parameter) else small


def refusal(model_type: str) -> str:
    """The message with which a family is refused."""
    try:
        prove(unproven(tiny_model(model_type)))
    except UnsupportedModel as error:
        return str(error)
    raise AssertionError(f"{model_type} is not refused")
