"""Interleaved medians, the machine's own ceiling, and the one form in which results are kept."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

RESULTS = Path(__file__).parent / "results"
GIGA = 1e9

Task = Callable[[], object]


class GemmShape(NamedTuple):
    """A matrix product x @ w.T: x of rows x inner, w of outer x inner."""

    rows: int
    inner: int
    outer: int

    @property
    def flops(self) -> int:
        """Floating-point operations of one product."""
        return 2 * self.rows * self.inner * self.outer


CEILING_SHAPES = (
    GemmShape(256, 1408, 2048),
    GemmShape(384, 2048, 2816),
    GemmShape(1024, 2048, 2816),
    GemmShape(2048, 2048, 2048),
    GemmShape(4096, 2048, 5632),
)
"""Where processors reach their best rate with this project's widths; the fastest counts."""


def interleaved(tasks: Mapping[str, Task], *, repeats: int) -> dict[str, float]:
    """Median seconds of each task, the tasks taking turns after one warm-up each.

    Turns cancel what drifts: the clock rate, and a neighbour that comes and goes. With one thread
    it is the process's own time that counts, which a neighbour does not lengthen by taking turns
    on the core; with more, or on CUDA, wall time.
    """
    now = time.process_time if clock() == "process" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    for _ in range(repeats):
        for name, task in tasks.items():
            _wait()
            started = now()
            task()
            _wait()
            times[name].append(now() - started)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clock() -> str:
    """Which time is measured: "process" or "wall"."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return "process" if alone else "wall"


class Ceiling:
    """The machine's matrix multiplication rate: tasks that take turns with what is measured.

    Every product of a task has a weight of its own, as layers do, so that weights come from
    memory and not from a cache.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        *,
        device: str = "cpu",
        shapes: Sequence[GemmShape] | None = None,
        num_products: int = 4,
    ) -> None:
        self._flops: dict[str, int] = {}
        self.tasks: dict[str, Task] = {}
        for shape in CEILING_SHAPES if shapes is None else shapes:
            x = torch.randn(shape.rows, shape.inner, device=device).to(dtype)
            weights = [
                torch.randn(shape.outer, shape.inner, device=device).to(dtype)
                for _ in range(num_products)
            ]
            name = f"gemm {shape.rows} x {shape.inner} x {shape.outer}"
            self._flops[name] = shape.flops * num_products
            self.tasks[name] = _products(x, weights)

    def rates(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """FLOP/s at each shape."""
        return {name: flops / seconds[name] for name, flops in self._flops.items()}

    def rate(self, seconds: Mapping[str, float]) -> float:
        """FLOP/s at the best shape: the ceiling."""
        return max(self.rates(seconds).values())


def _products(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> Task:
    def task() -> None:
        for weight in weights:
            torch.nn.functional.linear(x, weight)

    return task


def machine() -> str:
    """The processor and library versions, in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        model = f"{names[0]} x {len(names)}" if names else model
        features = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
        flags = next((line.split() for line in lines if line.startswith("flags")), [])
        model += f" ({' '.join(f for f in features if f in flags)})"
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}{device}; torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"


def save(name: str, result: Mapping[str, Any]) -> Path:
    """Write `results/NAME.json`; what a result says of itself goes before what is filled in."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    common = {
        "name": name,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "command": f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip(),
    }
    path.write_text(json.dumps(common | dict(result), indent=1) + "\n", encoding="utf-8")
    return path
