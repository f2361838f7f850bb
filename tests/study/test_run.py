"""A run: against brute force, twice the same, and killed at any moment."""

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

import polars as pl
import pytest
import torch

from moe_lens.corpus import batches, load_corpus
from moe_lens.errors import InputError
from moe_lens.event import Field
from moe_lens.lens.unembed import find_head, find_unembedding
from moe_lens.loading import load_model
from moe_lens.models.model import MoEModel
from moe_lens.observing import record, tokens_of
from moe_lens.study import abilities
from moe_lens.study.chunks import chunks
from moe_lens.study.result import Study
from moe_lens.study.run import run
from moe_lens.study.spec import StudySpec
from tests.study.conftest import contents

TABLES = [
    "claims",
    "coactivation",
    "concentration",
    "information",
    "lens",
    "lens_grid",
    "overlap",
    "perplexity",
    "similarity",
    "specialization",
]


@pytest.fixture(scope="module")
def finished(tiny_spec: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run(tiny_spec, tmp_path_factory.mktemp("finished") / "run")


def test_a_run_writes_every_table_and_its_manifest(finished: Study, tiny_spec: StudySpec) -> None:
    assert finished.tables == TABLES
    assert StudySpec.from_dict(finished.manifest["spec"]) == tiny_spec
    assert finished.manifest["model"]["num_experts"] == 12
    assert finished.manifest["skipped"] == {}
    assert not (finished.directory / "state").exists()
    files = {path.name for path in finished.directory.iterdir()}
    assert files == {"manifest.json", "tables"}


def test_specialization_equals_counting_by_hand(finished: Study, tiny_spec: StudySpec) -> None:
    model = load_model(tiny_spec.model.model)
    counts: dict[tuple[str, int, int], int] = {}
    for document in load_corpus(tiny_spec.text.corpus):
        for event in record(model, document.text):
            for row in event.routing.experts.tolist():
                for expert in row:
                    key = (document.domain, event.layer, expert)
                    counts[key] = counts.get(key, 0) + 1
    table = finished.specialization
    assert len(table) == 2 * 2 * 12
    for row in table.iter_rows(named=True):
        expected = counts.get((row["domain"], row["layer"], row["expert"]), 0)
        assert row["num_tokens"] == expected
        assert row["num_domain_tokens"] == sum(20 + i for i in range(8))
        assert row["rate"] == pytest.approx(expected / row["num_domain_tokens"])
        assert row["baseline"] == pytest.approx(3 / 12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_perplexity_equals_the_stock_model_with_a_smaller_top_k(
    finished: Study, tiny_spec: StudySpec, k: int
) -> None:
    """Oracle: transformers' own loss, float64, routers' top_k lowered."""
    model = load_model(tiny_spec.model.model)
    for layer in model.layers:
        layer.modules.router.top_k = k  # type: ignore[assignment]
    total, num_tokens = 0.0, 0
    for ids in tokens_of(model, load_corpus(tiny_spec.text.corpus)).ids:
        tokens = ids.long().unsqueeze(0)
        with torch.no_grad():
            logits = model.hf(tokens, use_cache=False).logits.double()
        chosen = logits.log_softmax(-1)[0, :-1].gather(1, tokens[0, 1:, None])
        total, num_tokens = total - float(chosen.sum()), num_tokens + len(ids) - 1
    row = finished.perplexity.filter(
        (pl.col("domain") == "all") & (pl.col("k") == k) & (pl.col("renorm") == "native")
    ).row(0, named=True)
    assert row["num_tokens"] == num_tokens
    assert row["nll_nats"] == pytest.approx(total / num_tokens, abs=1e-5)


def test_similarity_equals_vectors_by_hand(finished: Study, tiny_spec: StudySpec) -> None:
    model = load_model(tiny_spec.model.model)
    found: dict[str, list[float]] = {"cos_h1_hk": [], "cos_resid_hk": [], "cos_m1_mk": []}
    for document in load_corpus(tiny_spec.text.corpus):
        if document.domain != "left":
            continue
        event = record(model, document.text, fields=[Field.OUTPUTS, Field.RESID_MID])[1]
        assert event.outputs is not None
        assert event.resid_mid is not None
        parts = event.routing.weights.double().unsqueeze(-1) * event.outputs.double()
        resid, one, full = event.resid_mid.double(), parts[:, 0], parts.sum(1)
        cosine = torch.cosine_similarity
        found["cos_h1_hk"] += cosine(resid + one, resid + full, dim=-1).tolist()
        found["cos_resid_hk"] += cosine(resid, resid + full, dim=-1).tolist()
        found["cos_m1_mk"] += cosine(one, full, dim=-1).tolist()
    table = finished.similarity.filter((pl.col("domain") == "left") & (pl.col("layer") == 2))
    for name, values in found.items():
        row = table.filter(pl.col("quantity") == name).row(0, named=True)
        assert row["num_tokens"] == len(values)
        assert row["mean"] == pytest.approx(sum(values) / len(values), abs=1e-6)
        assert row["mean_low"] < row["mean"] < row["mean_high"]


def test_two_runs_with_the_same_seed_are_the_same(
    finished: Study, tiny_spec: StudySpec, tmp_path: Path
) -> None:
    again = run(tiny_spec, tmp_path / "again")
    assert contents(again.directory) == contents(finished.directory)
    other = run(replace(tiny_spec, seed=1), tmp_path / "other")
    assert contents(other.directory)["lens.parquet"] != contents(finished.directory)["lens.parquet"]


def test_the_budget_of_tokens_takes_whole_documents(tiny_spec: StudySpec, tmp_path: Path) -> None:
    text = replace(tiny_spec.text, max_tokens=50)
    short = run(replace(tiny_spec, text=text, measures=("routing",)), tmp_path / "short")
    assert set(short.specialization["num_domain_tokens"]) == {20 + 21 + 22}
    assert "until a domain has 50 tokens" in short.manifest["corpus"]["sampling"]


class _StopError(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 2, 5, 9, 14])
def test_a_run_that_stops_goes_on_and_ends_the_same(
    finished: Study, tiny_spec: StudySpec, tmp_path: Path, after: int
) -> None:
    """Stopped at the nth batch, wherever in a chunk that is."""

    @contextmanager
    def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
        seen = 0

        def advance(num_tokens: int) -> None:
            nonlocal seen
            if seen == after:
                raise _StopError
            seen += 1

        yield advance

    with pytest.raises(_StopError):
        run(tiny_spec, tmp_path / "run", progress=progress)
    with pytest.raises(InputError, match="a run that is not finished; start it again to go on"):
        Study(tmp_path / "run")
    again = run(tiny_spec, tmp_path / "run")
    assert contents(again.directory) == contents(finished.directory)


def test_going_on_does_not_do_finished_chunks_again(tiny_spec: StudySpec, tmp_path: Path) -> None:
    state = tmp_path / "run" / "state"
    seen: list[int] = []

    @contextmanager
    def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
        def advance(num_tokens: int) -> None:
            seen.append(num_tokens)
            if len(seen) == 9:
                raise _StopError

        yield advance

    with pytest.raises(_StopError):
        run(tiny_spec, tmp_path / "run", progress=progress)
    done = {file: file.stat().st_mtime_ns for file in state.iterdir()}
    assert done
    seen[:] = [0] * 5
    with pytest.raises(_StopError):
        run(tiny_spec, tmp_path / "run", progress=progress)
    assert {file: file.stat().st_mtime_ns for file in done} == done


_CHILD = """
import json, sys, time
from contextlib import contextmanager
from pathlib import Path
import torch
torch.set_num_threads(1)
from moe_lens.study.run import run
from moe_lens.study.spec import StudySpec

@contextmanager
def progress(what, total):
    Path(sys.argv[3]).touch()
    yield lambda num_tokens: time.sleep(0.03)

run(StudySpec.from_dict(json.loads(sys.argv[1])), sys.argv[2], progress=progress)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_minus_nine_at_ten_random_moments(
    finished: Study, tiny_spec: StudySpec, tmp_path: Path
) -> None:
    """The oracle is the uninterrupted run; every kill falls into the work, not the start-up."""
    out, started = tmp_path / "run", tmp_path / "started"
    spec = json.dumps(tiny_spec.to_dict())
    command = [sys.executable, "-c", _CHILD, spec, str(out), str(started)]
    draw, places = random.Random(0), set()
    for _ in range(10):
        started.unlink(missing_ok=True)
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not started.exists():
            assert child.poll() is None, "the run ended before it could be killed"
            time.sleep(0.005)
        time.sleep(draw.uniform(0.0, 0.5))
        child.send_signal(signal.SIGKILL)
        child.wait()
        whole = [file for file in out.rglob("*.parquet") if not file.name.startswith(".")]
        for file in whole:
            pl.read_parquet(file)
        assert not (out / "tables" / "claims.parquet").exists()
        places.add(len(list((out / "state").glob("*.safetensors"))))
    assert len(places) > 2, "the kills fell at one place"
    subprocess.run(command, check=True, capture_output=True)
    assert contents(out) == contents(finished.directory)


def test_a_directory_that_holds_something_else_is_refused(
    finished: Study, tiny_spec: StudySpec, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        run(tiny_spec, tmp_path)
    with pytest.raises(InputError, match="holds another run: spec differ"):
        run(replace(tiny_spec, seed=5), finished.directory)
    with pytest.raises(InputError, match=r"holds no run: it has no manifest\.json"):
        Study(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no table 'nonsense'; it has claims"):
        finished.table("nonsense")


def test_a_k_above_the_models_is_refused_and_leaves_nothing(
    tiny_spec: StudySpec, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"k = 9, but .* has 3 active experts"):
        run(replace(tiny_spec, ks=(1, 9)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("prompt", "words"),
    [(" ", "the prompt of the lens grid is empty"), ("w9 " * 200, "takes at most 128: shorten")],
)
def test_a_prompt_that_cannot_be_shown_is_refused_before_the_work(
    tiny_spec: StudySpec, tmp_path: Path, prompt: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        run(replace(tiny_spec, prompt=prompt), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_the_final_norm_states_are_decoded_as_they_are(
    finished: Study, tiny_spec: StudySpec, tmp_path: Path
) -> None:
    """Oracle: the residual stream times the head, by hand, at every cell of the grid."""
    spec = replace(tiny_spec, measures=("lens",), lens_norm="none", prompt="w9 w8 w7 w6")
    bare = run(spec, tmp_path / "bare")
    assert not bare.lens.equals(finished.lens)
    model = load_model(tiny_spec.model.model)
    weight = model.hf.get_output_embeddings().weight.detach()  # type: ignore[union-attr]
    for event in record(model, "w9 w8 w7 w6", fields=[Field.LAYER_OUTPUT]):
        assert event.layer_output is not None
        expected = (event.layer_output @ weight.T).softmax(-1).max(-1).values
        rows = bare.table("lens_grid").filter(
            (pl.col("layer") == event.layer) & (pl.col("state") == "layer")
        )
        assert rows["probability"].to_list() == pytest.approx(expected.tolist(), abs=1e-5)


def test_heads_are_proven_once_for_all_chunks(
    tiny_spec: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(name: str, found: Callable[[MoEModel], object]) -> Callable[[MoEModel], object]:
        def find(model: MoEModel) -> object:
            calls.append(name)
            return found(model)

        return find

    monkeypatch.setattr(abilities, "find_head", counted("head", find_head))
    monkeypatch.setattr(abilities, "find_unembedding", counted("lens", find_unembedding))
    for module in ("moe_lens.lens.corpus", "moe_lens.lens.grid"):
        monkeypatch.setattr(f"{module}.find_unembedding", counted(module, find_unembedding))
    run(tiny_spec, tmp_path / "run")
    assert sorted(calls) == ["head", "lens"]


def test_batches_of_a_chunk_are_those_of_the_corpus(tiny_spec: StudySpec) -> None:
    model = load_model(tiny_spec.model.model)
    tokenized = tokens_of(model, load_corpus(tiny_spec.text.corpus))
    sizes = {"batch_tokens": tiny_spec.batch_tokens, "chunk_tokens": tiny_spec.chunk_tokens}
    grouped = list(chunks(tokenized, **sizes))
    assert len(grouped) > 2
    flat = [batch.input_ids.tolist() for chunk in grouped for batch in chunk]
    plain = batches(tokenized, batch_tokens=tiny_spec.batch_tokens)
    assert flat == [batch.input_ids.tolist() for batch in plain]
