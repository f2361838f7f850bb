"""What memory a process has, as Linux tells it; also for children that tests start."""

from __future__ import annotations

from pathlib import Path

STATUS = Path("/proc/self/status")


def anonymous_bytes() -> int:
    """Of this process, now."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))
