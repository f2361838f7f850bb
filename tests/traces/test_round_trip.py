"""Events that were written and read again are counted exactly as live ones."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_lens.errors import TraceError
from moe_lens.event import LayerEvent
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.coactivation import Coactivation
from moe_lens.stats.documents import DocumentUsage
from moe_lens.stats.transitions import Transitions
from moe_lens.stats.usage import Usage
from moe_lens.stats.vocabulary import TokenVocabulary
from moe_lens.stats.weight_mass import WeightMass
from moe_lens.traces import TraceManifest, read_trace, write_trace, writer
from tests.stats.cases import Shape, batches, random_batch

SHAPE = Shape()
DOMAINS = {0: "code", 1: "prose", 2: "code"}
MANIFEST = TraceManifest(
    model="tiny/moe",
    num_experts=SHAPE.num_experts,
    top_k=SHAPE.top_k,
    layers=SHAPE.layers,
    tokenizer="tiny/tokenizer",
    policy={"name": "keep", "k": 3},
    provenance={"corpus": "Œuvres"},
)


def count(events: Sequence[LayerEvent]) -> list[Accumulator]:
    every: list[Accumulator] = [
        Usage(),
        WeightMass(),
        Coactivation(),
        Transitions(SHAPE.layers),
        DocumentUsage(),
        TokenVocabulary(),
    ]
    for event in events:
        for accumulator in every:
            accumulator.update(event)
    return every


def assert_counted_equal(left: Sequence[LayerEvent], right: Sequence[LayerEvent]) -> None:
    for mine, theirs in zip(count(left), count(right), strict=True):
        expected = theirs.state()
        assert mine.state().keys() == expected.keys()
        for name, tensor in mine.state().items():
            if tensor.dtype == torch.int64:
                assert torch.equal(tensor, expected[name]), (type(mine), name)
            else:
                torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=0)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(groups=batches.filter(lambda g: any(b[0].routing.num_tokens for b in g)), data=st.data())
def test_the_round_trip(
    tmp_path: Path, groups: list[list[LayerEvent]], data: st.DataObject
) -> None:
    live = [event for group in groups for event in group]
    path = tmp_path / "t.parquet"
    write_trace(path, live, manifest=MANIFEST, domains=DOMAINS, replace=True)
    trace = read_trace(tmp_path / "t.parquet")
    assert trace.manifest == MANIFEST
    assert trace.num_tokens == sum(group[0].routing.num_tokens for group in groups)
    size = data.draw(st.integers(1, 40))
    assert_counted_equal(live, list(trace.events(batch_tokens=size)))


def test_a_trace_that_is_there_is_kept_unless_replaced(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_text("an hour of work")
    live = random_batch(1, 30)
    with pytest.raises(TraceError, match=r"t\.parquet exists; choose another name, or .*--force"):
        write_trace(path, live, manifest=MANIFEST, domains=DOMAINS)
    assert path.read_text() == "an hour of work"
    assert os.listdir(tmp_path) == ["t.parquet"]
    write_trace(path, live, manifest=MANIFEST, domains=DOMAINS, replace=True)
    assert read_trace(path).num_tokens == 30


def test_one_batch_comes_back_bit_for_bit(tmp_path: Path) -> None:
    live = random_batch(1, 30)
    write_trace(tmp_path / "t.parquet", live, manifest=MANIFEST, domains=DOMAINS)
    for event, read in zip(live, read_trace(tmp_path / "t.parquet").events(), strict=True):
        read.routing.check()
        assert read.layer == event.layer
        for part in ("ids", "document", "position"):
            assert torch.equal(getattr(read.tokens, part), getattr(event.tokens, part))
        for part in ("experts", "weights", "active"):
            assert torch.equal(getattr(read.routing, part), getattr(event.routing, part))


def test_many_parts_and_interleaved_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_PART_ROWS", 50)
    groups = [random_batch(seed, 20, start=100 * seed) for seed in range(6)]
    by_layer = [group[place] for place in range(3) for group in groups]
    write_trace(tmp_path / "t.parquet", by_layer, manifest=MANIFEST, domains=DOMAINS)
    assert_counted_equal(by_layer, list(read_trace(tmp_path / "t.parquet").events(batch_tokens=7)))


def test_domains(tmp_path: Path) -> None:
    live = random_batch(2, 40)
    write_trace(tmp_path / "t.parquet", live, manifest=MANIFEST, domains=DOMAINS)
    trace = read_trace(tmp_path / "t.parquet")
    document = live[0].tokens.document
    prose = int((document == 1).sum())
    assert trace.domains().rows() == [("code", 2, 40 - prose), ("prose", 1, prose)]
    assert trace.documents()["num_tokens"].to_list() == document.bincount().tolist()
    read = list(trace.events(batch_tokens=3, domains=["prose"]))
    assert sum(event.routing.num_tokens for event in read) == 3 * prose
    assert all(bool((event.tokens.document == 1).all()) for event in read)


def test_small_types_and_one_file(tmp_path: Path) -> None:
    write_trace(tmp_path / "t.parquet", random_batch(2, 40), manifest=MANIFEST, domains=DOMAINS)
    assert os.listdir(tmp_path) == ["t.parquet"]
    assert pl.read_parquet_schema(tmp_path / "t.parquet") == {
        "domain": pl.String,
        "document": pl.Int32,
        "token": pl.Int32,
        "token_id": pl.Int32,
        "layer": pl.Int16,
        "num_active": pl.UInt8,
        **{f"expert_{slot}": pl.UInt8 for slot in range(3)},
        **{f"weight_{slot}": pl.Float32 for slot in range(3)},
    }


def test_more_than_256_experts(tmp_path: Path) -> None:
    shape = Shape(num_experts=300)
    manifest = TraceManifest(model="m", num_experts=300, top_k=3, layers=shape.layers)
    live = random_batch(2, 40, shape)
    write_trace(tmp_path / "t.parquet", live, manifest=manifest, domains=DOMAINS)
    assert_counted_equal(live, list(read_trace(tmp_path / "t.parquet").events()))


def failing(events: list[LayerEvent]) -> Iterator[LayerEvent]:
    yield from events
    raise RuntimeError("boom")


def test_a_failed_run_leaves_nothing(tmp_path: Path) -> None:
    events = failing(random_batch(1, 10))
    with pytest.raises(RuntimeError, match="boom"):
        write_trace(tmp_path / "t.parquet", events, manifest=MANIFEST, domains=DOMAINS)
    assert os.listdir(tmp_path) == []


def test_a_killed_run_leaves_no_trace(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import os, signal, sys
        from moe_lens.traces import TraceWriter, writer
        from tests.stats.cases import random_batch
        from tests.traces.test_round_trip import DOMAINS, MANIFEST
        writer._PART_ROWS = 1
        with TraceWriter(sys.argv[1], manifest=MANIFEST, domains=DOMAINS) as out:
            for event in random_batch(1, 10):
                out.update(event)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    target = tmp_path / "t.parquet"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(target)]
    assert subprocess.run(command, cwd=root, check=False).returncode == -9
    assert not target.exists()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".t.parquet.")
    assert len(list(left.iterdir())) == 1


def test_a_trace_without_weights_counts_choices_only(tmp_path: Path) -> None:
    live = random_batch(3, 30)
    manifest = TraceManifest(
        model="m", num_experts=7, top_k=3, layers=SHAPE.layers, has_weights=False
    )
    write_trace(tmp_path / "t.parquet", live, manifest=manifest, domains=DOMAINS)
    assert "weight_0" not in pl.read_parquet_schema(tmp_path / "t.parquet")
    mine, theirs = Usage(), Usage()
    for event, read in zip(live, read_trace(tmp_path / "t.parquet").events(), strict=True):
        mine.update(event)
        theirs.update(read)
    assert torch.equal(mine.counts(2), theirs.counts(2))
