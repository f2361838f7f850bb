"""What decoding states to words costs, against its matrix products alone.

`python -m benchmarks.lens [--states N] [--vocab N ...] [--repeats N] [--threads N]`

Everything is asked for: top-1, log of the sum of exponentials, the true token's rank and
log-probability, KL to a reference (which is one more state of its token). The baseline is the
product of the same states, reference included, with the same head in float32, the fastest of three:
torch's `mm`, the vocabulary in chunks or whole, into a buffer that exists, and oneDNN's, with both
sides in its layout beforehand. What is allocated beside inputs and head is counted by torch's
profiler.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import GIGA, Ceiling, GemmShape, clock, interleaved, save
from benchmarks.models import DTYPES
from moe_lens.lens.decode import VOCAB_CHUNK, decode
from moe_lens.lens.unembed import OutputHead

D_MODEL = 2048
STATES_PER_TOKEN = 15
"""2 k + 3 for k = 6; the reference makes 16 rows of a token."""


def products(inputs: Tensor, weight: Tensor, out: Tensor, *, chunk: int) -> None:
    """Scores of all rows, the vocabulary in chunks, each written over the last."""
    for part in weight.split(chunk):
        torch.mm(inputs, part.T, out=out[: len(inputs) * len(part)].view(len(inputs), -1))


def onednn(inputs: Tensor, parts: list[Tensor]) -> None:
    """The same products, in oneDNN's own layout."""
    for part in parts:
        functional.linear(inputs, part)


def case(vocab: int, *, num_tokens: int, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """One vocabulary."""
    rng = torch.Generator().manual_seed(0)
    head = OutputHead((torch.randn(vocab, D_MODEL, generator=rng) * 0.02).to(dtype))
    inputs = torch.randn(num_tokens, STATES_PER_TOKEN, D_MODEL, generator=rng)
    reference = torch.randn(num_tokens, D_MODEL, generator=rng)
    targets = torch.randint(vocab, (num_tokens,), generator=rng)
    rows = torch.randn(num_tokens * (STATES_PER_TOKEN + 1), D_MODEL, generator=rng)
    wide, out = head.weight.float(), torch.empty(len(rows) * vocab)
    parts = [part.to_mkldnn() for part in wide.split(VOCAB_CHUNK)]
    everything = partial(decode, head, inputs, targets=targets, reference=reference)
    ceiling = Ceiling(torch.float32, shapes=[GemmShape(1024, D_MODEL, 2048)])
    seconds = interleaved(
        {
            "decode": everything,
            "products, chunked": partial(products, rows, wide, out, chunk=VOCAB_CHUNK),
            "products, whole": partial(products, rows, wide, out, chunk=vocab),
            "products, oneDNN": partial(onednn, rows.to_mkldnn(), parts),
            **ceiling.tasks,
        },
        repeats=repeats,
    )
    gemm = min(value for name, value in seconds.items() if name.startswith("products"))
    flops = 2 * len(rows) * D_MODEL * vocab
    return {
        "vocab": vocab,
        "rows": len(rows),
        "seconds": seconds,
        "ratio": seconds["decode"] / gemm,
        "largest_buffer_bytes": largest_buffer(everything),
        "products_gflops": flops / gemm / GIGA,
        "mm_gflops": flops / seconds["products, chunked"] / GIGA,
        "ceiling_gflops": ceiling.rate(seconds) / GIGA,
    }


def largest_buffer(task: Any) -> int:
    """The largest single allocation of a task."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        task()
    events = profiled.events() or []
    return max(int(e.self_cpu_memory_usage) for e in events if e.name.startswith("aten::"))


def main() -> None:
    """Run every vocabulary, print a table, write results/lens.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=int, default=2048, help="rows, references included")
    parser.add_argument("--vocab", type=int, nargs="+", default=[16_384, 50_304, 102_400])
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the head")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cases = []
    for vocab in arguments.vocab:
        found = case(
            vocab,
            num_tokens=max(1, arguments.states // (STATES_PER_TOKEN + 1)),
            dtype=DTYPES[arguments.dtype],
            repeats=arguments.repeats,
        )
        cases.append(found)
        print(
            f"vocabulary {vocab}: {found['seconds']['decode']:.2f} s, {found['ratio']:.3f} x its "
            f"products ({found['products_gflops']:.0f} GFLOP/s; torch's mm "
            f"{found['mm_gflops']:.0f}), largest buffer "
            f"{found['largest_buffer_bytes'] / 1e6:.1f} MB"
        )
    result = {
        "ratio": max(c["ratio"] for c in cases),
        "baseline": "the same states times the same head in float32, the fastest of three ways",
        "unit": f"{clock()} time of decode / baseline, worst vocabulary",
        "shapes": {"d_model": D_MODEL, "rows": cases[0]["rows"], "vocab": arguments.vocab},
        "cases": cases,
    }
    print(f"ratio {result['ratio']:.3f}; written to {save('lens', result)}")


if __name__ == "__main__":
    main()
