"""Streaming is resident, to the bit: every family, events and hidden states, every dtype."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl
import pytest
import torch

from moe_lens.cli.tracing import TraceJob
from moe_lens.engine.recorder import Recorder
from moe_lens.engine.session import Session
from moe_lens.engine.sweep import Stream, sweep
from moe_lens.errors import CheckpointError, UnsupportedModel
from moe_lens.event import Field
from moe_lens.loading import load_model
from moe_lens.models.model import MoEModel
from moe_lens.models.tiny import tiny_model
from moe_lens.observing import record
from moe_lens.policies import KeepTopK, Renorm
from tests.checkpoints import edit_weights, save_checkpoint, text_of
from tests.engine.families import SUPPORTED, token_batch
from tests.engine.test_sweep import same_events

NOT_STREAMED = {
    "glm_moe_dsa": "layer 0 returns more than the residual stream",
    "hy_v4": "layer 0 returns more than the residual stream",
    "inkling2_text": "its last hidden states depend on more than the last layer's output",
}
STREAMED = sorted(set(SUPPORTED) - set(NOT_STREAMED))


def both(folder: Path, model_type: str, dtype: str = "float32") -> tuple[MoEModel, MoEModel]:
    """The same checkpoint resident and streamed."""
    tiny_model(model_type).save_pretrained(folder)
    resident = load_model(folder, dtype=dtype, device="cpu")
    return resident, load_model(folder, dtype=dtype, device="cpu", engine="streaming")


@pytest.mark.parametrize("model_type", STREAMED)
def test_streaming_is_resident_to_the_bit(model_type: str, tmp_path: Path) -> None:
    resident, streamed = both(tmp_path, model_type)
    check_same(resident, streamed)


@pytest.mark.parametrize("model_type", ["deepseek", "olmoe", "deepseek_v3", "gpt_oss"])
def test_streaming_is_resident_in_bfloat16(model_type: str, tmp_path: Path) -> None:
    resident, streamed = both(tmp_path, model_type, "bfloat16")
    check_same(resident, streamed)


def check_same(resident: MoEModel, streamed: MoEModel) -> None:
    fields = resident.fields
    assert streamed.fields == fields
    assert [c.error for c in streamed.checks] == [c.error for c in resident.checks]
    batches = [
        token_batch(13, 9, vocab_size=resident.vocab_size),
        token_batch(17, vocab_size=resident.vocab_size, seed=2),
    ]
    policies = [None, KeepTopK(1, Renorm.KEEP_MASS)]
    seen = [Recorder(fields) for _ in policies]
    streams = [
        Stream(sink=recorder.update, fields=fields)
        if policy is None
        else Stream(policy, recorder.update, fields)
        for policy, recorder in zip(policies, seen, strict=True)
    ]
    swept = list(sweep(streamed, batches, streams))
    for index, policy in enumerate(policies):
        alone = Recorder(fields)
        with Session(resident, sink=alone.update, fields=fields, policy=policy) as session:
            hidden = [session.run(batch) for batch in batches]
        for one, expected in zip(swept, hidden, strict=True):
            assert torch.equal(one.hidden[index], expected)
        assert same_events(seen[index].events, alone.events)
    assert all(p.is_meta for layer in streamed.layers for p in layer.modules.layer.parameters())


@pytest.mark.parametrize("model_type", sorted(NOT_STREAMED))
def test_layers_that_share_more_are_not_streamed(model_type: str, tmp_path: Path) -> None:
    tiny_model(model_type).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=NOT_STREAMED[model_type]):
        load_model(tmp_path, device="cpu", engine="streaming")
    resident = load_model(tmp_path, device="cpu", engine="resident")
    assert resident.stack is None


def test_a_layer_that_lacks_a_tensor_is_told_at_load(tmp_path: Path) -> None:
    tiny_model("deepseek").save_pretrained(tmp_path)
    edit_weights(tmp_path, "model.layers.2.mlp.gate.weight", None)
    with pytest.raises(CheckpointError, match=r"1 tensors are missing.*layers\.2\.mlp\.gate"):
        load_model(tmp_path, device="cpu", engine="streaming")


def test_a_weight_that_is_not_finite_is_told_at_load(tmp_path: Path) -> None:
    tiny_model("deepseek").save_pretrained(tmp_path)
    edit_weights(tmp_path, "model.layers.2.mlp.experts.5.down_proj.weight", float("nan"))
    with pytest.raises(CheckpointError, match=r"layer 2, mlp\.experts.*not finite"):
        load_model(tmp_path, device="cpu", engine="streaming")


def test_recording_works_as_with_a_resident_model(tmp_path: Path) -> None:
    resident, streamed = both(tmp_path, "deepseek")
    batch = token_batch(11, vocab_size=resident.vocab_size)
    found = []
    for model in (resident, streamed):
        recorder = Recorder({Field.OUTPUTS})
        with Session(model, sink=recorder.update, fields=recorder.fields) as session:
            session.run(batch)
        found.append(recorder.events)
    assert same_events(*found)


def test_residual_streams_that_do_not_fit_are_spilled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, streamed = both(tmp_path / "model", "deepseek")
    (tmp_path / "spill").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spill"))
    assert streamed.store is not None
    batches = [token_batch(n, n - 2, vocab_size=streamed.vocab_size, seed=n) for n in (9, 15)]
    streams = [Stream(), Stream(KeepTopK(1)), Stream(KeepTopK(2))]
    in_memory = list(sweep(streamed, batches, streams))
    streamed.store.room_bytes = 0
    swept = sweep(streamed, batches, streams)
    spilled = [next(swept)]
    (folder,) = (tmp_path / "spill").iterdir()
    tokens = (9 * 2 + 15 * 2) * 32 * 4
    assert [f.stat().st_size for f in folder.iterdir()] == [tokens * 3] * 2
    spilled += swept
    assert not folder.exists()
    for one, other in zip(in_memory, spilled, strict=True):
        assert all(map(torch.equal, one.hidden, other.hidden))


def test_a_trace_is_the_same_file(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model")
    (tmp_path / "text.txt").write_text(text_of(200))
    traces = []
    for engine in ("resident", "streaming"):
        job = TraceJob.open(
            str(folder),
            str(tmp_path / "text.txt"),
            split="file",
            field="text",
            max_documents=None,
            context_length=40,
            on_long="split",
            count_bos=False,
            dtype="auto",
            device="cpu",
            revision=None,
            trust_remote_code=False,
            engine=engine,
        )
        job.write(
            tmp_path / f"{engine}.parquet", batch_tokens=64, progress=lambda n: None, replace=False
        )
        traces.append(pl.read_parquet(tmp_path / f"{engine}.parquet"))
        text = (tmp_path / "text.txt").read_text()
        events = record(job.model, text, fields=[Field.OUTPUTS])
        assert [event.layer for event in events] == [1, 2] * (len(events) // 2)
    assert traces[0].equals(traces[1])
