"""What observation costs: our experts function and all routing statistics, against stock.

`python -m benchmarks.observe [--tokens N] [--repeats N] [--threads N] [--only NAME]`

Two decoder layers of real width with random weights; the stock model runs with each of
transformers' own experts implementations, and ours with no statistics, with all routing
statistics, and with the Gram of every rank besides. `--tokens` is divided by 4 where the
processor has no instructions for the dtype, which makes stock seven times slower.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedConfig

from benchmarks.measure import GIGA, Ceiling, Task, clock, interleaved, save
from benchmarks.models import (
    CONFIGS,
    DTYPES,
    build,
    observation,
    shapes_of,
    statistics_of,
    token_batch,
)
from moe_lens.corpus import TokenBatch
from moe_lens.engine.layers import last_hidden
from moe_lens.engine.products import slow_dtype
from moe_lens.event import Field
from moe_lens.models.model import MoEModel

STOCK = ("eager", "grouped_mm")
NOTHING, ROUTING, EVERYTHING = (
    "ours, nothing asked",
    "ours, routing statistics",
    "ours, statistics and Gram",
)
NUM_LAYERS, LENGTH = 2, 512


def stock(model: MoEModel, batch: TokenBatch, implementation: str) -> None:
    """One pass of the untouched model."""
    model.hf.set_experts_implementation(implementation)
    last_hidden(model, batch)


def case(config: PreTrainedConfig, dtype: str, *, num_tokens: int, repeats: int) -> dict[str, Any]:
    """All ways of running one model, taking turns."""
    model = build(config, DTYPES[dtype], num_layers=NUM_LAYERS)
    batch = token_batch(model, num_tokens=num_tokens, length=LENGTH)
    accumulators = statistics_of(model)
    ceiling = Ceiling(DTYPES[dtype])
    tasks: dict[str, Task] = {
        **{f"stock {name}": partial(stock, model, batch, name) for name in STOCK},
        NOTHING: observation(model, batch, []),
        ROUTING: observation(model, batch, accumulators),
        EVERYTHING: observation(model, batch, accumulators, Field.GRAM),
    }
    seconds = interleaved(tasks | ceiling.tasks, repeats=repeats)
    base = seconds["stock eager"]
    return {
        "family": config.model_type,
        "dtype": dtype,
        "shapes": shapes_of(model, batch),
        "seconds": {name: seconds[name] for name in tasks},
        "ratio": {name: seconds[name] / base for name in tasks},
        "ceiling_gflops": ceiling.rate(seconds) / GIGA,
    }


def main() -> None:
    """Run every case, print a table, write results/observe.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a case's name: deepseek, float32 ...")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cases = []
    for family in CONFIGS:
        for dtype in DTYPES:
            if arguments.only not in f"{family} {dtype}":
                continue
            slow = slow_dtype(torch.empty(0, dtype=DTYPES[dtype]))
            num_tokens = max(arguments.tokens // (4 if slow else 1), LENGTH)
            found = case(CONFIGS[family](), dtype, num_tokens=num_tokens, repeats=arguments.repeats)
            cases.append(found)
            print(f"{family} {dtype}, {found['shapes']}")
            for name, value in found["seconds"].items():
                print(f"  {name:28s} {value:8.3f} s   {found['ratio'][name]:.3f} x stock eager")
    worst = max(c["ratio"][EVERYTHING] for c in cases)
    result = {
        "ratio": worst,
        "baseline": "stock transformers, eager experts, same model, batch and process",
        "unit": f"{clock()} time of ours with all statistics and the Gram / baseline, worst case",
        "shapes": [c["shapes"] for c in cases],
        "cases": cases,
    }
    print(f"worst ratio {worst:.3f}; written to {save('observe', result)}")


if __name__ == "__main__":
    main()
