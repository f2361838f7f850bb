"""Interleaved medians, and the one form in which results are kept."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(tasks: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, float]:
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
            started = now()
            task()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(now() - started)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def clock() -> str:
    """Which time is measured: "process" or "wall"."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return "process" if alone else "wall"


def gemm_rate(dtype: torch.dtype, *, rows: int, inner: int, outer: int) -> float:
    """This process's matrix multiplication rate at one shape, in FLOP/s: the ceiling."""
    left, right = torch.randn(rows, inner).to(dtype), torch.randn(outer, inner).to(dtype)
    seconds = interleaved({"gemm": lambda: torch.nn.functional.linear(left, right)}, repeats=15)
    return 2 * rows * inner * outer / seconds["gemm"]


def machine() -> str:
    """The processor and library versions, in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        model = f"{names[0]} x {len(names)}" if names else model
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}{device}; torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"


def save(name: str, result: Mapping[str, Any]) -> Path:
    """Write `results/NAME.json`."""
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
