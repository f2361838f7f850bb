"""Gradients of one training step, by one process or by several that share the weights."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, multiprocessing
from torch.nn import functional

from demo.model.data import Batch, to_batch
from demo.model.kernels import HeadLoss, keep_freed_memory
from demo.model.measure import record_routing
from moe_lens.models.deepseek import DeepseekForCausalLM, balance_loss

MICRO_ROWS = 8


@dataclass(frozen=True)
class StepResult:
    """Mean cross-entropy (nats per token, special tokens included) and balance loss."""

    loss: float
    balance: float


def gradients(
    model: DeepseekForCausalLM, batch: Batch, *, dtype: torch.dtype = torch.float32
) -> StepResult:
    """Add the gradients of one batch, taken in parts of MICRO_ROWS rows.

    Products are taken in `dtype`; weights, norms, routing and losses stay in float32.
    """
    config = model.config
    parts = batch.inputs.shape[0] // MICRO_ROWS
    assert parts * MICRO_ROWS == batch.inputs.shape[0]
    loss = balance = 0.0
    autocast = torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32)
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
    with torch.autocast(model.device.type, enabled=False):
        return functional.cross_entropy(model.lm_head(hidden.float()), targets)


def _serve(
    connection: Connection, model: DeepseekForCausalLM, grads: list[Tensor], dtype: torch.dtype
) -> None:
    """Take rows, leave their gradients in shared memory, until the other end closes."""
    torch.set_num_threads(1)
    keep_freed_memory()
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        parameter.grad = grad
    while True:
        try:
            rows, bos = connection.recv()
        except EOFError:
            return
        for grad in grads:
            grad.zero_()
        connection.send(gradients(model, to_batch(rows, bos), dtype=dtype))


class Workers:
    """This process and `num - 1` others, one thread each; weights and gradients are shared.

    They meet once a step, so a busy neighbour slows one of them, not each product. The sum
    of gradients does not depend on `num`, bit for bit: parts are halved before they are added.
    """

    def __init__(self, model: DeepseekForCausalLM, num: int, dtype: torch.dtype) -> None:
        self._model, self._dtype = model, dtype
        self._others: list[tuple[Connection, list[Tensor]]] = []
        context = multiprocessing.get_context("spawn")
        if num > 1:
            model.share_memory()
        for _ in range(num - 1):
            ours, theirs = context.Pipe()
            grads = [torch.zeros_like(p).share_memory_() for p in model.parameters()]
            process = context.Process(
                target=_serve, args=(theirs, model, grads, dtype), daemon=True
            )
            process.start()
            theirs.close()
            self._others.append((ours, grads))

    def gradients(self, rows: NDArray[np.uint16], bos: int) -> StepResult:
        """Add the gradients of the mean loss over the rows.

        Raises:
            ValueError: The rows cannot be dealt out in parts of MICRO_ROWS.
        """
        num = len(self._others) + 1
        if len(rows) % (num * MICRO_ROWS):
            raise ValueError(
                f"{len(rows)} rows cannot be dealt to {num} workers in parts of {MICRO_ROWS}; "
                f"take a number of workers that divides {len(rows) // MICRO_ROWS}."
            )
        for i, (connection, _) in enumerate(self._others, 1):
            connection.send((rows[i::num], bos))
        results = [gradients(self._model, to_batch(rows[::num], bos), dtype=self._dtype)]
        for connection, grads in self._others:
            results.append(connection.recv())
            for parameter, grad in zip(self._model.parameters(), grads, strict=True):
                assert parameter.grad is not None
                parameter.grad.add_(grad)
        if num > 1:
            for parameter in self._model.parameters():
                assert parameter.grad is not None
                parameter.grad.div_(num)
        return StepResult(sum(r.loss for r in results) / num, sum(r.balance for r in results) / num)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection, _ in self._others:
            connection.close()
