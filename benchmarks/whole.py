"""DeepSeekMoE-16B's full shape, 33 GB, analysed from end to end on a machine it does not fit.

`python -m benchmarks.whole [--layers N] [--memory 8GiB] [--place DIR]`

Writes the synthetic checkpoint (benchmarks/synthetic.py), runs `moe-lens run` on it with every
measure in a process of its own (load-time proof, hash of all weights, all passes, tables, report),
and takes both away again. Not part of `make bench`: it wants 34 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.measure import save
from benchmarks.process import watched
from benchmarks.stream import drop_cache
from benchmarks.synthetic import CONFIG, write_checkpoint

ALLOWED_BYTES = 1 << 30
"""Beside two layers and the tokens: libraries, scratch, the sums of every experiment."""
BYTES_PER_TOKEN = 5_000


def layer_bytes() -> int:
    """Bytes of one MoE layer in bfloat16."""
    names = ("hidden_size", "moe_intermediate_size", "n_routed_experts", "n_shared_experts")
    hidden, width, experts, shared = (int(str(CONFIG[name])) for name in names)
    return 2 * hidden * (3 * width * (experts + shared) + experts + 4 * hidden)


def measure(folder: Path, *, num_layers: int, memory: str) -> dict[str, Any]:
    """Write, run, read what the run says of itself."""
    started = time.perf_counter()
    checkpoint, run = write_checkpoint(folder / "model", num_layers=num_layers), folder / "run"
    written_s = time.perf_counter() - started
    drop_cache(checkpoint)
    text = ("--corpus", checkpoint / "text.jsonl", "--out", run, "--memory", memory)
    found = watched([Path(sys.executable).with_name("moe-lens"), "run", checkpoint, *text])
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    num_tokens = manifest["corpus"]["num_tokens"]
    allowed = 2 * layer_bytes() + BYTES_PER_TOKEN * num_tokens + ALLOWED_BYTES
    return {
        "ratio": found.anonymous_bytes / allowed,
        "baseline": "two layers + 5 KB a token + 1 GiB",
        "unit": "peak anonymous memory",
        "shapes": {"layers": num_layers, "tokens": num_tokens},
        "checkpoint_bytes": sum(f.stat().st_size for f in checkpoint.glob("*.safetensors")),
        "written_s": written_s,
        "seconds": found.seconds,
        "anonymous_bytes": found.anonymous_bytes,
        "resident_bytes": found.resident_bytes,
        "tables": {
            file.stem: pl.scan_parquet(file).select(pl.len()).collect().item()
            for file in sorted((run / "tables").glob("*.parquet"))
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--memory", default="8GiB")
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="moe-lens-whole-", dir=asked.place) as folder:
        result = measure(Path(folder), num_layers=asked.layers, memory=asked.memory)
    print(f"{result['seconds']:.0f} s; {result['anonymous_bytes'] / 2**30:.2f} GiB at most")
    print(f"ratio {result['ratio']:.3f}; written to {save('whole', result)}")


if __name__ == "__main__":
    main()
