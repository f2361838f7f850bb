"""A command in a process of its own, its memory watched from outside."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Watched(NamedTuple):
    """What a finished process took.

    Attributes:
        seconds: From its start to its end, imports included.
        anonymous_bytes: Most anonymous memory, looked at every 10 ms.
        resident_bytes: Most memory, mapped files included.
    """

    seconds: float
    anonymous_bytes: int
    resident_bytes: int


def watched(command: Sequence[object]) -> Watched:
    """Run a command to its end.

    Raises:
        CalledProcessError: It failed.
    """
    arguments = list(map(str, command))
    started = time.perf_counter()
    process = subprocess.Popen(arguments)
    peaks = {"RssAnon": 0, "VmHWM": 0}
    while process.poll() is None:
        for name, value in _memory(process.pid).items():
            peaks[name] = max(peaks[name], value)
        time.sleep(0.01)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return Watched(seconds, peaks["RssAnon"], peaks["VmHWM"])


def _memory(pid: int) -> dict[str, int]:
    """Anonymous memory now, and the most that was ever resident, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    values = dict(line.split(":", 1) for line in lines)
    return {k: int(values[k].split()[0]) * 1024 for k in ("RssAnon", "VmHWM") if k in values}
