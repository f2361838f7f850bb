"""Train the demo model: `python -m demo.train --hours 2` on build/corpora.

Run it again and it goes on where it stood. The learning rate is constant after a short
warm-up and then falls to zero over the last 40 % of the steps: with --steps the length is
known at once, with --hours it is fixed when 60 % of the time is spent; creating the file
OUT/anneal starts the fall at once. To train longer later, copy before-decay.safetensors over
state.safetensors and give more hours. `python -m demo.evaluate` then writes the artefact.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from demo.model.data import SHARES, Batch, data_hashes, packed_rows, step_rows, to_batch
from demo.model.kernels import HeadLoss
from demo.model.measure import (
    measure_rows,
    record_routing,
    routing_snapshot,
    specialisation,
    token_bytes,
)
from demo.model.network import Optimizers, new_model
from demo.model.state import Log, Progress, load_state, read_tensors, save_snapshot, save_state
from demo.tokenizer import CONTEXT
from moe_lens.models.deepseek import DeepseekForCausalLM, balance_loss

DECAY_SHARE = 0.4
MICRO_ROWS = 8
MEASURE_EVERY = 100
SAVE_EVERY = 25
SNAPSHOT_STEPS = (0, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120)
HELD_OUT_ROWS = 8

log = logging.getLogger("demo.train")


@dataclass(frozen=True)
class StepResult:
    """Mean cross-entropy (nats per token, special tokens included) and balance loss."""

    loss: float
    balance: float


def gradients(model: DeepseekForCausalLM, batch: Batch) -> StepResult:
    """Add the gradients of one batch, taken in parts of MICRO_ROWS rows."""
    config = model.config
    parts = batch.inputs.shape[0] // MICRO_ROWS
    assert parts * MICRO_ROWS == batch.inputs.shape[0]
    loss = balance = 0.0
    autocast = torch.autocast("cuda", torch.bfloat16, enabled=model.device.type == "cuda")
    for part in range(parts):
        rows = slice(part, None, parts)
        inputs, targets, positions = (
            x[rows].to(model.device) for x in (batch.inputs, batch.targets, batch.positions)
        )
        with record_routing(model) as routing, autocast:
            hidden = model.model(inputs, position_ids=positions, use_cache=False)[0].flatten(0, 1)
        cross_entropy = head_loss(model, hidden, targets.flatten())
        auxiliary = torch.stack(
            [
                balance_loss(logits, experts, alpha=config.aux_loss_alpha)
                for logits, experts in zip(routing.logits, routing.experts, strict=True)
            ]
        ).sum()
        ((cross_entropy + auxiliary) / parts).backward()
        loss += cross_entropy.item() / parts
        balance += auxiliary.item() / parts / config.aux_loss_alpha / len(routing.logits)
    return StepResult(loss, balance)


def head_loss(model: DeepseekForCausalLM, hidden: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the head's logits, by the kernel fit for the device."""
    if model.device.type == "cpu":
        loss: Tensor = HeadLoss.apply(hidden, model.lm_head.weight, targets)
        return loss
    return functional.cross_entropy(model.lm_head(hidden.float()), targets)


class Run:
    """One training run: its model, its data, its place on disk."""

    def __init__(self, data: Path, out: Path, *, device: torch.device, seed: int) -> None:
        self.out, self.seed = out, seed
        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(out / "tokenizer")
        cache = out / "tokens"
        self.train = packed_rows(data, self.tokenizer, cache, split="train", seed=seed)
        self.held_out = packed_rows(data, self.tokenizer, cache, split="heldout", seed=seed)
        self.num_bytes = token_bytes(self.tokenizer)
        torch.manual_seed(seed)
        self.model = new_model(self.tokenizer, device)
        self.optimizers = Optimizers.of(self.model)
        self.progress = Progress()
        if (out / "state.safetensors").exists():
            self.progress = load_state(out / "state.safetensors", self.model, self.optimizers)
            log.info("going on from step %d", self.progress.step)
        self.log = Log(out / "log.jsonl", up_to_step=self.progress.step)

    def step(self) -> StepResult:
        """One optimiser step."""
        started = time.perf_counter()
        rows = step_rows(self.train, self.progress.step, seed=self.seed)
        result = gradients(self.model, to_batch(rows, self.tokenizer.bos_token_id))
        self.optimizers.step(self.progress.rate())
        self.progress.step += 1
        self.progress.seconds += time.perf_counter() - started
        return result

    def plan(self, hours: float | None) -> None:
        """Fix where the learning rate starts to fall, once it is time for that."""
        progress, flag = self.progress, self.out / "anneal"
        if progress.total_steps is not None:
            return
        budget = hours is not None and progress.seconds >= hours * 3600 * (1 - DECAY_SHARE)
        if progress.step and (budget or flag.exists()):
            self.save("before-decay.safetensors")
            progress.decay_start = progress.step
            progress.total_steps = round(progress.step / (1 - DECAY_SHARE))
            log.info("the rate falls from step %d to %d", progress.step, progress.total_steps)

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
    run = Run(arguments.data, arguments.out, device=device, seed=arguments.seed)
    tokens = sum(SHARES.values()) * CONTEXT
    if arguments.steps is not None and run.progress.total_steps is None:
        run.progress.decay_start = round(arguments.steps * (1 - DECAY_SHARE))
        run.progress.total_steps = arguments.steps
    while not run.progress.done():
        step = run.progress.step
        if step in SNAPSHOT_STEPS:
            run.snapshot()
        if step % MEASURE_EVERY == 0:
            run.measure()
        run.plan(arguments.hours)
        before = run.progress.seconds
        result = run.step()
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
    run.measure()
    run.snapshot()
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
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    train(arguments)


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks: fresh pages cost more than what is computed in them."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 * 2**20 - 1)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


if __name__ == "__main__":
    main()
