"""`unfinished`: write a directory beside its target, and rename it last.

Under the target's name there is either nothing or all of it, on the disk, whenever the process or
the machine stops. What a killed export leaves behind is known by its name and a lock that died
with its process, and taken away by the next export to the same target.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from moe_lens.errors import InputError

SUFFIX = ".unfinished"
_LOCK = ".lock"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SPARE_BYTES = 1 << 20


@contextmanager
def unfinished(target: Path, *, num_bytes: int) -> Iterator[Path]:
    """A directory to write into, which becomes `target` when the block ends without error.

    Args:
        target: Where the result goes; must not exist, or be an empty directory.
        num_bytes: About how much will be written.

    Raises:
        InputError: The target is taken, another export writes it, or the disk is (or runs) full.
            Nothing of this export is left then.
    """
    check_free(target)
    parent = target.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    place = parent / f".{target.name}{SUFFIX}"
    with _owned(place, target):
        _check_space(parent, num_bytes, target)
        try:
            yield place
            (place / _LOCK).unlink()
            _sync_tree(place)
            os.replace(place, target)
            _sync(parent)
        except BaseException as error:
            shutil.rmtree(place, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in _FULL:
                raise InputError(
                    f"{target}: the disk is full; what was written of the export is taken away "
                    f"again, and the original is as it was. Free about {_said(num_bytes)}, or give "
                    f"a place on another disk"
                ) from error
            raise


def check_free(target: Path) -> None:
    """Prove that nothing lies under the target's name.

    Raises:
        InputError: Something does.
    """
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} exists already; give a directory that is new or empty")


@contextmanager
def _owned(place: Path, target: Path) -> Iterator[None]:
    """The directory, empty and locked; a dead export's remains are taken away first."""
    if place.exists():
        with _locked(place, target):
            shutil.rmtree(place)
    place.mkdir()
    with _locked(place, target):
        yield


@contextmanager
def _locked(place: Path, target: Path) -> Iterator[IO[bytes]]:
    with (place / _LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{target}: another export writes it at this moment (in {place}); wait for it, or "
                f"give another directory"
            ) from error
        yield lock


def _check_space(parent: Path, num_bytes: int, target: Path) -> None:
    free = shutil.disk_usage(parent).free
    if free < num_bytes + _SPARE_BYTES:
        shutil.rmtree(parent / f".{target.name}{SUFFIX}", ignore_errors=True)
        raise InputError(
            f"{target}: the export takes {_said(num_bytes)}, but the disk has {_said(free)} free; "
            f"free some, or give a place on another disk"
        )


def _sync_tree(place: Path) -> None:
    for path in place.iterdir():
        _sync(path)
    _sync(place)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _said(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e7 else f"{num_bytes / 1e6:,.2f} MB"
