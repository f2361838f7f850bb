"""Files are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A place to write a file to, for a `with` block.

    `beside` lies in the same folder, which is made if need be, and takes the place of `path` when
    the block ends without an error. A reader sees the old file or the new one, never a part; a
    block that fails leaves the old one, one that is killed also a hidden `.partial` file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield beside
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
