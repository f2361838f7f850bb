"""A training run on disk: one safetensors file that is replaced whole, and a log.

The file holds weights, optimiser tensors and, in its metadata, the progress. Killed at
any moment, a run goes on from the last file. Log lines written after it are dropped.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from demo.model.network import Optimizers
from moe_lens.models.deepseek import DeepseekForCausalLM


@dataclass
class Progress:
    """Where a run stands. The learning rate falls from `decay_start` to 0 at `total_steps`."""

    step: int = 0
    seconds: float = 0.0
    decay_start: int | None = None
    total_steps: int | None = None

    def rate(self, warmup: int = 20) -> float:
        """Fraction of the peak learning rate for the coming step."""
        if self.decay_start is not None and self.total_steps is not None:
            left = (self.total_steps - self.step) / (self.total_steps - self.decay_start)
            if left < 1:
                return left
        return min(1.0, (self.step + 1) / warmup)

    def done(self) -> bool:
        """Whether the last planned step was taken."""
        return self.total_steps is not None and self.step >= self.total_steps


def _tensors(model: DeepseekForCausalLM, optimizers: Optimizers) -> dict[str, Tensor]:
    """Every tensor of the run by name; the tensors themselves, not copies."""
    tensors = {f"model.{name}": p.data for name, p in model.named_parameters()}
    for kind, optimizer in (("muon", optimizers.muon), ("adamw", optimizers.adamw)):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for i, parameter in enumerate(parameters):
            for key, value in optimizer.state[parameter].items():
                tensors[f"{kind}.{i}.{key}"] = value
    return tensors


def save_state(
    path: Path, model: DeepseekForCausalLM, optimizers: Optimizers, progress: Progress
) -> None:
    """Replace the file at `path` by the run's present state."""
    tensors = {k: v.contiguous() for k, v in _tensors(model, optimizers).items()}
    new = path.with_suffix(".new")
    save_file(tensors, new, metadata={"progress": json.dumps(asdict(progress))})
    os.replace(new, path)


def load_state(path: Path, model: DeepseekForCausalLM, optimizers: Optimizers) -> Progress:
    """Put a saved state into the model and its optimisers."""
    parameters = {f"model.{name}": p for name, p in model.named_parameters()}
    by_kind = {"muon": optimizers.muon, "adamw": optimizers.adamw}
    lists = {k: [p for g in o.param_groups for p in g["params"]] for k, o in by_kind.items()}
    with safe_open(path, framework="pt", device=str(model.device)) as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            tensor = file.get_tensor(name)
            if name in parameters:
                parameters[name].data.copy_(tensor)
            else:
                kind, index, key = name.split(".")
                state = by_kind[kind].state[lists[kind][int(index)]]
                state[key] = tensor.cpu() if key == "step" else tensor
        return Progress(**json.loads(file.metadata()["progress"]))


class Log:
    """JSON lines, one per measurement, each with its step."""

    def __init__(self, path: Path, *, up_to_step: int) -> None:
        self._path = path
        lines = read_log(path)
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(x) + "\n" for x in lines if x["step"] <= up_to_step)

    def write(self, **values: Any) -> None:
        """Append one line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a log; a line cut short by a kill is dropped."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]


def save_snapshot(path: Path, tensors: dict[str, Tensor]) -> None:
    """Replace one small file of tensors."""
    new = path.with_suffix(".new")
    save_file(tensors, new)
    os.replace(new, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a small file, or none where there is no file."""
    if not path.exists():
        return {}
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
