"""The lens grid of one prompt against full float64 softmaxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from moe_lens.engine.recorder import Recorder
from moe_lens.engine.session import Session
from moe_lens.errors import CorpusError, InputError
from moe_lens.lens.grid import SCHEMA, lens_grid
from moe_lens.lens.states import LENS_FIELDS
from moe_lens.loading import load_model
from moe_lens.models.model import MoEModel
from tests.checkpoints import save_checkpoint, text_of
from tests.engine.families import proven, token_batch
from tests.lens.test_corpus import explicit, rms


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MoEModel:
    path: Path = tmp_path_factory.mktemp("grid") / "m"
    return load_model(save_checkpoint(path, "deepseek"), device="cpu")


@torch.no_grad()
def test_every_cell_equals_the_full_softmax(model: MoEModel) -> None:
    prompt = text_of(5)
    grid = lens_grid(model, prompt)
    assert grid.schema == pl.Schema(SCHEMA)
    assert model.tokenizer is not None
    tokenizer = model.tokenizer
    ids = torch.tensor(tokenizer([prompt])["input_ids"])
    batch = replace(token_batch(ids.shape[1], vocab_size=128), input_ids=ids)
    recorder = Recorder(LENS_FIELDS)
    with Session(model, sink=recorder.update, fields=LENS_FIELDS) as session:
        session.run(batch)
    head = model.hf.get_output_embeddings().weight.double()
    cells = 0
    for row in grid.iter_rows(named=True):
        event = next(e for e in recorder.events if e.layer == row["layer"])
        place = row["position"]
        assert row["token"] == tokenizer.decode([int(ids[0, place])])
        state = explicit(event, place, 1.0)[row["state"]]
        best = (head @ rms(model, state)).softmax(0).topk(6)
        names = [tokenizer.decode([i]) for i in best.indices.tolist()]
        assert [row["top_token"], *row["next_tokens"]] == names
        probabilities = [row["probability"], *row["next_probabilities"]]
        assert probabilities == pytest.approx(best.values.tolist(), rel=1e-4)
        if row["state"].startswith("rank"):
            slot = int(row["state"][4:]) - 1
            assert row["expert"] == event.routing.experts[place, slot]
            assert row["weight"] == pytest.approx(float(event.routing.weights[place, slot]))
        else:
            assert row["expert"] is row["weight"] is None
        cells += 1
    num_positions = len(grid["position"].unique())
    assert cells == num_positions * len(recorder.events) * (4 + 2 * 3)
    assert grid["position"].is_sorted()


def test_bos_has_rows_when_asked_for(model: MoEModel) -> None:
    assert model.tokenizer is not None
    with_bos = lens_grid(model, "<s> " + text_of(2), count_bos=True)
    without = lens_grid(model, text_of(2), norm="none")
    assert with_bos["position"].min() == 0
    assert len(with_bos["position"].unique()) >= len(without["position"].unique())


def test_what_does_not_fit_is_refused(model: MoEModel) -> None:
    with pytest.raises(CorpusError, match="the grid takes at most 4: shorten it"):
        lens_grid(model, text_of(20), max_tokens=4)
    with pytest.raises(CorpusError, match="the prompt of the lens grid is empty"):
        lens_grid(model, "  ")
    with pytest.raises(InputError, match="no tokenizer lies beside the weights"):
        lens_grid(proven("olmoe"), "words")
