"""`Waiting`: the states of a layer's sampled tokens, in memory or a file, until they are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe_lens.writing import whole


class State(NamedTuple):
    """One state of the residual stream at a layer, by its name in `states`."""

    layer: int
    name: str


class Waiting(NamedTuple):
    """One layer's states of a batch's sampled tokens; empty where they wait in a file."""

    names: tuple[State, ...]
    inputs: Float[Tensor, "tok state d_model"]
    present: Bool[Tensor, "tok state"]
    file: Path | None = None

    @property
    def num_rows(self) -> int:
        """Sampled tokens."""
        if self.file is None:
            return len(self.inputs)
        with safe_open(self.file, framework="pt") as stored:
            return int(stored.get_slice("present").get_shape()[0])

    def loaded(self) -> Waiting:
        """With its states in memory."""
        if self.file is None:
            return self
        tensors = load_file(self.file)
        return Waiting(self.names, tensors["inputs"], tensors["present"])


def in_file(file: Path, waiting: Waiting) -> Waiting:
    """The same states, written to a file."""
    with whole(file) as beside:
        tensors = {"inputs": waiting.inputs, "present": waiting.present}
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, beside)
    return from_file(file, waiting.names)


def from_file(file: Path, names: tuple[State, ...]) -> Waiting:
    """States of these names that a file holds."""
    nothing = torch.empty(0, len(names), 0)
    return Waiting(names, nothing, torch.empty(0, len(names), dtype=torch.bool), file)


def inputs_of(
    layers: Sequence[tuple[Waiting, ...]],
) -> tuple[Float[Tensor, "tok kept d_model"], Bool[Tensor, "tok state"]]:
    """The inputs of all states but H_1 in one tensor, and which states are present."""
    inputs: Tensor | None = None
    present: list[Tensor] = []
    columns = [[i for i, s in enumerate(one[0].names) if s.name != "top1"] for one in layers]
    num_kept, at = sum(map(len, columns)), 0
    for layer, kept in zip(layers, columns, strict=True):
        loaded = [waiting.loaded() for waiting in layer]
        present.append(torch.cat([one.present for one in loaded]))
        if inputs is None:
            num_rows, width = len(present[0]), loaded[0].inputs.shape[2]
            inputs = loaded[0].inputs.new_empty(num_rows, num_kept, width)
        row = 0
        for one in loaded:
            end = row + len(one.inputs)
            inputs[row:end, at : at + len(kept)] = one.inputs[:, kept]
            row = end
        at += len(kept)
    assert inputs is not None
    return inputs, torch.cat(present, dim=1)
