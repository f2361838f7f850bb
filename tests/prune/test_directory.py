"""Either nothing or everything is under the target's name: killed, full, locked."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moe_lens.errors import InputError
from moe_lens.prune import stored
from moe_lens.prune.directory import SUFFIX, unfinished
from moe_lens.prune.export import RECORD, export
from tests.prune.cases import checkpoint_of, random_plan

SLOW = """
import sys, time
from pathlib import Path
from moe_lens.prune import export as module
from moe_lens.prune.plan import read_plan
write = module.write_file
def slowly(path, outputs):
    write(path, outputs)
    print("written", flush=True)
    time.sleep(60)
module.write_file = slowly
module.export(sys.argv[1], read_plan(sys.argv[2]), sys.argv[3], max_shard_bytes=60_000, check=False)
"""


def test_a_block_that_ends_well_becomes_the_target(tmp_path: Path) -> None:
    with unfinished(tmp_path / "out", num_bytes=10) as place:
        (place / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with unfinished(tmp_path / "out", num_bytes=10) as place:
            (place / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_target_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with unfinished(tmp_path / "out", num_bytes=10) as place:
        (place / "a").write_text("1")
    assert (tmp_path / "out" / "a").exists()


def test_killed_half_way_nothing_looks_complete_and_the_next_export_clears_up(
    tmp_path: Path,
) -> None:
    original = checkpoint_of(tmp_path / "m", "olmoe")
    plan = random_plan(original)
    plan.write(tmp_path / "plan.json")
    out = tmp_path / "out"
    command = [sys.executable, "-c", SLOW, str(original), str(tmp_path / "plan.json"), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"  # the first of several shards
    place = tmp_path / f".out{SUFFIX}"
    with pytest.raises(InputError, match="another export writes it at this moment"):
        export(original, plan, out, check=False)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not out.exists()
    assert list(place.glob("*.safetensors"))
    done = export(original, plan, out)
    assert done.verification is not None
    assert (out / RECORD).exists()
    assert not place.exists()


@pytest.mark.parametrize("full_at", [0, 1, 20])
def test_a_disk_that_runs_full_is_one_message_and_nothing_is_lost(
    full_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpoint_of(tmp_path / "m", "olmoe")
    plan = random_plan(original)
    before = {path.name: path.read_bytes() for path in original.iterdir()}
    pieces = stored._pieces
    count = 0

    def full(span):  # type: ignore[no-untyped-def]
        nonlocal count
        count += 1
        if count > full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pieces(span)

    monkeypatch.setattr(stored, "_pieces", full)
    with pytest.raises(InputError, match=r"the disk is full; what was written .* is taken away"):
        export(original, plan, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert {path.name: path.read_bytes() for path in original.iterdir()} == before


def test_too_small_a_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpoint_of(tmp_path / "m", "olmoe")
    usage = type(shutil.disk_usage(tmp_path))(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"takes 0\.22 MB, but the disk has 0\.00 MB free"):
        export(original, random_plan(original), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    place = tmp_path / f".out{SUFFIX}"
    place.mkdir()
    (place / "half").write_text("x")
    with (place / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (
            pytest.raises(InputError, match="another export"),
            unfinished(tmp_path / "out", num_bytes=1),
        ):
            pass
        assert (place / "half").exists()
    with unfinished(tmp_path / "out", num_bytes=1):
        pass
    assert list((tmp_path / "out").iterdir()) == []
