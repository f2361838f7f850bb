"""Tensors of safetensors files as places on disk: read in pieces, written one after another.

Bytes are moved, not numbers: what is copied is copied whatever its dtype, and memory holds one
piece at a time.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moe_lens.errors import CheckpointError
from moe_lens.models.shards import INDEX, weight_files

PIECE_BYTES = 1 << 23

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""safetensors' names of the dtypes that numbers are computed in."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        name: Its key.
        file: The file.
        dtype: safetensors' name of its dtype.
        shape: Its shape.
        start: Offset of its first byte in the file.
        num_bytes: Its size.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int


@dataclass(frozen=True)
class Span:
    """Bytes of a file, and what they are multiplied by on the way (1: moved as they are)."""

    file: Path
    start: int
    num_bytes: int
    dtype: str
    factor: float = 1.0


@dataclass(frozen=True)
class Output:
    """A tensor to be written: its name and shape, and the bytes it is made of, in order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    spans: tuple[Span, ...]

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return sum(span.num_bytes for span in self.spans)


def stored_tensors(directory: Path) -> list[StoredTensor]:
    """Every tensor of a checkpoint, in the order of its files; data is not read.

    Raises:
        CheckpointError: A file is missing, cut short or not safetensors, or the index names a
            tensor that its file has not.
    """
    files = weight_files(directory)
    found = [tensor for file in files for tensor in _header(file)]
    index = directory / INDEX
    if not index.exists():
        return found
    place_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    listed = [tensor for tensor in found if place_of.get(tensor.name) == tensor.file.name]
    missing = sorted(set(place_of) - {tensor.name for tensor in listed})
    if missing:
        raise CheckpointError(
            f"{index}: {missing[0]} is not in {place_of[missing[0]]}; fetch the checkpoint again"
        )
    return listed


def read_tensor(tensor: StoredTensor) -> Tensor:
    """A small tensor's numbers.

    Raises:
        CheckpointError: Its dtype is none that numbers are computed in.
    """
    if tensor.dtype not in DTYPES:
        raise CheckpointError(
            f"{tensor.name}: dtype {tensor.dtype} is not one of {', '.join(DTYPES)}"
        )
    with tensor.file.open("rb") as stream:
        data = bytearray(os.pread(stream.fileno(), tensor.num_bytes, tensor.start))
    return torch.frombuffer(data, dtype=DTYPES[tensor.dtype]).view(tensor.shape)


def write_file(path: Path, outputs: Sequence[Output]) -> None:
    """Write a safetensors file, piece by piece, and wait until it is on the disk."""
    header = _header_bytes(outputs)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)))
        stream.write(header)
        for output in outputs:
            for span in output.spans:
                for piece in _pieces(span):
                    stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())


def _header_bytes(outputs: Sequence[Output]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for output in outputs:
        end = offset + output.num_bytes
        header[output.name] = {
            "dtype": output.dtype,
            "shape": list(output.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _pieces(span: Span) -> Iterator[memoryview | bytes]:
    with span.file.open("rb", buffering=0) as stream:
        buffer = bytearray(min(PIECE_BYTES, span.num_bytes))
        stream.seek(span.start)
        left = span.num_bytes
        while left:
            view = memoryview(buffer)[: min(left, len(buffer))]
            filled = 0
            while filled < len(view):
                count = stream.readinto(view[filled:])
                if not count:
                    raise CheckpointError(f"{span.file}: ends before its header says; fetch again")
                filled += count
            if span.factor != 1.0:
                numbers = torch.frombuffer(view, dtype=DTYPES[span.dtype])
                numbers.copy_((numbers.double() * span.factor).to(numbers.dtype))
            yield view
            left -= filled


def _header(file: Path) -> list[StoredTensor]:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    base = 8 + length
    found = []
    for name, values in header.items():
        start, end = values["data_offsets"]
        shape = tuple(int(size) for size in values["shape"])
        found.append(StoredTensor(name, file, values["dtype"], shape, base + start, end - start))
    return sorted(found, key=lambda tensor: tensor.start)


def row_bytes(tensor: StoredTensor, axis: int) -> int:
    """Bytes of one index of an axis before which there is nothing but ones."""
    return tensor.num_bytes // math.prod(tensor.shape[: axis + 1])
