"""What streaming costs: layers of real shape from a cold disk, against what is resident.

`python -m benchmarks.stream [--layers N] [--tokens N] [--directory DIR]`

A checkpoint of DeepSeekMoE's real widths is written (benchmarks/synthetic.py) and read with the
files dropped from the page cache: a streamed sweep with routing statistics and the Gram; and in a
process of their own the resident stock model without any and, where accelerate is installed, its
disk offload, from a cold disk too, at as many tokens a pass and with one sequence at a time. The
ratio is the share of the machine's matrix multiplication rate, attention's own products left out.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.measure import Ceiling, Task, clock, interleaved, save
from benchmarks.synthetic import CONFIG, write_checkpoint
from moe_lens.corpus import TokenBatch
from moe_lens.engine.major import LayerMajor
from moe_lens.engine.streams import Stream
from moe_lens.event import LayerEvent, fields_of
from moe_lens.loading import load_model
from moe_lens.models import deepseek
from moe_lens.models.model import MoEModel
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.coactivation import Coactivation
from moe_lens.stats.documents import DocumentUsage
from moe_lens.stats.similarity import Similarity

_SEQUENCE = 1024
_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
STREAMED = "streamed, cold, with capture"
RESIDENT = "resident stock, no capture"
OFFLOADED = "accelerate, as many tokens"
OFFLOADED_ONE = "accelerate, one sequence"
_AGAINST_ACCELERATE = ("over_accelerate", "over_accelerate_batch_of_one")


def token_batches(num_tokens: int, *, rows: int, length: int = _SEQUENCE) -> list[TokenBatch]:
    """Rows of random tokens, so many to a batch."""
    generator = torch.Generator().manual_seed(1)
    vocab_size = int(str(CONFIG["vocab_size"]))
    found = []
    for start in range(0, num_tokens // length, rows):
        shape = (rows, length)
        real = torch.ones(shape, dtype=torch.bool)
        document = torch.arange(start, start + rows).unsqueeze(1).expand(shape).contiguous()
        found.append(
            TokenBatch(
                input_ids=torch.randint(vocab_size, shape, generator=generator),
                attention_mask=real,
                counted=real,
                document=document,
                position=torch.arange(length).expand(shape).contiguous(),
            )
        )
    return found


def flops_per_token(num_layers: int) -> int:
    """Of the decoder layers' matrix products with weights, the first layer being dense."""
    hidden, width = int(str(CONFIG["hidden_size"])), int(str(CONFIG["moe_intermediate_size"]))
    attention = 4 * hidden * hidden
    dense = 3 * hidden * int(str(CONFIG["intermediate_size"]))
    moe = (6 + 2) * 3 * hidden * width + 64 * hidden
    return 2 * (num_layers * attention + dense + (num_layers - 1) * moe)


def drop_cache(directory: Path) -> None:
    """Let the kernel forget the files' pages, so that they come from the disk."""
    for file in (*directory.glob("*.safetensors"), *directory.glob("*.dat")):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def statistics_of(model: MoEModel) -> list[Accumulator]:
    """Routing and similarity: everything that a study's full pass adds up but the lens."""
    scales = {layer.modules.index: 1.0 for layer in model.layers}
    return [DocumentUsage(), Coactivation(), Similarity(scales, torch.zeros(10_000).long())]


class Streamed:
    """Sweeps of the streamed model, and how long they waited for layers."""

    def __init__(self, directory: Path, batches: Sequence[TokenBatch]) -> None:
        self.model = load_model(directory, device="cpu", engine="streaming")
        self._directory, self._batches = directory, batches
        self.waited: list[float] = []

    def sweep(self) -> None:
        """One sweep from a cold disk, with capture."""
        accumulators = statistics_of(self.model)

        def feed(event: LayerEvent) -> None:
            for accumulator in accumulators:
                accumulator.update(event)

        drop_cache(self._directory)
        fields = fields_of(accumulator.needs for accumulator in accumulators)
        major = LayerMajor(self.model, self._batches, [Stream(sink=feed, fields=fields)])
        for _ in major.run():
            pass
        self.waited.append(major.waited_s)


class Baselines:
    """Stock models in a process of their own, which has none of this package's settings of memory.

    (`import moe_lens` asks for huge pages, a session keeps freed memory: both would speed up what
    is compared with.)
    """

    def __init__(self, directory: Path, folder: Path, num_tokens: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, directory, folder, num_tokens, torch.get_num_threads())
        before, os.environ[_HUGE_PAGES] = os.environ[_HUGE_PAGES], "0"
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        os.environ[_HUGE_PAGES] = before
        theirs.close()
        names: list[str] = self._connection.recv()
        self.tasks: dict[str, Task] = {name: partial(self._run, name) for name in names}

    def _run(self, name: str) -> None:
        self._connection.send(name)
        self._connection.recv()

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()


def _serve(
    connection: Connection, directory: Path, folder: Path, num_tokens: int, num_threads: int
) -> None:
    """Say which tasks there are, then run those that are asked for until the other end closes."""
    torch.set_num_threads(num_threads)
    deepseek.register()
    batches, single = token_batches(num_tokens, rows=4), token_batches(_SEQUENCE, rows=1)
    whole = token_batches(num_tokens, rows=num_tokens // _SEQUENCE)
    stock = _open(directory)
    tasks: dict[str, Task] = {RESIDENT: partial(run_stock, stock, batches)}
    if find_spec("accelerate") is not None:
        hf, places = offloaded(directory, folder / "offload"), [directory, folder / "offload"]
        tasks[OFFLOADED] = partial(run_stock, hf, whole, places)
        tasks[OFFLOADED_ONE] = partial(run_stock, hf, single, places)
    connection.send(list(tasks))
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        tasks[name]()
        connection.send(None)


def _open(directory: Path, **options: Any) -> Any:
    loading = {"dtype": torch.bfloat16, "experts_implementation": "eager", **options}
    return AutoModelForCausalLM.from_pretrained(directory, **loading).eval()


def offloaded(directory: Path, folder: Path) -> Any:
    """Transformers' own disk offload through accelerate: every decoder layer on the disk."""
    num_layers = len(list(directory.glob("*.safetensors"))) - 1
    places: dict[str, str] = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {"model.rotary_emb": "cpu"}
    places |= {f"model.layers.{index}": "disk" for index in range(num_layers)}
    return _open(directory, device_map=places, offload_folder=folder)


@torch.no_grad()
def run_stock(hf: Any, batches: Sequence[TokenBatch], cold: Sequence[Path] = ()) -> None:
    """One pass for each batch, what lies in the folders dropped from the page cache before each.

    A model that is larger than memory has its files in no cache when the next batch comes.
    """
    for batch in batches:
        for place in cold:
            drop_cache(place)
        hf.model(input_ids=batch.input_ids, use_cache=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--directory", type=Path, help="a synthetic checkpoint that is there")
    arguments = parser.parse_args()
    if arguments.threads < 2:
        raise SystemExit(
            "--threads: at least 2, since processes that take turns are timed by the wall"
        )
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="moe-lens-") as folder:
        directory = arguments.directory
        if directory is None:
            directory = write_checkpoint(Path(folder) / "model", num_layers=arguments.layers)
        measure(directory, Path(folder), arguments)


def measure(directory: Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Everything in turns, one warm-up each, and the result."""
    streamed = Streamed(directory, token_batches(arguments.tokens, rows=4))
    baselines = Baselines(directory, folder, arguments.tokens)
    ceiling = Ceiling(torch.bfloat16)
    tasks: dict[str, Task] = {**ceiling.tasks, STREAMED: streamed.sweep, **baselines.tasks}
    started = time.perf_counter()
    seconds = interleaved(tasks, repeats=arguments.repeats)
    baselines.close()
    flops = flops_per_token(arguments.layers) * arguments.tokens
    ours = seconds[STREAMED]
    result = {
        "ratio": flops / ours / ceiling.rate(seconds),
        "baseline": "the fastest of the matrix products in this run",
        "unit": f"share of the GEMM ceiling, {clock()} time, weights' products only",
        "shapes": {"layers": arguments.layers, "tokens": arguments.tokens, "sequence": _SEQUENCE},
        "seconds": seconds,
        "gemm_ceiling_gflops": ceiling.rate(seconds) / 1e9,
        "over_resident": seconds[RESIDENT] / ours,
        "exposed_wait": streamed.waited[-1] / ours,
        "bytes_read": sum(file.stat().st_size for file in directory.glob("*.safetensors")),
    }
    if OFFLOADED_ONE in seconds:
        one = seconds[OFFLOADED_ONE] * arguments.tokens / _SEQUENCE
        result["over_accelerate"] = seconds[OFFLOADED] / ours
        result["over_accelerate_batch_of_one"] = one / ours
    for name in ("ratio", "over_resident", "exposed_wait", *_AGAINST_ACCELERATE):
        print(f"{name:30s} {result.get(name)}")
    print(f"{time.perf_counter() - started:.0f} s; written to {save('stream', result)}")


if __name__ == "__main__":
    main()
