"""`Activations`: the residual streams of all batches between two layers, in memory or in a file."""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from moe_lens.errors import InputError


class Activations(ABC):
    """A residual stream for each batch and slot; a slot belongs to the first stream that uses it.

    `put` after a layer, `get` before the next; `advance` between the two.
    """

    @abstractmethod
    def put(self, batch: int, slot: int, hidden: Tensor) -> None:
        """Keep what leaves a layer."""

    @abstractmethod
    def get(self, batch: int, slot: int) -> Tensor:
        """What enters the next layer."""

    @abstractmethod
    def advance(self) -> None:
        """From now on, `get` gives what was put."""

    @abstractmethod
    def close(self, *, keep: bool) -> None:
        """Let go of everything; `keep` leaves files for a sweep that goes on later."""


@final
class InMemory(Activations):
    """Kept as they are, on the CPU.

    Args:
        device: Where they are asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: dict[tuple[int, int], Tensor] = {}

    def put(self, batch: int, slot: int, hidden: Tensor) -> None:
        """Keep what leaves a layer; it takes the place of what entered."""
        self._held[batch, slot] = hidden.cpu()

    def get(self, batch: int, slot: int) -> Tensor:
        """What enters the next layer."""
        return self._held[batch, slot].to(self._device)

    def advance(self) -> None:
        """Nothing to do: every slot is read before it is written."""

    def close(self, *, keep: bool) -> None:
        """Let go of everything."""
        self._held.clear()


@dataclass(frozen=True)
class Layout:
    """Where each batch lies in a file.

    Attributes:
        shapes: Of each batch's residual stream.
        dtype: Of all of them.
        num_slots: Streams of each batch, at most.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    num_slots: int

    def num_bytes(self, batch: int) -> int:
        """Bytes of one batch in one slot."""
        return torch.Size(self.shapes[batch]).numel() * self.dtype.itemsize

    @property
    def total_bytes(self) -> int:
        """Bytes of all batches in all slots."""
        return sum(map(self.num_bytes, range(len(self.shapes)))) * self.num_slots

    def offsets(self) -> list[int]:
        """Where each batch begins."""
        found, at = [], 0
        for batch in range(len(self.shapes)):
            found.append(at)
            at += self.num_bytes(batch) * self.num_slots
        return found


@final
class InFile(Activations):
    """Kept in two files that take turns: what entered a layer stays until the layer is done.

    Args:
        layout: The batches.
        directory: Where the files are, made if need be; None for a temporary folder.
        device: Where residual streams are asked for.
        layer: The layer whose input is asked for first; decides which file that is.
    """

    def __init__(
        self, layout: Layout, directory: Path | None, *, device: torch.device, layer: int = 0
    ) -> None:
        self._own_folder = directory is None
        folder = Path(tempfile.mkdtemp(prefix="moe-lens-")) if directory is None else directory
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = [folder / f"activations-{turn}.bin" for turn in (0, 1)]
        self._layout, self._device, self._turn = layout, device, layer % 2
        self._offsets = layout.offsets()
        self._files = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in self._paths]

    def put(self, batch: int, slot: int, hidden: Tensor) -> None:
        """Keep what leaves a layer."""
        shape = self._layout.shapes[batch]
        assert tuple(hidden.shape) == shape, f"{tuple(hidden.shape)} does not fit {shape}"
        assert hidden.dtype is self._layout.dtype
        data = hidden.cpu().contiguous().view(-1).view(torch.uint8).numpy()
        _write(self._files[1 - self._turn], data.data, self._place(batch, slot))

    def get(self, batch: int, slot: int) -> Tensor:
        """What enters the next layer."""
        hidden = torch.empty(self._layout.shapes[batch], dtype=self._layout.dtype)
        data = hidden.view(-1).view(torch.uint8).numpy()
        _read(self._files[self._turn], data.data, self._place(batch, slot))
        return hidden.to(self._device)

    def advance(self) -> None:
        """The files change places."""
        self._turn = 1 - self._turn

    def close(self, *, keep: bool) -> None:
        """Close the files, and remove them unless they are to be kept."""
        for file in self._files:
            os.close(file)
        if not keep:
            for path in self._paths:
                path.unlink(missing_ok=True)
            if self._own_folder:
                self._paths[0].parent.rmdir()

    def _place(self, batch: int, slot: int) -> int:
        return self._offsets[batch] + slot * self._layout.num_bytes(batch)


def check_disk(layout: Layout, directory: Path, *, beside_bytes: int) -> None:
    """Prove that two files of this layout, and so many bytes beside them, fit on the disk.

    Raises:
        InputError: They do not.
    """
    directory.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_blocks * 512 for path in directory.glob("activations-*.bin"))
    needed = 2 * layout.total_bytes + beside_bytes
    free = shutil.disk_usage(directory).free + there
    if needed > free:
        raise InputError(
            f"{directory}: the residual streams between layers take {needed:,} bytes of disk, but "
            f"{free:,} are free; make room, take fewer tokens or fewer policies at a time, or "
            f"choose a directory on another disk (--out, or TMPDIR)"
        )


def _write(file: int, data: memoryview, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], at + done)


def _read(file: int, data: memoryview, at: int) -> None:
    done = 0
    while done < len(data):
        got = os.preadv(file, [data[done:]], at + done)
        assert got > 0, "the file of residual streams is shorter than what was written to it"
        done += got
