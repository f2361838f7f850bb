"""One observed DeepSeekMoE layer against the machine's matrix multiplication rate.

`python -m benchmarks.layer [--tokens N] [--length N] [--repeats N] [--threads 1 2] [--profile]`

A decoder layer of real shape (hidden 2,048, 16 heads, 64 experts of 1,408, top 6, two shared,
fused) with random weights, run by the resident engine in bfloat16. What is timed is a whole
`Session.run` over rows of `--length` tokens: embedding, both norms, attention with its rotary
embedding and projections, the float32 router, routed and shared experts, residual sums, the last
norm; and with "capture" the Gram of all ranks and every routing statistic. What is counted as
work are the matrix products alone (attention: the causal half); so everything else is loss.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import GIGA, Ceiling, clock, interleaved, save
from benchmarks.models import (
    CONFIGS,
    DTYPES,
    build,
    layer_flops,
    observation,
    shapes_of,
    statistics_of,
    token_batch,
)
from moe_lens.corpus import TokenBatch
from moe_lens.event import Field
from moe_lens.models.model import MoEModel

PLAIN, CAPTURE = "layer", "layer, capture"


def case(model: MoEModel, batch: TokenBatch, dtype: str, *, repeats: int) -> dict[str, Any]:
    """The layer with and without capture, taking turns with plain matrix products."""
    ceiling = Ceiling(DTYPES[dtype], device=model.device.type)
    statistics = statistics_of(model)
    tasks = {
        PLAIN: observation(model, batch, []),
        CAPTURE: observation(model, batch, statistics, Field.GRAM),
        **ceiling.tasks,
    }
    seconds = interleaved(tasks, repeats=repeats)
    parts = layer_flops(model, batch)
    rate = ceiling.rate(seconds)
    share = {name: sum(parts.values()) / seconds[name] / rate for name in (PLAIN, CAPTURE)}
    return {
        "threads": torch.get_num_threads(),
        "clock": clock(),
        "dtype": dtype,
        "seconds": {name: seconds[name] for name in share},
        "share_of_ceiling": share,
        "ceiling_gflops": rate / GIGA,
        "gemm_gflops": {name: value / GIGA for name, value in ceiling.rates(seconds).items()},
        "gflop": {name: value / GIGA for name, value in parts.items()},
    }


def show_profile(model: MoEModel, batch: TokenBatch) -> None:
    """Where the time of a captured layer goes, by operator (one thread sees all of it)."""
    statistics = statistics_of(model)
    task = observation(model, batch, statistics, Field.GRAM)
    task()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        task()
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


def main() -> None:
    """Run every number of threads, print a table, write results/layer.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--length", type=int, default=512, help="tokens of each sequence")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    model = build(CONFIGS["deepseek"](), DTYPES[arguments.dtype], num_layers=1)
    batch = token_batch(model, num_tokens=arguments.tokens, length=arguments.length)
    cases = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        if arguments.profile:
            show_profile(model, batch)
            continue
        found = case(model, batch, arguments.dtype, repeats=arguments.repeats)
        cases.append(found)
        print(f"{threads} threads, ceiling {found['ceiling_gflops']:.0f} GFLOP/s")
        for name, share in found["share_of_ceiling"].items():
            print(f"  {name:16s} {found['seconds'][name]:.3f} s   {share:.3f} of the ceiling")
    if not cases:
        return
    last = cases[-1]
    result = {
        "ratio": last["share_of_ceiling"][CAPTURE],
        "baseline": "the best of several plain matrix products in the same run, taking turns",
        "unit": f"share of the ceiling, capture included, {last['clock']} time",
        "shapes": shapes_of(model, batch),
        "cases": cases,
    }
    print(f"ratio {result['ratio']:.3f}; written to {save('layer', result)}")


if __name__ == "__main__":
    main()
