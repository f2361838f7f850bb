"""The ratios that docs/performance.md claims, on small shapes: one thread, its own time.

Never wall time, and 15 % of tolerance: what is caught is a step that got slow, not a slow machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.measure import GemmShape
from benchmarks.models import build, deepseek_layer, token_batch

from benchmarks import cuda, layer, lens, measure, numerics, observe

TOLERANCE = 1.15
HIDDEN, EXPERTS, WIDTH, TOKENS = 1024, 16, 352, 1024


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert measure.clock() == "process" or torch.cuda.is_available()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_observing_takes_no_longer_than_the_stock_model() -> None:
    config = deepseek_layer(HIDDEN, experts=EXPERTS, width=WIDTH)
    found = observe.case(config, "float32", num_tokens=TOKENS, repeats=3)
    assert found["ratio"][observe.EVERYTHING] <= 1.05 * TOLERANCE, found


@pytest.mark.slow
def test_a_captured_layer_computes_at_the_rate_of_plain_products() -> None:
    config = deepseek_layer(HIDDEN, experts=EXPERTS, width=WIDTH)
    model = build(config, torch.float32, num_layers=1)
    batch = token_batch(model, num_tokens=TOKENS, length=256)
    found = layer.case(model, batch, "float32", repeats=3)
    assert found["share_of_ceiling"][layer.CAPTURE] >= 0.80 / TOLERANCE, found


@pytest.mark.slow
def test_decoding_takes_little_more_than_its_products() -> None:
    found = lens.case(8_192, num_tokens=128, dtype=torch.float32, repeats=5)
    assert found["ratio"] <= 1.25 * TOLERANCE, found


def test_sixteen_bits_leave_the_cosines_where_they_are() -> None:
    config = deepseek_layer(256, experts=8, width=128)
    model = build(config, torch.bfloat16, num_layers=1)
    found = numerics.differences(model, token_batch(model, num_tokens=512, length=128))
    assert found["sums"] <= numerics.ALLOWED
    assert found["worst token, cos(H_1, H_k)"] > numerics.ALLOWED  # bfloat16 was really used


def test_the_cuda_table_holds_together_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure of it means anything here; that the command would run does."""
    monkeypatch.setattr(measure, "CEILING_SHAPES", (GemmShape(64, 64, 64),))
    model = build(deepseek_layer(256, experts=8, width=64), torch.float32, num_layers=1)
    batch = token_batch(model, num_tokens=64, length=32)
    found = cuda.table(model, batch, "float32", repeats=1, peak=1e12)
    flops = sum(found["gflop"].values()) * 1e9
    assert found["share_of_peak"] == pytest.approx(flops / found["seconds"]["layer"] / 1e12)
    by_hand = 64 * 4 * 2 * 256**2 + 64 * 33 // 2 * 4 * 256 + 64 * 2 * 256 * 8
    by_hand += 64 * 6 * 3 * 2 * 256 * 64 + 64 * 3 * 2 * 256 * 128
    assert flops == by_hand


def test_a_devices_peak_is_found_by_name() -> None:
    assert cuda.peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert cuda.peak_of("NVIDIA L4") == 121e12
    assert cuda.peak_of("NVIDIA L40S") == 362e12
    assert cuda.peak_of("Radeon") is None


def test_the_cuda_command_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["cuda"])
    with pytest.raises(SystemExit) as left:
        cuda.main()
    assert left.value.code == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err


def test_a_ceiling_is_the_best_rate_of_its_shapes() -> None:
    shapes = [GemmShape(8, 4, 2), GemmShape(8, 4, 16)]
    ceiling = measure.Ceiling(torch.float32, shapes=shapes, num_products=2)
    assert len(ceiling.tasks) == 2
    seconds = dict(zip(ceiling.tasks, (1e-6, 2e-6), strict=True))
    assert ceiling.rate(seconds) == pytest.approx(2 * 2 * 8 * 4 * 16 / 2e-6)
    assert min(ceiling.rates(seconds).values()) == pytest.approx(2 * 2 * 8 * 4 * 2 / 1e-6)


def test_tasks_take_turns_and_the_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = iter(range(1000)), list[str]()
    monkeypatch.setattr(measure.time, "process_time", partial(next, clock))
    monkeypatch.setattr(measure.time, "perf_counter", partial(next, clock))

    def slow() -> None:
        order.append("slow")
        for _ in range(order.count("slow")):
            next(clock)

    found = measure.interleaved({"quick": lambda: order.append("quick"), "slow": slow}, repeats=3)
    assert order == ["quick", "slow"] * 4
    assert found == {"quick": 1, "slow": 4}  # slow took 3, 4 and 5 after its warm-up


def test_a_result_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("sys.argv", ["x", "--threads", "2"])
    path = measure.save("lens", {"ratio": 1.5, "baseline": "b", "unit": "u", "shapes": {"d": 1}})
    written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    wanted = {"name", "ratio", "baseline", "unit", "shapes", "threads", "machine", "command"}
    assert wanted <= set(written)
    assert written["command"] == "python -m benchmarks.lens --threads 2"
