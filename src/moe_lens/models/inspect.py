"""`inspect_checkpoint`: what a model is, from its `config.json`, without its weights.

The counts are those of the very model that transformers would build: its class is instantiated
on the meta device, which takes no memory, and its experts are found by `models.structure`. No
formula of ours can disagree with the model. Where safetensors files lie beside the config, their
headers (never their data) are read too.

torch and transformers are imported on use, so that a wrong path is told at once.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from moe_lens.errors import CheckpointError, UnsupportedModel
from moe_lens.models.config import BUILD_ERRORS, CONFIG, find_config, read_config, senseless
from moe_lens.models.shards import weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from moe_lens.models.structure import MoELayer

_SHARED_COUNT_KEYS = (
    "n_shared_experts",
    "num_shared_experts",
    "moe_num_shared_experts",
    "num_shared_expert",
)
_MIXER = re.compile(r"Attention|Attn|Mamba|Delta|ShortConv")
_NO_MIXER = re.compile(r"DecoderLayer|Model|ForCausalLM")


@dataclass(frozen=True)
class ParameterSplit:
    """Where a model's parameters are; the parts add up to all of them.

    Attributes:
        embedding: The input embedding, and the output matrix unless the two are tied.
        attention: Attention of any kind, and what stands in its place: state-space, linear
            and short-convolution mixers.
        routed: All routed experts.
        shared: Shared experts, with their gate.
        router: The routers of the MoE layers.
        other: Dense layers, norms and the rest.
    """

    embedding: int
    attention: int
    routed: int
    shared: int
    router: int
    other: int


@dataclass(frozen=True)
class StoredTensors:
    """What the safetensors files of a checkpoint hold, from their headers.

    Attributes:
        num_files: How many files.
        num_tensors: How many tensors.
        num_elements: Numbers in all tensors; more than the model's parameters where buffers, tied
            copies or quantisation scales are stored too.
        bytes: Size of the files.
        dtypes: Tensors of each safetensors dtype.
    """

    num_files: int
    num_tensors: int
    num_elements: int
    bytes: int
    dtypes: dict[str, int]


@dataclass(frozen=True)
class ModelFacts:
    """What a config says about a Mixture-of-Experts model.

    Attributes:
        source: The path or hub id.
        model_type: The family's name in the config.
        model_class: The transformers class that runs it.
        num_layers: Decoder layers, dense ones included.
        num_moe_layers: Layers with routed experts.
        moe_layers: Their indices in the model.
        num_experts: Routed experts of a layer; of the largest one where layers differ.
        top_k: Routed experts that a token gets in a layer.
        num_shared_experts: Shared experts of a layer as the config counts them; 1 where it gives
            only their width.
        hidden_size: Width of the residual stream.
        moe_intermediate_size: Width of one routed expert.
        vocab_size: Rows of the embedding.
        context_length: The longest text its positions were made for, in tokens; None if unbounded.
        dtype: The config's dtype, float32 where it names none.
        quantization: The config's quantisation method, or None.
        parameters: Trainable numbers, tied ones once, buffers (a router's correction bias) not.
        active_parameters: Those that one token's forward pass uses: all but the routed experts
            that were not chosen. Embedding and output matrix are included whole, as in the
            published figures ("2.8B activated" of DeepSeekMoE-16B); subtract `split.embedding`
            for the layers alone.
        bytes: `parameters` in `dtype`, unquantised.
        split: Where the parameters are.
        stored: What the safetensors files beside the config hold; None where there are none.
    """

    source: str
    model_type: str
    model_class: str
    num_layers: int
    num_moe_layers: int
    moe_layers: tuple[int, ...]
    num_experts: int
    top_k: int
    num_shared_experts: int
    hidden_size: int
    moe_intermediate_size: int
    vocab_size: int
    context_length: int | None
    dtype: str
    quantization: str | None
    parameters: int
    active_parameters: int
    bytes: int
    split: ParameterSplit
    stored: StoredTensors | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values under the attributes' names."""
        return {**asdict(self), "moe_layers": list(self.moe_layers)}


def inspect_checkpoint(
    path_or_id: str | os.PathLike[str], *, revision: str | None = None
) -> ModelFacts:
    """Tell what a model is from its `config.json`; no weights are needed, no remote code is run.

    That a model can be inspected means that its experts and routers were found, which is what
    loading needs first; what else must hold is proven on its weights, at load.

    Args:
        path_or_id: A directory with a `config.json`, or a hub id (of which only that file is
            fetched, or taken from the cache).
        revision: Branch, tag or commit of a hub id.

    Raises:
        CheckpointError: There is no such model, or its files are unreadable or disagree.
        UnsupportedModel: It is dense, or its experts are not built in a way that can be observed,
            or transformers does not know it.
    """
    source = str(path_or_id)
    file = find_config(path_or_id, revision=revision)
    config = read_config(file, source=source)
    model = build_on_meta(config, source)
    stored = _read_stored(file.parent) if Path(path_or_id).expanduser().is_dir() else None
    facts = _facts(model, config, source=source, stored=stored)
    _check_coverage(facts)
    return facts


def build_on_meta(config: PreTrainedConfig, source: str) -> PreTrainedModel:
    """The model with its real shapes, and no memory behind them.

    Raises:
        CheckpointError: The config makes no sense for its family.
        UnsupportedModel: The family is no causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModel(
            f"{source}: model_type {config.model_type!r} is not a causal language model in "
            f"transformers"
        )
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, attn_implementation="eager", trust_remote_code=False
            )
    except BUILD_ERRORS as error:
        raise CheckpointError(senseless(source, config.model_type, error)) from error
    return model


def _facts(
    model: PreTrainedModel,
    config: PreTrainedConfig,
    *,
    source: str,
    stored: StoredTensors | None,
) -> ModelFacts:
    import torch

    from moe_lens.models.structure import find_moe_layers

    layers = find_moe_layers(model)
    text = config.get_text_config()
    parameters = sum(p.numel() for p in model.parameters())
    dtype = config.dtype or text.dtype or torch.float32
    quantization = getattr(config, "quantization_config", None) or {}
    split = _split(model, layers)
    return ModelFacts(
        source=source,
        model_type=config.model_type,
        model_class=type(model).__name__,
        num_layers=text.num_hidden_layers,
        num_moe_layers=len(layers),
        moe_layers=tuple(layer.index for layer in layers),
        num_experts=max(layer.num_experts for layer in layers),
        top_k=max(layer.top_k for layer in layers),
        num_shared_experts=_num_shared(text) if split.shared else 0,
        hidden_size=text.hidden_size,
        moe_intermediate_size=max(_expert_width(layer) for layer in layers),
        vocab_size=model.get_input_embeddings().weight.shape[0],
        context_length=getattr(text, "max_position_embeddings", None),
        dtype=str(dtype).removeprefix("torch."),
        quantization=quantization.get("quant_method"),
        parameters=parameters,
        active_parameters=parameters - sum(_num_idle(layer) for layer in layers),
        bytes=parameters * dtype.itemsize,
        split=split,
        stored=stored,
    )


def _num_idle(layer: MoELayer) -> int:
    """Parameters of a layer's routed experts that a token does not get."""
    routed = sum(p.numel() for p in layer.experts.parameters())
    return routed // layer.num_experts * (layer.num_experts - layer.top_k)


def _expert_width(layer: MoELayer) -> int:
    inner = 1 if getattr(layer.experts, "is_transposed", False) else 2
    return layer.experts.get_parameter("down_proj").shape[inner]


def _num_shared(text: PreTrainedConfig) -> int:
    counts = [getattr(text, key, None) for key in _SHARED_COUNT_KEYS]
    return next((n for n in counts if isinstance(n, int) and n > 0), 1)


def _split(model: PreTrainedModel, layers: tuple[MoELayer, ...]) -> ParameterSplit:
    place: dict[int, str] = {}
    for matrix in (model.get_input_embeddings(), model.get_output_embeddings()):
        place |= dict.fromkeys(
            map(id, matrix.parameters() if matrix is not None else ()), "embedding"
        )
    for layer in layers:
        place |= dict.fromkeys(map(id, layer.experts.parameters()), "routed")
        place |= dict.fromkeys(map(id, layer.router.parameters()), "router")
    for module in model.modules():
        kind = type(module).__name__
        if _MIXER.search(kind) and not _NO_MIXER.search(kind):
            place |= dict.fromkeys(map(id, module.parameters()), "attention")
    in_moe_layer = tuple(f"{layer.name}." for layer in layers)
    sums: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        shared = name.startswith(in_moe_layer) and ".shared_" in name
        sums[place.get(id(parameter), "shared" if shared else "other")] += parameter.numel()
    return ParameterSplit(**{part.name: sums[part.name] for part in fields(ParameterSplit)})


def _read_stored(directory: Path) -> StoredTensors | None:
    """What the safetensors files hold; None where there are none.

    Raises:
        CheckpointError: A file is missing, cut short or not safetensors.
    """
    if not any(directory.glob("*.safetensors*")):
        return None
    files = weight_files(directory)
    dtypes: Counter[str] = Counter()
    num_elements = 0
    for file in files:
        with safe_open(file, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                tensor = tensors.get_slice(name)
                dtypes[tensor.get_dtype()] += 1
                num_elements += math.prod(tensor.get_shape())
    return StoredTensors(
        num_files=len(files),
        num_tensors=dtypes.total(),
        num_elements=num_elements,
        bytes=sum(file.stat().st_size for file in files),
        dtypes=dict(sorted(dtypes.items())),
    )


def _check_coverage(facts: ModelFacts) -> None:
    stored = facts.stored
    if stored is None or facts.quantization is not None:
        return
    if stored.num_elements < facts.parameters:
        raise CheckpointError(
            f"{facts.source}: the safetensors files hold {stored.num_elements:,} numbers, but the "
            f"model of {CONFIG} has {facts.parameters:,} parameters. Tensors are missing, or the "
            f"config is of another model"
        )
