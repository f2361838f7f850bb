"""What training logs about held-out text: bits per byte, expert load, specialisation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from demo.model.data import Batch, to_batch
from moe_lens.models.deepseek import DeepseekForCausalLM, DeepseekRouter


@dataclass
class Routing:
    """What each router last returned: logits, weights and expert ids, by MoE layer."""

    logits: list[Tensor]
    experts: list[Tensor]


@contextmanager
def record_routing(model: nn.Module) -> Iterator[Routing]:
    """Collect every router's choice while the context is open; clear it between passes."""
    routing = Routing([], [])

    def hook(_: nn.Module, __: object, output: tuple[Tensor, Tensor, Tensor]) -> None:
        routing.logits.append(output[0])
        routing.experts.append(output[2])

    handles = [
        m.register_forward_hook(hook) for m in model.modules() if isinstance(m, DeepseekRouter)
    ]
    try:
        yield routing
    finally:
        for handle in handles:
            handle.remove()


def token_bytes(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """UTF-8 bytes that each vocabulary entry stands for; special tokens stand for none."""
    entries = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_ids)
    return torch.tensor([0 if i in special else len(entry) for i, entry in enumerate(entries)])


@dataclass(frozen=True)
class HeldOut:
    """Held-out measurements of one domain.

    `choices` counts [row, layer, expert]: how often the row's tokens chose the expert.
    """

    bits_per_byte: float
    choices: NDArray[np.int64]


@torch.no_grad()
def measure_rows(
    model: DeepseekForCausalLM, rows: NDArray[np.uint16], *, bos: int, num_bytes: Tensor
) -> HeldOut:
    """Run packed rows of one domain; special tokens are neither predicted nor counted."""
    nats = total_bytes = 0.0
    choices = []
    for row in rows:
        batch = to_batch(row[None], bos)
        batch = Batch(*(x.to(model.device) for x in (batch.inputs, batch.targets, batch.positions)))
        with record_routing(model) as routing:
            logits = model(batch.inputs, position_ids=batch.positions, use_cache=False).logits
        losses = functional.cross_entropy(
            logits[0].float(), batch.targets[0], reduction="none"
        ).cpu()
        size = num_bytes[batch.targets[0].cpu()]
        nats += losses[size > 0].double().sum().item()
        total_bytes += size.sum().item()
        text = (num_bytes[batch.inputs[0].cpu()] > 0).to(model.device)
        num_experts = model.config.n_routed_experts
        choices.append(
            [
                torch.bincount(experts[text].flatten(), minlength=num_experts).tolist()
                for experts in routing.experts
            ]
        )
    return HeldOut(nats / math.log(2) / total_bytes, np.array(choices, dtype=np.int64))


def mutual_information(choices: NDArray[np.int64], labels: NDArray[np.int64]) -> list[float]:
    """Bits that an expert choice tells about the label, per layer, every label as likely.

    `choices` is [row, layer, expert].
    """
    names = np.unique(labels)
    joint = np.stack([choices[labels == name].sum(0) for name in names], axis=1).astype(float)
    joint /= joint.sum(-1, keepdims=True) * len(names)
    marginal = joint.sum(1, keepdims=True) / len(names)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.where(joint > 0, joint * np.log2(joint / marginal), 0.0)
    return [float(x) for x in bits.sum((1, 2))]


def specialisation(held_out: Mapping[str, HeldOut], *, shuffles: int = 5) -> dict[str, list[float]]:
    """Mutual information of domain and expert per layer, and with rows' domains shuffled."""
    choices = np.concatenate([h.choices for h in held_out.values()])
    labels = np.repeat(np.arange(len(held_out)), [len(h.choices) for h in held_out.values()])
    rng = np.random.default_rng(0)
    control = [mutual_information(choices, rng.permutation(labels)) for _ in range(shuffles)]
    load = choices.sum(0)
    return {
        "mutual_information_bits": mutual_information(choices, labels),
        "shuffled_bits": [float(x) for x in np.mean(control, axis=0)],
        "max_load_over_mean": [float(x) for x in load.max(-1) / load.mean(-1)],
    }


@torch.no_grad()
def routing_snapshot(model: DeepseekForCausalLM, batch: Batch) -> Tensor:
    """Chosen expert ids [layer, tok, slot] as int8, largest weight first."""
    with record_routing(model) as routing:
        model(
            batch.inputs.to(model.device),
            position_ids=batch.positions.to(model.device),
            use_cache=False,
        )
    return torch.stack(routing.experts).to(torch.int8).cpu()
