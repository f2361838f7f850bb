"""Tiny checkpoints on disk, tokenizer included, and ways to damage them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from moe_lens.models.tiny import tiny_model


def save_checkpoint(
    directory: Path, model_type: str = "deepseek", *, vocab_size: int = 128, seed: int = 0
) -> Path:
    """A tiny random model of a family, with a tokenizer of one token for each of some words."""
    tiny_model(model_type, seed=seed).save_pretrained(directory)
    save_tokenizer(directory, vocab_size=vocab_size)
    return directory


def save_tokenizer(directory: Path, *, vocab_size: int) -> None:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    words |= {f"w{i}": i for i in range(4, vocab_size)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(directory)


def edit_config(directory: Path, **changes: object) -> None:
    file = directory / "config.json"
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def edit_weights(directory: Path, name: str, value: float | None) -> None:
    """Put a value into the first place of a tensor, or take the tensor out."""
    file = directory / "model.safetensors"
    tensors = load_file(file)
    if value is None:
        del tensors[name]
    else:
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[0] = value
    save_file(tensors, file, metadata={"format": "pt"})


def text_of(num_words: int, *, seed: int = 0) -> str:
    generator = torch.Generator().manual_seed(seed)
    return " ".join(f"w{i}" for i in torch.randint(4, 128, (num_words,), generator=generator))
