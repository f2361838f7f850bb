"""From a checkpoint on disk to a model whose tensors are all there, finite, and its own."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from moe_lens.errors import CheckpointError
from moe_lens.models.model import LayerFacts, MoEModel, ObservedLayer
from moe_lens.models.shards import weight_files
from moe_lens.models.store import LayerStore, only_outside_layers
from moe_lens.models.structure import find_moe_layers

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def open_model(
    directory: Path,
    config: PreTrainedConfig,
    *,
    source: str,
    dtype: torch.dtype | None,
    device: torch.device,
    trust_remote_code: bool = False,
    streaming: bool = False,
) -> MoEModel:
    """Load a checkpoint and find its MoE layers; nothing is proven of them yet.

    Args:
        directory: Holds config.json, safetensors and tokenizer files.
        config: As read from it.
        source: What the user named, for messages.
        dtype: Of the loaded weights; None for the checkpoint's own.
        device: Where the weights go.
        trust_remote_code: Whether code that comes with the checkpoint may run.
        streaming: Whether decoder layers stay on disk until the engine asks for them.

    Raises:
        CheckpointError: Weights are missing, cut short, of another shape, or not finite, or the
            tokenizer is another model's.
        UnsupportedModel: The model's experts cannot be observed.
    """
    weight_files(directory)
    store: LayerStore | None = None
    if streaming:
        with only_outside_layers() as stores:
            hf = _load(directory, config, dtype=dtype, trust_remote_code=trust_remote_code)
        (store,) = stores
        store.device = device
    else:
        hf = _load(directory, config, dtype=dtype, trust_remote_code=trust_remote_code)
    modules = find_moe_layers(hf)
    check_finite(hf, source)
    tokenizer = load_tokenizer(directory, trust_remote_code=trust_remote_code)
    if tokenizer is not None:
        check_vocabulary(tokenizer, hf, source)
    return MoEModel(
        hf=(hf.to(device) if store is None else _outside_to(hf, device)).eval(),
        tokenizer=tokenizer,
        layers=tuple(ObservedLayer(layer, LayerFacts()) for layer in modules),
        source=source,
        store=store,
    )


def _outside_to(hf: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Move what is there: everything but the decoder layers' weights."""
    if device.type != "cpu":
        hf._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))
    return hf


def _load(
    directory: Path,
    config: PreTrainedConfig,
    *,
    dtype: torch.dtype | None,
    trust_remote_code: bool,
) -> PreTrainedModel:
    try:
        hf, info = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype="auto" if dtype is None else dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{directory}: transformers cannot load it: {error}") from error
    for kind, found in (
        ("missing", info["missing_keys"]),
        ("of another shape", info["mismatched_keys"]),
    ):
        if found:
            first = sorted(str(key) for key in found)[0]
            raise CheckpointError(
                f"{directory}: {len(found)} tensors are {kind}, the first is {first}; config.json "
                f"and the weights are not of the same model"
            )
    model: PreTrainedModel = hf
    return model


def check_finite(hf: nn.Module, source: str, *, prefix: str = "") -> None:
    """Prove that no weight at hand is NaN or infinite.

    Args:
        hf: The model, or a part of it.
        source: What the user named.
        prefix: Path of the part, with a dot at the end.

    Raises:
        CheckpointError: One is; the message names the tensor.
    """
    for name, tensor in hf.named_parameters():
        if tensor.numel() == 0 or tensor.is_meta:
            continue
        low, high = torch.aminmax(tensor.detach())
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise CheckpointError(
                f"{source}: the weight {prefix}{name} holds a value that is not finite; the "
                f"file is damaged, or was saved from a run that diverged"
            )


def load_tokenizer(
    directory: Path, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase | None:
    """The checkpoint's tokenizer, or None where it comes with none.

    Raises:
        CheckpointError: Its files are there and cannot be read.
    """
    if not any((directory / name).exists() for name in _TOKENIZER_FILES):
        return None
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise CheckpointError(f"{directory}: its tokenizer cannot be read: {error}") from error
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, hf: PreTrainedModel, source: str) -> None:
    """Prove that every id the tokenizer can give has a row in the embedding.

    Raises:
        CheckpointError: It has not.
    """
    rows = hf.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        raise CheckpointError(
            f"{source}: the tokenizer gives ids up to {highest}, but the model's vocabulary has "
            f"{rows} rows; this tokenizer belongs to another model"
        )
