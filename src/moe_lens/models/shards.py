"""Are the weight files whole? Answered from their headers, before anything is loaded."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from moe_lens.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LENGTH_BYTES = 8
_ONE_EXPERT = re.compile(r"(?P<block>.*\bexperts)\.(?P<expert>\d+)\.(?P<part>.+)")
_MAX_HEADER_BYTES = 100_000_000
_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint, each proven to be there and of its stated size.

    Raises:
        CheckpointError: There are none, one is missing, cut short, or not safetensors.
    """
    files = _listed(directory)
    names: list[str] = []
    for file in files:
        names += check_whole(file)
    _check_experts(names, directory)
    return files


class StoredTensor(NamedTuple):
    """A tensor in a safetensors file.

    Attributes:
        dtype: As the format names it, such as "BF16".
        shape: Of the tensor.
        start: Its first byte in the file.
        num_bytes: How many it has.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int


def stored_tensors(file: Path) -> dict[str, StoredTensor]:
    """Where each tensor of a file lies."""
    header = _header(file)
    with file.open("rb") as stream:
        length: int = struct.unpack("<Q", stream.read(_LENGTH_BYTES))[0]
    data = _LENGTH_BYTES + length
    return {
        name: StoredTensor(
            dtype=tensor["dtype"],
            shape=tuple(tensor["shape"]),
            start=data + tensor["data_offsets"][0],
            num_bytes=tensor["data_offsets"][1] - tensor["data_offsets"][0],
        )
        for name, tensor in header.items()
    }


def weight_bytes(files: Sequence[Path], *, bytes_per_float: int | None) -> int:
    """Bytes that the tensors of safetensors files take in memory; None: in their own dtypes."""
    total = 0
    for file in files:
        for tensor in _header(file).values():
            start, end = tensor["data_offsets"]
            size = end - start
            if bytes_per_float is not None and tensor["dtype"] in _FLOAT_BYTES:
                size = size // _FLOAT_BYTES[tensor["dtype"]] * bytes_per_float
            total += size
    return total


def _check_experts(names: list[str], directory: Path) -> None:
    """Prove that where experts are stored one by one, no layer lacks a part of one."""
    stored: dict[str, dict[str, set[int]]] = {}
    for name in names:
        found = _ONE_EXPERT.fullmatch(name)
        if found:
            parts = stored.setdefault(found["block"], {})
            parts.setdefault(found["part"], set()).add(int(found["expert"]))
    for block, parts in stored.items():
        known = set(range(max(max(ids) for ids in parts.values()) + 1))
        for part, ids in parts.items():
            if ids != known:
                missing = f"{block}.{min(known - ids)}.{part}"
                raise CheckpointError(
                    f"{directory}: the weight files lack {missing}; fetch them again"
                )


def _listed(directory: Path) -> list[Path]:
    index = directory / INDEX
    if index.exists():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{index}: not an index of safetensors shards ({error}); fetch it again"
            ) from error
        files = [directory / name for name in names]
    elif (directory / SINGLE).exists():
        files = [directory / SINGLE]
    else:
        files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise CheckpointError(_no_weights(directory))
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise CheckpointError(
            f"{directory}: {len(missing)} of {len(files)} weight files are missing, the first is "
            f"{missing[0]}; fetch them again"
        )
    return files


def _no_weights(directory: Path) -> str:
    pickled = sorted(p.name for p in directory.glob("*.bin")) + sorted(
        p.name for p in directory.glob("*.pt*")
    )
    if pickled:
        return (
            f"{directory}: weights are only in {pickled[0]}, a pickle that can run code when "
            f"loaded; convert the checkpoint to safetensors first"
        )
    return f"{directory}: no weights; expected {SINGLE} or {INDEX} with its shards"


def check_whole(file: Path) -> list[str]:
    """Prove that a safetensors file has a readable header and exactly the bytes it promises.

    Returns:
        The names of its tensors.

    Raises:
        CheckpointError: It has not.
    """
    header = _header(file)
    try:
        ends = [tensor["data_offsets"][1] for tensor in header.values()]
    except (LookupError, TypeError) as error:
        raise CheckpointError(_unreadable(file, error)) from error
    size = file.stat().st_size
    with file.open("rb") as stream:
        length: int = struct.unpack("<Q", stream.read(_LENGTH_BYTES))[0]
    expected = _LENGTH_BYTES + length + max(ends, default=0)
    if size != expected:
        raise CheckpointError(
            f"{file}: cut short or damaged: {size} bytes, but its header promises {expected}; "
            f"fetch it again"
        )
    return list(header)


def _header(file: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(_LENGTH_BYTES)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == _LENGTH_BYTES else size
        if _LENGTH_BYTES + length > min(size, _MAX_HEADER_BYTES):
            raise CheckpointError(
                f"{file}: not a whole safetensors file: {size} bytes, which its header alone "
                f"exceeds; fetch it again"
            )
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            header.pop("__metadata__", None)
        except (ValueError, AttributeError, TypeError) as error:
            raise CheckpointError(_unreadable(file, error)) from error
    return header


def _unreadable(file: Path, error: Exception) -> str:
    return f"{file}: its safetensors header cannot be read ({error}); fetch it again"
