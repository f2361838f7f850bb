"""Tiny random models, one per supported family, for tests and for trying things out.

Not for statistics about language: the weights are noise. They are drawn so that nothing is
degenerate: routers tell tokens apart, experts move the residual stream, biases are not zero.
"""

from __future__ import annotations

import copy
import math
import re

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from moe_lens.models.tiny_configs import TINY_FAMILIES, TinyFamily

__all__ = ["TINY_FAMILIES", "TinyFamily", "tiny_config", "tiny_model"]

_ATTN_IMPLEMENTATION = "eager"
_EMBEDDING_STD = 1.0
_TIED_EMBEDDING_STD = 0.5
_BIAS_STD = 0.1
_NORM_STD = 0.1
# A gated unit shrinks its input to about 0.6 and a routing weight to less than half.
_EXPERT_DOWN_GAIN = 3.0


def tiny_config(model_type: str) -> PreTrainedConfig:
    """Configuration of the tiny model of a family.

    Raises:
        ValueError: No tiny family has this name.
    """
    if model_type not in TINY_FAMILIES:
        raise ValueError(
            f"no tiny model of type {model_type!r}; there is one for each of: "
            f"{', '.join(sorted(TINY_FAMILIES))}"
        )
    if model_type == "deepseek":
        from moe_lens.models import deepseek

        deepseek.register()
    overrides = copy.deepcopy(dict(TINY_FAMILIES[model_type].overrides))  # some configs keep lists
    return AutoConfig.for_model(model_type, **overrides)


def tiny_model(
    model_type: str, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Random tiny model of a family, on the CPU, in eval mode.

    The same `seed` gives the same weights in every dtype, up to rounding. The global random state
    is left alone.

    Raises:
        ValueError: No tiny family has this name.
    """
    config = tiny_config(model_type)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=_ATTN_IMPLEMENTATION
        )
    _redraw(model, torch.Generator().manual_seed(seed), TINY_FAMILIES[model_type].router_gain)
    return model.eval()


@torch.no_grad()
def _redraw(model: PreTrainedModel, generator: torch.Generator, router_gain: float) -> None:
    """Replace every parameter, and every buffer that the routing reads, by seeded noise."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    for name, parameter in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        noise = torch.randn(parameter.shape, generator=generator)
        if id(parameter) in embeddings:
            parameter.copy_(noise * (_TIED_EMBEDDING_STD if tied else _EMBEDDING_STD))
        elif "bias" in name.rpartition(".")[2]:
            parameter.copy_(noise * _BIAS_STD)
        elif parameter.dim() < 2:
            parameter.copy_(_initial(parameter) + noise * _NORM_STD)
        else:
            gain = router_gain if re.search(r"router|gate\.", name) else 1.0
            parameter.copy_(noise * gain * _weight_std(module, name=name, tensor=parameter))
    for name, buffer in model.named_buffers():
        if re.search(r"bias|layer_scalar", name.rpartition(".")[2]):
            buffer.add_(torch.randn(buffer.shape, generator=generator) * _BIAS_STD)
        elif name.endswith("tid2eid"):  # DeepSeek-V4: token id -> its experts, all different
            num_experts: int = model.config.n_routed_experts
            order = torch.rand(buffer.shape[0], num_experts, generator=generator)
            buffer.copy_(order.argsort(dim=-1)[:, : buffer.shape[1]])
    _check_finite(model)


def _initial(parameter: Tensor) -> Tensor:
    """The family's own initial value: norms start at 1, or at 0 where they are stored as 1 + w."""
    value = parameter.detach().float()
    initialised = bool(torch.isfinite(value).all()) and bool((value.abs() < 100).all())
    return value if initialised else torch.zeros_like(value)


def _weight_std(module: nn.Module, *, name: str, tensor: Tensor) -> float:
    """Keep unit variance through a weight: 1 / sqrt(number of inputs)."""
    if tensor.dim() == 3 and not isinstance(module, nn.Conv1d):
        transposed = getattr(module, "is_transposed", False) or "Llama4" in type(module).__name__
        gain = _EXPERT_DOWN_GAIN if "down" in name else 1.0
        return gain / math.sqrt(tensor.shape[1 if transposed else 2])
    return 1.0 / math.sqrt(tensor[0].numel())


def _check_finite(model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), f"{name} has values that are not finite"
