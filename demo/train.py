"""Train the demo model: `python -m demo.train --hours 2` on build/corpora.

Run it again and it goes on where it stood. The learning rate is constant after a short
warm-up and then falls to zero over the last 40 % of the steps: with --steps the length is
known at once, with --hours it is fixed when 60 % of the time is spent; creating the file
OUT/anneal starts the fall at once, a number in OUT/finish ends it after so many steps. To
train longer later, copy before-decay.safetensors over state.safetensors and give more hours.
`python -m demo.evaluate` then writes the artefact.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from demo.model.data import SHARES, data_hashes, packed_rows, step_rows, to_batch
from demo.model.kernels import keep_freed_memory
from demo.model.measure import (
    measure_rows,
    routing_snapshot,
    specialisation,
    token_bytes,
)
from demo.model.network import Optimizers, new_model
from demo.model.state import Log, Progress, load_state, read_tensors, save_snapshot, save_state
from demo.model.step import StepResult, Workers
from demo.tokenizer import CONTEXT

DECAY_SHARE = 0.4
MEASURE_EVERY = 200
SAVE_EVERY = 25
SNAPSHOT_STEPS = (0, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120)
HELD_OUT_ROWS = 8

log = logging.getLogger("demo.train")


class Run:
    """One training run: its model, its data, its place on disk."""

    def __init__(
        self, data: Path, out: Path, *, device: torch.device, seed: int, dtype: torch.dtype
    ) -> None:
        self.out, self.seed = out, seed
        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(out / "tokenizer")
        cache = out / "tokens"
        self.train = packed_rows(data, self.tokenizer, cache, split="train", seed=seed)
        self.held_out = packed_rows(data, self.tokenizer, cache, split="heldout", seed=seed)
        self.num_bytes = token_bytes(self.tokenizer)
        torch.manual_seed(seed)
        self.model = new_model(self.tokenizer, device)
        self.optimizers = Optimizers.of(self.model, dtype=dtype)
        self.progress = Progress()
        if (out / "state.safetensors").exists():
            self.progress = load_state(out / "state.safetensors", self.model, self.optimizers)
            log.info("going on from step %d", self.progress.step)
        self.log = Log(out / "log.jsonl", up_to_step=self.progress.step)

    def step(self, workers: Workers) -> StepResult:
        """One optimiser step."""
        started = time.perf_counter()
        rows = step_rows(self.train, self.progress.step, seed=self.seed)
        result = workers.gradients(rows, self.tokenizer.bos_token_id)
        self.optimizers.step(self.progress.rate())
        self.progress.step += 1
        self.progress.seconds += time.perf_counter() - started
        return result

    def plan(self, hours: float | None) -> None:
        """Fix where the learning rate starts to fall, once it is time for that."""
        progress, flag = self.progress, self.out / "anneal"
        if progress.total_steps is not None:
            self._finish_sooner()
            return
        budget = hours is not None and progress.seconds >= hours * 3600 * (1 - DECAY_SHARE)
        if progress.step and (budget or flag.exists()):
            self.save("before-decay.safetensors")
            progress.decay_start = progress.step
            progress.total_steps = round(progress.step / (1 - DECAY_SHARE))
            log.info("the rate falls from step %d to %d", progress.step, progress.total_steps)

    def _finish_sooner(self) -> None:
        """Make the fall steeper, once, if the file OUT/finish says how many steps are left."""
        order = self.out / "finish"
        if order.exists():
            self.progress.total_steps = self.progress.step + int(order.read_text())
            order.unlink()
            self.save()
            log.info("the rate falls steeper, to step %d", self.progress.total_steps)

    def save(self, name: str = "state.safetensors") -> None:
        """Write the run's state."""
        save_state(self.out / name, self.model, self.optimizers, self.progress)

    def measure(self) -> None:
        """Log held-out loss per domain, load and specialisation."""
        self.model.eval()
        domains = {
            domain: measure_rows(
                self.model,
                rows[:HELD_OUT_ROWS],
                bos=self.tokenizer.bos_token_id,
                num_bytes=self.num_bytes,
            )
            for domain, rows in self.held_out.items()
        }
        self.model.train()
        bits = {domain: d.bits_per_byte for domain, d in domains.items()}
        self.log.write(
            step=self.progress.step,
            seconds=round(self.progress.seconds, 1),
            held_out_bits_per_byte=bits,
            **specialisation(domains),
        )
        log.info("held out %s", {domain: round(value, 3) for domain, value in bits.items()})

    def snapshot(self) -> None:
        """Keep the routing of a fixed sample of held-out text, 288 tokens a domain."""
        rows = np.stack([self.held_out[domain][0][:289] for domain in SHARES])
        batch = to_batch(rows, self.tokenizer.bos_token_id)
        path = self.out / "routing_snapshots.safetensors"
        tensors = read_tensors(path)
        tensors["tokens"] = batch.inputs.to(torch.int32)
        tensors[f"step_{self.progress.step:05d}"] = routing_snapshot(self.model, batch)
        save_snapshot(path, tensors)


def write_manifest(arguments: argparse.Namespace) -> None:
    """Say what the run is made of, before it starts.

    Raises:
        ValueError: The run began with other data.
    """
    path, hashes = arguments.out / "manifest.json", data_hashes(arguments.data)
    if path.exists():
        if json.loads(path.read_text())["data_sha256"] != hashes:
            raise ValueError(
                f"{arguments.data} is not the data that {arguments.out} was begun with (see "
                f"{path}). Bring that data back, or choose another --out."
            )
        return
    manifest = {
        "command": "python -m demo.train " + " ".join(sys.argv[1:]),
        "data_sha256": hashes,
        "seed": arguments.seed,
        "device": arguments.device,
        "workers": arguments.workers,
        "precision": arguments.precision,
        "rows_per_step": dict(SHARES),
        "tokens_per_row": CONTEXT,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    path.write_text(json.dumps(manifest, indent=2) + "\n")


def train(arguments: argparse.Namespace) -> None:
    """Take steps until the plan is done."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_manifest(arguments)
    device = torch.device(arguments.device)
    dtype = getattr(torch, arguments.precision)
    run = Run(arguments.data, arguments.out, device=device, seed=arguments.seed, dtype=dtype)
    if arguments.steps is not None and run.progress.total_steps is None:
        run.progress.decay_start = round(arguments.steps * (1 - DECAY_SHARE))
        run.progress.total_steps = arguments.steps
    with Workers(run.model, arguments.workers, dtype) as workers:
        take_steps(run, workers, arguments.hours)
    run.measure()
    run.snapshot()
    run.save()


def take_steps(run: Run, workers: Workers, hours: float | None) -> None:
    """Train until the plan is done; measure and save on the way."""
    tokens = sum(SHARES.values()) * CONTEXT
    while not run.progress.done():
        step = run.progress.step
        if step in SNAPSHOT_STEPS:
            run.snapshot()
        if step % MEASURE_EVERY == 0:
            run.measure()
        run.plan(hours)
        before = run.progress.seconds
        result = run.step(workers)
        if run.progress.step % 10 == 0:
            speed = tokens / (run.progress.seconds - before)
            run.log.write(**asdict(run.progress), **asdict(result), tokens_per_second=speed)
            log.info(
                "step %d loss %.3f balance %.2f, %.0f tokens/s",
                run.progress.step,
                result.loss,
                result.balance,
                speed,
            )
        if run.progress.step % SAVE_EVERY == 0:
            run.save()


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("build/corpora"))
    parser.add_argument("--out", type=Path, default=Path("build/demo-model"))
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--hours", type=float, help="training time, measurements left out")
    length.add_argument("--steps", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the first process")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="bfloat16" if torch.cuda.is_available() else "float32",
        help="of matrix products; bfloat16 pays on a GPU or with avx512_bf16",
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    train(arguments)


if __name__ == "__main__":
    main()
