"""A run through a streamed model: the tables of a resident one, also when it is killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from moe_lens.engine import activations
from moe_lens.engine.major import LayerMajor
from moe_lens.errors import InputError
from moe_lens.study.result import Study
from moe_lens.study.run import run
from moe_lens.study.spec import StudySpec
from tests.study.conftest import contents


@pytest.fixture(scope="module")
def finished(tiny_spec: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> Study:
    resident = replace(tiny_spec, model=replace(tiny_spec.model, engine="resident"))
    return run(resident, tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="module")
def streaming(tiny_spec: StudySpec) -> StudySpec:
    return replace(tiny_spec, model=replace(tiny_spec.model, engine="streaming"))


class _StopError(Exception):
    pass


def stop_after(calls: int) -> Callable[..., object]:
    """Progress that fails when it has been told so often."""

    @contextmanager
    def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
        seen = 0

        def advance(num_tokens: int) -> None:
            nonlocal seen
            seen += 1
            if seen > calls:
                raise _StopError

        yield advance

    return progress


def test_tables_are_those_of_a_resident_model(
    finished: Study, streaming: StudySpec, tmp_path: Path
) -> None:
    study = run(streaming, tmp_path / "run")
    assert contents(study.directory) == contents(finished.directory)
    assert study.manifest["model"]["engine"] == "streaming"
    same = "weights_sha256"
    assert study.manifest["model"][same] == finished.manifest["model"][same]
    assert {path.name for path in study.directory.iterdir()} == {"manifest.json", "tables"}


@pytest.mark.parametrize("calls", [0, 1, 4, 7, 8, 11, 16, 20])
def test_a_run_that_stops_goes_on_and_ends_the_same(
    finished: Study, streaming: StudySpec, tmp_path: Path, calls: int
) -> None:
    with pytest.raises(_StopError):
        run(streaming, tmp_path / "run", progress=stop_after(calls))
    again = run(streaming, tmp_path / "run")
    assert contents(again.directory) == contents(finished.directory)


def test_layers_that_are_done_are_not_done_again(
    streaming: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    inner = LayerMajor._layer

    def counted(self: LayerMajor, index: int) -> None:
        if self._keeper is not None:
            done.append(index)
            if len(done) == 3:
                raise _StopError
        inner(self, index)

    monkeypatch.setattr(LayerMajor, "_layer", counted)
    with pytest.raises(_StopError):
        run(streaming, tmp_path / "run")
    assert done == [0, 1, 2]
    run(streaming, tmp_path / "run")
    assert done == [0, 1, 2, 2]


def test_a_run_begun_resident_goes_on_streaming(
    finished: Study, tiny_spec: StudySpec, streaming: StudySpec, tmp_path: Path
) -> None:
    with pytest.raises(_StopError):
        run(tiny_spec, tmp_path / "run", progress=stop_after(30))
    assert list((tmp_path / "run" / "state").glob("full-*"))
    again = run(streaming, tmp_path / "run")
    assert contents(again.directory) == contents(finished.directory)


def test_a_disk_without_room_is_told_before_the_work(
    streaming: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(activations.shutil, "disk_usage", lambda path: Usage)
    told = r"residual streams between layers take [\d,]+ bytes of disk, but 1,000 are free"
    with pytest.raises(InputError, match=told):
        run(streaming, tmp_path / "run")


_CHILD = """
import json, sys, time
from contextlib import contextmanager
from pathlib import Path
import torch
torch.set_num_threads(1)
from moe_lens.study.run import run
from moe_lens.study.spec import StudySpec

def advance(num_tokens):
    with Path(sys.argv[3]).open("a") as calls:
        calls.write(".")
    time.sleep(0.05)

@contextmanager
def progress(what, total):
    yield advance

run(StudySpec.from_dict(json.loads(sys.argv[1])), sys.argv[2], progress=progress)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_minus_nine_at_random_moments(
    finished: Study, streaming: StudySpec, tmp_path: Path
) -> None:
    """Kills are placed by batches that are done, eight of them a layer, not by the clock."""
    out, calls = tmp_path / "run", tmp_path / "calls"
    spec = json.dumps(streaming.to_dict())
    command = [sys.executable, "-c", _CHILD, spec, str(out), str(calls)]
    draw, places = random.Random(3), set()
    for _ in range(10):
        calls.write_text("")
        wanted = draw.randint(1, 12)
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while calls.stat().st_size <= wanted and child.poll() is None:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.wait()
        places.add(tuple(sorted(f.name for f in (out / "state").rglob("sums-*.safetensors"))))
    assert len(places) > 2, "the kills fell at one place"
    subprocess.run(command, check=True, capture_output=True)
    assert contents(out) == contents(finished.directory)
