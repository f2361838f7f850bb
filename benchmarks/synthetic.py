"""A checkpoint of DeepSeekMoE-16B's full shape with random weights, written shard by shard.

`python -m benchmarks.synthetic DIR [--layers 28]` writes it: 33 GB in bfloat16, in the original
layout (one tensor for each expert and projection), with a tokenizer of one word for each id and a
text of random words beside it. `python -m benchmarks.synthetic DIR --remove` takes it away.

The weights are noise of the scale that keeps a residual stream's variance, so routers tell tokens
apart and nothing overflows. They are cut at random places from one stretch of noise for each
scale; fresh noise for all of them would take
longer than writing it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

CONFIG = {
    "architectures": ["DeepseekForCausalLM"],
    "model_type": "deepseek",
    "vocab_size": 102400,
    "hidden_size": 2048,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "norm_topk_prob": False,
    "scoring_func": "softmax",
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
MARK = "synthetic"
_NOISE = 1 << 26


class Noise:
    """Gaussian noise in bfloat16, of whatever scale."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._plain = torch.randn(_NOISE, generator=self._generator)
        self._scaled: dict[float, Tensor] = {}

    def matrix(self, rows: int, columns: int, *, gain: float = 1.0) -> Tensor:
        """A matrix whose product with unit noise has this standard deviation."""
        std = gain / columns**0.5
        if std not in self._scaled:
            self._scaled[std] = (self._plain * std).to(torch.bfloat16)
        parts, left = [], rows * columns
        while left:
            size = min(left, _NOISE // 2)
            at = int(torch.randint(_NOISE - size, (1,), generator=self._generator))
            parts.append(self._scaled[std][at : at + size])
            left -= size
        return torch.cat(parts).view(rows, columns)


def shards(num_layers: int, *, vocab_size: int) -> Iterator[dict[str, Tensor]]:
    """The tensors of each shard: what belongs to no layer, then one shard for each layer."""
    noise, hidden = Noise(seed=0), int(str(CONFIG["hidden_size"]))
    ones = torch.ones(hidden, dtype=torch.bfloat16)
    yield {
        "model.embed_tokens.weight": noise.matrix(vocab_size, hidden, gain=hidden**0.5 / 2),
        "model.norm.weight": ones,
        "lm_head.weight": noise.matrix(vocab_size, hidden),
    }
    for layer in range(num_layers):
        yield {f"model.layers.{layer}.{n}": t for n, t in _layer(noise, layer, hidden, ones)}


def _layer(noise: Noise, layer: int, hidden: int, ones: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "input_layernorm.weight", ones.clone()
    yield "post_attention_layernorm.weight", ones.clone()
    for name in "qkvo":
        yield f"self_attn.{name}_proj.weight", noise.matrix(hidden, hidden)
    if layer == 0:
        yield from _mlp("mlp", noise, hidden, int(str(CONFIG["intermediate_size"])))
        return
    width, experts = (int(str(CONFIG[n])) for n in ("moe_intermediate_size", "n_routed_experts"))
    yield "mlp.gate.weight", noise.matrix(experts, hidden, gain=2.0)
    yield from _mlp("mlp.shared_experts", noise, hidden, width * 2)
    for expert in range(experts):
        yield from _mlp(f"mlp.experts.{expert}", noise, hidden, width)


def _mlp(name: str, noise: Noise, hidden: int, width: int) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.gate_proj.weight", noise.matrix(width, hidden)
    yield f"{name}.up_proj.weight", noise.matrix(width, hidden)
    yield f"{name}.down_proj.weight", noise.matrix(hidden, width, gain=2.0)


def write_checkpoint(
    directory: Path, *, num_layers: int = 28, vocab_size: int = 102400, num_words: int = 4096
) -> Path:
    """Write the checkpoint, its tokenizer and `text.jsonl`, documents of 512 random words."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARK).touch()
    total, weight_map = 0, {}
    for number, tensors in enumerate(shards(num_layers, vocab_size=vocab_size)):
        name = f"model-{number + 1:05d}-of-{num_layers + 1:05d}.safetensors"
        save_file(tensors, directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    config = CONFIG | {"num_hidden_layers": num_layers, "vocab_size": vocab_size}
    (directory / "config.json").write_text(json.dumps(config))
    _write_text(directory, vocab_size=vocab_size, num_words=num_words)
    return directory


def _write_text(directory: Path, *, vocab_size: int, num_words: int) -> None:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    words |= {f"w{i}": i for i in range(4, vocab_size)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(directory)
    ids = torch.randint(4, vocab_size, (num_words,), generator=torch.Generator().manual_seed(1))
    texts = [" ".join(f"w{i}" for i in part.tolist()) for part in ids.split(512)]
    lines = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts)]
    (directory / "text.jsonl").write_text("\n".join(lines))


def remove(directory: Path) -> None:
    """Take away what `write_checkpoint` wrote, and nothing else."""
    if not (directory / MARK).is_file():
        raise SystemExit(f"{directory} holds no synthetic checkpoint: it has no file {MARK!r}")
    shutil.rmtree(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--words", type=int, default=4096)
    parser.add_argument("--remove", action="store_true")
    arguments = parser.parse_args()
    if arguments.remove:
        remove(arguments.directory)
    else:
        write_checkpoint(
            arguments.directory, num_layers=arguments.layers, num_words=arguments.words
        )


if __name__ == "__main__":
    main()
