"""Memory: what is at hand, what is enough, and what is said when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moe_lens.engine import capacity
from moe_lens.engine.capacity import GIB, fits, memory_at_hand, parse_size, say_size
from moe_lens.errors import InputError
from moe_lens.loading import load_model
from tests.checkpoints import save_checkpoint


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("8GiB", 8 << 30), ("1.5 GB", 1_500_000_000), ("500mb", 500_000_000), ("1000", 1000)],
)
def test_sizes_are_read(text: str, num_bytes: int) -> None:
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "much", "-1GiB", "8 parsecs"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"is no size; write it like 8GiB"):
        parse_size(text)


def test_what_is_said_can_be_given_back() -> None:
    assert say_size(3 * GIB) == "3.0GiB"
    assert parse_size(say_size(3 * GIB)) == 3 * GIB
    assert say_size(7 << 20) == "7MiB"


def test_a_model_fits_with_its_slack_and_the_work() -> None:
    assert fits(20 * GIB, 22 * GIB)
    assert not fits(20 * GIB, 22 * GIB - 1)


def test_the_control_group_counts_what_can_be_dropped(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 250\nfile 400\n")
    assert capacity._cgroup_left(tmp_path) == 1000 - 700 + 250
    (tmp_path / "memory.max").write_text("max\n")
    assert capacity._cgroup_left(tmp_path) == capacity._UNLIMITED


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text("5000\n")
    (folder / "memory.usage_in_bytes").write_text("4000\n")
    (folder / "memory.stat").write_text("total_inactive_file 100\n")
    assert capacity._cgroup_left(tmp_path) == 1100


def test_memory_available_is_read_in_kibibytes(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    12345 kB\n")
    assert capacity._available(tmp_path / "meminfo") == 12345 * 1024
    assert memory_at_hand(torch.device("cpu")) > 0


def test_the_engine_is_chosen_by_the_memory(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model")
    assert load_model(folder, device="cpu", memory="2GiB").store is None
    with pytest.raises(InputError, match=r"take 0MiB, but 1.0GiB of memory may be used; stream it"):
        load_model(folder, device="cpu", memory="1GiB", engine="resident")
    told = r"two layers of 0MiB and 1.0GiB for its work, .* with --memory 1.0GiB"
    with pytest.raises(InputError, match=told):
        load_model(folder, device="cpu", memory="1GiB")
    with pytest.raises(InputError, match="engine 'warp' is not one of auto, resident, streaming"):
        load_model(folder, device="cpu", engine="warp")


def test_auto_streams_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_checkpoint(tmp_path / "model")
    monkeypatch.setattr("moe_lens.loading.fits", lambda needed, allowed: False)
    assert load_model(folder, device="cpu").store is not None
