"""Muon for matrices and stacks of matrices: momentum, orthogonalised by Newton-Schulz.

Every expert is a matrix of its own. Matrices of one shape, from all layers, are
orthogonalised in one batched product. Source: Jordan et al., Muon (2024).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly: singular values end between 0.7 and 1.2.

    Five steps of the quintic Newton-Schulz iteration; rows must not outnumber columns.
    """
    x: Tensor = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Steps of fixed spectral size, `lr * sqrt(max(1, rows / columns))`, Nesterov momentum.

    A parameter's last two axes are the matrix, the ones before it a stack; parameters
    named in `halves` hold two matrices one above the other (fused gate and up).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        halves: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._dtype = dtype
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        groups = [
            {"params": list(parameters), "parts": 1},
            {"params": list(halves), "parts": 2},
        ]
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step for every parameter that has a gradient."""
        stacks: dict[tuple[int, int], list[tuple[Tensor, Tensor, float]]] = defaultdict(list)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = torch.lerp(parameter.grad, state["momentum"], group["momentum"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                rows, columns = parameter.shape[-2] // group["parts"], parameter.shape[-1]
                size = group["lr"] * max(1.0, rows / columns) ** 0.5
                target, update = (x.view(-1, rows, columns) for x in (parameter, update))
                if rows > columns:
                    target, update = target.mT, update.mT
                stacks[target.shape[1], target.shape[2]].append((target, update, size))
        for stack in stacks.values():
            targets, updates, sizes = zip(*stack, strict=True)
            whole = orthogonalise(torch.cat(updates).to(self._dtype)).to(targets[0].dtype)
            steps = whole.split([len(t) for t in targets])
            for target, step, size in zip(targets, steps, sizes, strict=True):
                target.sub_(step, alpha=size)
