"""The resident engine on a CUDA device: one command, one table.

`python -m benchmarks.cuda [--tokens N] [--length N] [--repeats N] [--peak TFLOPS]`

The layer of `benchmarks.layer` in bfloat16 at 8,192 tokens a call: its share of the device's peak
(the data sheet's dense bfloat16 rate, by name or from `--peak`) and of the products measured beside
it; what capture costs; and the stock model with transformers' own grouped kernel. Targets: 0.35 of
the peak, capture at most 1.15 times the layer without.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.layer import CAPTURE, PLAIN, case
from benchmarks.measure import GIGA, interleaved, save
from benchmarks.models import CONFIGS, build, shapes_of, token_batch
from benchmarks.observe import stock
from moe_lens.corpus import TokenBatch
from moe_lens.models.model import MoEModel

PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "RTX 4090": 165,
}
"""Dense bfloat16 rates of data sheets; the first name that is part of the device's counts."""


def peak_of(name: str) -> float | None:
    """The data sheet's rate in FLOP/s, if the device is known."""
    found = [value for part, value in PEAK_TFLOPS.items() if part in name]
    return found[0] * 1e12 if found else None


def table(
    model: MoEModel, batch: TokenBatch, dtype: str, *, repeats: int, peak: float | None
) -> dict[str, Any]:
    """All figures of one model on its device."""
    found = case(model, batch, dtype, repeats=repeats)
    seconds = interleaved({"stock": lambda: stock(model, batch, "grouped_mm")}, repeats=repeats)
    flops = sum(found["gflop"].values()) * GIGA
    found["seconds"]["stock grouped_mm"] = seconds["stock"]
    found["share_of_peak"] = None if peak is None else flops / found["seconds"][PLAIN] / peak
    found["capture_over_plain"] = found["seconds"][CAPTURE] / found["seconds"][PLAIN]
    return found


def main() -> None:
    """Measure, print, write results/cuda.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--peak", type=float, help="dense bfloat16 TFLOP/s of the data sheet")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; benchmarks.layer measures the CPU")
    name = torch.cuda.get_device_name()
    peak = peak_of(name) if arguments.peak is None else arguments.peak * 1e12
    if peak is None:
        parser.error(f"the peak of {name!r} is not known here; give it as --peak TFLOPS")
    model = build(CONFIGS["deepseek"](), torch.bfloat16, num_layers=1, device="cuda")
    batch = token_batch(model, num_tokens=arguments.tokens, length=arguments.length)
    found = table(model, batch, "bfloat16", repeats=arguments.repeats, peak=peak)
    print(f"{name}: {found['share_of_peak']:.3f} of {peak / 1e12:.0f} TFLOP/s")
    print(f"  of measured products  {found['share_of_ceiling'][PLAIN]:.3f}")
    print(f"  capture / plain       {found['capture_over_plain']:.3f}")
    result = {
        "ratio": found["share_of_peak"],
        "baseline": f"{peak / 1e12:.0f} TFLOP/s, the data sheet's dense bfloat16 rate of {name}",
        "unit": "share of the peak, without capture, wall time",
        "shapes": shapes_of(model, batch),
        "cases": [found],
    }
    print(f"written to {save('cuda', result)}")


if __name__ == "__main__":
    main()
