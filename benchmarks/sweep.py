"""What k = 1 .. 6 cost side by side, against the floating-point law and against six passes.

`python -m benchmarks.sweep [--layers N] [--tokens N] [--directory DIR]`

DeepSeekMoE's real widths, streamed from a cold disk. The law: experts cost 1 + .. + 6 = 21 slots
instead of 6, attention and shared experts six times one, together 4.5 passes of k = 6.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measure import clock, interleaved, save
from benchmarks.stream import drop_cache, token_batches
from benchmarks.synthetic import write_checkpoint
from moe_lens.corpus import TokenBatch
from moe_lens.engine.major import LayerMajor
from moe_lens.engine.streams import Stream
from moe_lens.loading import load_model
from moe_lens.policies import KeepTopK

_LAW = 4.5
_KS = range(1, 7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--directory", type=Path, help="a synthetic checkpoint that is there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="moe-lens-") as folder:
        directory = arguments.directory
        if directory is None:
            directory = write_checkpoint(Path(folder) / "model", num_layers=arguments.layers)
        measure(directory, arguments)


def measure(directory: Path, arguments: argparse.Namespace) -> None:
    """One pass, six together, and six one after another on 512 tokens."""
    model = load_model(directory, device="cpu", engine="streaming")
    many = token_batches(arguments.tokens, rows=4)
    few = token_batches(512, rows=1, length=512)

    def run(streams: list[Stream], batches: list[TokenBatch]) -> None:
        drop_cache(directory)
        for _ in LayerMajor(model, batches, streams).run():
            pass

    six = [Stream(KeepTopK(k)) for k in _KS]
    tasks: dict[str, Callable[[], object]] = {
        "k = 6": lambda: run([Stream(KeepTopK(6))], many),
        "k = 1 .. 6 together": lambda: run(six, many),
        "512 tokens, together": lambda: run(six, few),
        "512 tokens, one after another": lambda: [run([one], few) for one in six],
    }
    seconds = interleaved(tasks, repeats=arguments.repeats)
    apart, together = seconds["512 tokens, one after another"], seconds["512 tokens, together"]
    result = {
        "ratio": seconds["k = 1 .. 6 together"] / (_LAW * seconds["k = 6"]),
        "baseline": "4.5 x one k = 6 pass, streamed from a cold disk",
        "unit": f"{clock()} time / baseline",
        "shapes": {"layers": arguments.layers, "tokens": arguments.tokens, "few_tokens": 512},
        "seconds": seconds,
        "over_separate_at_512": apart / together,
    }
    print(f"ratio {result['ratio']:.3f}, at 512 tokens {apart / together:.2f} x faster than apart")
    print(f"written to {save('sweep', result)}")


if __name__ == "__main__":
    main()
