"""Export of a checkpoint larger than memory should be: peak memory, time, bytes moved.

Writes an OLMoE-shaped checkpoint shard by shard, exports it without a quarter of its experts in a
process of its own, and takes both away again. Not verified here (`--no-verify`): that would need
the memory of the model, and the tests verify the same code on every family.

Usage: python -m benchmarks.export [--gigabytes 8.9] [--place DIR]
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import save
from benchmarks.process import watched

HIDDEN, INNER, EXPERTS, VOCAB = 2048, 1024, 64, 50_304
KEEP = 48
BYTES = 2  # bfloat16
EXPORT = """
import sys
from moe_lens.prune.export import export
from moe_lens.prune.plan import read_plan
export(sys.argv[1], read_plan(sys.argv[2]), sys.argv[3], check=False)
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--gigabytes", type=float, default=8.9)
    options.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()))
    asked = options.parse_args()
    work = Path(tempfile.mkdtemp(prefix="moe-lens-export-", dir=asked.place))
    try:
        original = work / "original"
        num_bytes = write_checkpoint(original, gigabytes=asked.gigabytes)
        print(f"{num_bytes / 1e9:.2f} GB written")
        print(f"written: {save('export', measure(original, work, num_bytes))}")
    finally:
        shutil.rmtree(work)


def measure(original: Path, work: Path, num_bytes: int) -> dict[str, object]:
    """Export in a process of its own, watched from here."""
    from moe_lens.prune.planning import make_plan

    make_plan(original, keep=KEEP, criterion="random").write(work / "plan.json")
    command = [sys.executable, "-c", EXPORT, original, work / "plan.json", work / "pruned"]
    found = watched(command)
    after = sum(path.stat().st_size for path in (work / "pruned").glob("*.safetensors"))
    return {
        "checkpoint_gb": num_bytes / 1e9,
        "exported_gb": after / 1e9,
        "experts": [EXPERTS, KEEP],
        "seconds": found.seconds,
        "gb_per_second": after / 1e9 / found.seconds,
        "peak_anonymous_mb": found.anonymous_bytes / 1e6,
        "peak_resident_mb": found.resident_bytes / 1e6,
    }


def write_checkpoint(place: Path, *, gigabytes: float) -> int:
    """An OLMoE-shaped checkpoint of about this size, a shard for each layer."""
    per_layer = EXPERTS * 3 * HIDDEN * INNER * BYTES
    num_layers = max(1, round(gigabytes * 1e9 / per_layer))
    place.mkdir()
    config = {
        "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_experts": EXPERTS, "num_experts_per_tok": 8,
        "num_hidden_layers": num_layers, "num_attention_heads": 16, "num_key_value_heads": 16,
        "vocab_size": VOCAB, "rope_theta": 10000.0, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (place / "config.json").write_text(json.dumps(config, indent=2))
    noise = np.random.default_rng(0).normal(scale=0.02, size=1 << 24).astype(np.float32)
    block = (noise.view(np.uint32) >> 16).astype(np.uint16).tobytes()  # cut to bfloat16
    weight_map, total = {}, 0
    for index, tensors in enumerate(shards(num_layers)):
        name = f"model-{index + 1:05d}-of-{num_layers + 1:05d}.safetensors"
        total += write_shard(place / name, dict(tensors), block)
        weight_map |= dict.fromkeys((key for key, _ in tensors), name)
    index_values = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (place / "model.safetensors.index.json").write_text(json.dumps(index_values))
    return total


def shards(num_layers: int) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Names and shapes of each shard's tensors."""
    yield [
        ("model.embed_tokens.weight", (VOCAB, HIDDEN)),
        ("model.norm.weight", (HIDDEN,)),
        ("lm_head.weight", (VOCAB, HIDDEN)),
    ]
    for layer in range(num_layers):
        base = f"model.layers.{layer}"
        square = [(f"{base}.self_attn.{p}_proj.weight", (HIDDEN, HIDDEN)) for p in "qkvo"]
        norms = ("self_attn.q_norm", "self_attn.k_norm", "input_layernorm")
        flat = [(f"{base}.{n}.weight", (HIDDEN,)) for n in (*norms, "post_attention_layernorm")]
        experts = [
            (f"{base}.mlp.experts.{e}.{part}_proj.weight", shape)
            for e in range(EXPERTS)
            for part, shape in (
                ("gate", (INNER, HIDDEN)), ("up", (INNER, HIDDEN)), ("down", (HIDDEN, INNER)),
            )
        ]  # fmt: skip
        yield [*square, *flat, (f"{base}.mlp.gate.weight", (EXPERTS, HIDDEN)), *experts]


def write_shard(path: Path, tensors: dict[str, tuple[int, ...]], block: bytes) -> int:
    """One safetensors file of noise."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        size = int(np.prod(shape)) * BYTES
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        left = end
        while left:
            left -= stream.write(block[: min(left, len(block))])
    return end


if __name__ == "__main__":
    main()
