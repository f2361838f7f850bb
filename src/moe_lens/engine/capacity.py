"""How much memory there is, how much a model takes, and which engine that leaves."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from moe_lens.errors import InputError

GIB = 1 << 30
OVERHEAD_BYTES = GIB
"""For everything but weights and residual streams: one batch's work, statistics, libraries."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_SIZE = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-zA-Z]*)\s*")
_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60


def parse_size(text: str) -> int:
    """Bytes in a size such as `8GiB`, `500 MB` or `1000`.

    Raises:
        InputError: It is no size.
    """
    found = _SIZE.fullmatch(text)
    unit = None if found is None else _UNITS.get(found["unit"].upper())
    if found is None or unit is None:
        raise InputError(f"memory {text!r} is no size; write it like 8GiB, 500MB or 12GB")
    return int(float(found["number"]) * unit)


def say_size(num_bytes: int) -> str:
    """A size for people."""
    if num_bytes >= GIB:
        return f"{num_bytes / GIB:.1f}GiB"
    return f"{num_bytes / (1 << 20):.0f}MiB"


def memory_at_hand(device: torch.device) -> int:
    """Bytes that weights and work may take on a device now.

    On the CPU the least of what the machine has available and what the control group of this
    process leaves; page cache that can be dropped counts as free.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return min(_available(Path("/proc/meminfo")), _cgroup_left(_CGROUP))


def _available(meminfo: Path) -> int:
    if not meminfo.exists():
        return _UNLIMITED
    for line in meminfo.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return _UNLIMITED


def _cgroup_left(root: Path) -> int:
    """What the control group's limit leaves, in its second or first version."""
    for limit_file, used_file, stat_file, key in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        limit, used = _number(root / limit_file), _number(root / used_file)
        if limit is None or used is None:
            continue
        return max(0, limit - used + _stat(root / stat_file, key))
    return _UNLIMITED


def _number(file: Path) -> int | None:
    if not file.exists():
        return None
    text = file.read_text(encoding="ascii").strip()
    return int(text) if text.isdigit() else None


def _stat(file: Path, key: str) -> int:
    if not file.exists():
        return 0
    for line in file.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def fits(weight_bytes: int, memory: int) -> bool:
    """Whether a model of this size can be resident: weights, some slack, and the work itself."""
    return weight_bytes + weight_bytes // 20 + OVERHEAD_BYTES <= memory


def check_two_layers(layer_bytes: int, memory: int, *, source: str) -> None:
    """Prove that a layer and the one that is read ahead fit.

    Raises:
        InputError: They do not; the message says what would do.
    """
    needed = 2 * layer_bytes + OVERHEAD_BYTES
    if needed > memory:
        raise InputError(
            f"{source}: streaming holds two layers of {say_size(layer_bytes)} and "
            f"{say_size(OVERHEAD_BYTES)} for its work, {say_size(needed)} together, but "
            f"{say_size(memory)} of memory may be used; free some, or allow it with "
            f"--memory {say_size(needed)}"
        )
