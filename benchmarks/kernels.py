"""Ways of computing a layer's experts on the CPU, side by side; docs/log.md keeps what it found.

`python -m benchmarks.kernels [--tokens N] [--threads 1 2] [--dtype NAME] [--repeats N]`

The experts of one DeepSeekMoE layer of real shape, on random tokens and a router's choice: rates
count the experts' products. `one product` is a single expert's first product at 256 rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import GIGA, Ceiling, GemmShape, Task, interleaved, save
from benchmarks.models import CONFIGS, DTYPES, build
from moe_lens.engine import experts as registry
from moe_lens.engine import products, workers
from moe_lens.engine.experts import ExpertsTap
from moe_lens.engine.workspace import Workspace

PRODUCT = GemmShape(256, 2048, 2816)
NUM_PRODUCTS = 16


@contextmanager
def replaced(module: Any, name: str, value: object) -> Iterator[None]:
    """Within the block a module's setting has another value."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def stock(experts: Any, implementation: str, *call: Tensor) -> None:
    """Transformers' own."""
    with replaced(experts.config, "_experts_implementation", implementation), torch.no_grad():
        experts(*call)


def ours(experts: nn.Module, max_rows: int, min_flops: float, *call: Tensor) -> None:
    """Our jobs: on threads, or one after another with every product on all cores (OpenMP)."""
    with (
        replaced(products, "MAX_ROWS", max_rows),
        replaced(workers, "MIN_FLOPS", min_flops),
    ):
        registry.experts_forward(experts, *call)


def single_products(dtype: torch.dtype) -> dict[str, Task]:
    """One product, NUM_PRODUCTS weights in turn: what a call of torch's costs."""
    x = torch.randn(PRODUCT.rows, PRODUCT.inner).to(dtype)
    weights = [torch.randn(PRODUCT.outer, PRODUCT.inner).to(dtype) for _ in range(NUM_PRODUCTS)]
    out = x.new_empty(PRODUCT.rows, PRODUCT.outer)
    transposed = [w.T.contiguous() for w in weights]

    def each(call: Callable[[Tensor], object], operands: list[Tensor]) -> None:
        with torch.no_grad():
            for operand in operands:
                call(operand)

    tasks: dict[str, Task] = {
        "one product, linear": partial(each, lambda w: nn.functional.linear(x, w), weights),
        "one product, mm into a buffer": partial(
            each, lambda w: torch.mm(x, w.T, out=out), weights
        ),
        "one product, mm, weights transposed": partial(
            each, lambda w: torch.mm(x, w, out=out), transposed
        ),
    }
    if torch.backends.mkldnn.is_available():
        op = torch.ops.mkldnn
        packed = [op._reorder_linear_weight(w, PRODUCT.rows) for w in weights]
        tasks["one product, oneDNN, weights packed"] = partial(
            each, lambda w: op._linear_pointwise(x, w, None, "none", [], ""), packed
        )
    return tasks


def case(experts: nn.Module, num_tokens: int, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Every way, taking turns."""
    num_experts, hidden, width = experts.get_parameter("down_proj").shape
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(num_tokens, hidden, generator=rng).to(dtype)
    scores = torch.randn(num_tokens, num_experts, generator=rng) + torch.linspace(0, 1, num_experts)
    weights, ids = scores.softmax(-1).topk(6)
    call = (x, ids, weights)
    registry.attach(experts, ExpertsTap(Workspace()))
    tasks: dict[str, Task] = {
        "transformers, eager": partial(stock, experts, "eager", *call),
        "transformers, grouped_mm": partial(stock, experts, "grouped_mm", *call),
        "sorted rows, OpenMP": partial(ours, experts, 1 << 30, float("inf"), *call),
        **{
            f"jobs of {rows} rows on threads": partial(ours, experts, rows, 0, *call)
            for rows in (128, 256, 512)
        },
    }
    one, ceiling = single_products(dtype), Ceiling(dtype)
    seconds = interleaved(tasks | one | ceiling.tasks, repeats=repeats)
    registry.detach(experts)
    flops = dict.fromkeys(tasks, num_tokens * 6 * 3 * 2 * hidden * width)
    flops |= dict.fromkeys(one, NUM_PRODUCTS * PRODUCT.flops)
    return {
        "threads": torch.get_num_threads(),
        "gflops": {name: flops[name] / seconds[name] / GIGA for name in flops},
        "ceiling_gflops": ceiling.rate(seconds) / GIGA,
    }


def main() -> None:
    """Run, print a table, write results/kernels.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    dtype = DTYPES[arguments.dtype]
    model = build(CONFIGS["deepseek"](), dtype, num_layers=1)
    experts, cases = model.layers[0].modules.experts, []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        found = case(experts, arguments.tokens, dtype, arguments.repeats)
        cases.append(found)
        print(f"{threads} threads, ceiling {found['ceiling_gflops']:.0f} GFLOP/s")
        for name, rate in found["gflops"].items():
            print(f"  {name:36s} {rate:5.0f}  {rate / found['ceiling_gflops']:.2f}")
    last = cases[-1]
    used = last["gflops"][f"jobs of {products.MAX_ROWS} rows on threads"]
    result = {
        "ratio": used / last["ceiling_gflops"],
        "baseline": "the best of several plain matrix products in the same run, taking turns",
        "unit": "share of the ceiling of the way that is used, experts alone",
        "shapes": {"tokens": arguments.tokens, "dtype": arguments.dtype},
        "cases": cases,
    }
    print(f"ratio {result['ratio']:.3f}; written to {save('kernels', result)}")


if __name__ == "__main__":
    main()
