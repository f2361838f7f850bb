"""A scoring run: its tables against plain sums, twice the same, stopped and gone on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from moe_lens.corpus import load_corpus
from moe_lens.errors import InputError
from moe_lens.event import Field
from moe_lens.loading import load_model
from moe_lens.observing import record
from moe_lens.scoring.names import CRITERIA
from moe_lens.study.score_result import ScoreRun
from moe_lens.study.score_spec import ScoreSpec
from moe_lens.study.scoring import score
from moe_lens.study.spec import StudySpec
from tests.study.conftest import contents


@pytest.fixture(scope="module")
def spec(tiny_spec: StudySpec) -> ScoreSpec:
    return ScoreSpec(tiny_spec.model, tiny_spec.text, batch_tokens=64, chunk_tokens=150)


@pytest.fixture(scope="module")
def finished(spec: ScoreSpec, tmp_path_factory: pytest.TempPathFactory) -> ScoreRun:
    return score(spec, tmp_path_factory.mktemp("scored") / "run")


def test_a_run_writes_its_tables_and_its_manifest(finished: ScoreRun, spec: ScoreSpec) -> None:
    assert finished.tables == ["importance", "stability"]
    assert finished.manifest["spec"] == spec.to_dict()
    assert finished.manifest["skipped"] == {}
    assert not (finished.directory / "state").exists()
    table = finished.importance
    assert table.columns == ["domain", "layer", "expert", "criterion", "score", "num_tokens"]
    assert table["domain"].unique(maintain_order=True).to_list() == ["all", "left", "right"]
    assert table["criterion"].unique(maintain_order=True).to_list() == list(CRITERIA)
    assert len(table) == 3 * 2 * 12 * len(CRITERIA)
    assert table["score"].is_finite().all()


def test_scores_of_domains_equal_plain_sums_over_their_documents(
    finished: ScoreRun, spec: ScoreSpec
) -> None:
    model = load_model(spec.model.model)
    sums: dict[tuple[str, int, int], list[float]] = {}
    for document in load_corpus(spec.text.corpus):
        for event in record(model, document.text, fields=[Field.OUTPUTS]):
            assert event.outputs is not None
            norms = event.outputs.double().norm(dim=-1)
            reap = event.routing.weights.double() * norms
            for experts, values in zip(event.routing.experts.tolist(), reap.tolist(), strict=True):
                for expert, value in zip(experts, values, strict=True):
                    for domain in (document.domain, "all"):
                        sums.setdefault((domain, event.layer, expert), []).append(value)
    rows = finished.importance.filter(pl.col("criterion") == "reap")
    for row in rows.iter_rows(named=True):
        values = sums.get((row["domain"], row["layer"], row["expert"]), [])
        assert row["num_tokens"] == len(values)
        mean = sum(values) / len(values) if values else 0.0
        assert row["score"] == pytest.approx(mean, rel=1e-5)


def test_stability_has_every_pair_and_leaves_out_what_no_text_changes(finished: ScoreRun) -> None:
    table = finished.stability
    pairs = table.select("domain_a", "domain_b").unique(maintain_order=True).rows()
    assert pairs == [("all", "all"), ("left", "left"), ("right", "right"), ("left", "right")]
    assert set(table["criterion"]) == set(CRITERIA) - {"aimer"}
    assert len(table) == 4 * 2 * (len(CRITERIA) - 1) * 3
    within = table.filter(pl.col("domain_a") == pl.col("domain_b"))
    ranked = pl.col("criterion") == "rank_removal"
    assert set(within.filter(~ranked)["num_splits"]) == {7}
    assert set(within.filter(ranked)["num_splits"]) == {2}
    assert table["overlap"].is_between(0, 1).all()
    frequency = table.filter((pl.col("criterion") == "frequency") & (pl.col("pruned_share") == 0.5))
    assert frequency["num_kept"].to_list() == [6] * 8


def test_two_runs_are_the_same_and_a_finished_one_is_read(
    finished: ScoreRun, spec: ScoreSpec, tmp_path: Path
) -> None:
    assert contents(score(spec, tmp_path / "again").directory) == contents(finished.directory)
    before = contents(finished.directory)
    assert score(spec, finished.directory).tables == finished.tables
    assert contents(finished.directory) == before


class _StopError(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_a_run_that_stops_goes_on_and_ends_the_same(
    finished: ScoreRun, spec: ScoreSpec, tmp_path: Path, after: int
) -> None:
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
        score(spec, tmp_path / "run", progress=progress)
    with pytest.raises(InputError, match="holds no finished scoring"):
        ScoreRun(tmp_path / "run")
    assert contents(score(spec, tmp_path / "run").directory) == contents(finished.directory)


def test_some_criteria_alone_are_the_same_numbers(
    finished: ScoreRun, spec: ScoreSpec, tmp_path: Path
) -> None:
    few = score(replace(spec, criteria=("reap", "frequency", "aimer")), tmp_path / "few")
    names = ["frequency", "reap", "aimer"]
    assert few.importance["criterion"].unique(maintain_order=True).to_list() == names
    expected = finished.importance.filter(pl.col("criterion").is_in(names))
    assert few.importance["score"].to_list() == pytest.approx(expected["score"].to_list(), rel=1e-6)


@pytest.fixture(scope="module")
def ablated(spec: ScoreSpec, tmp_path_factory: pytest.TempPathFactory) -> ScoreRun:
    causal = replace(spec, causal=6, causal_tokens=80)
    return score(causal, tmp_path_factory.mktemp("ablated") / "run")


def test_ablations_add_their_tables(ablated: ScoreRun, finished: ScoreRun) -> None:
    names = ["causal", "causal_documents", "causal_text", "importance", "prediction", "stability"]
    assert ablated.tables == names
    assert ablated.importance.equals(finished.importance)
    table = ablated.causal
    assert table["domain"].unique(maintain_order=True).to_list() == ["all", "left", "right"]
    places = table.select("layer", "expert").unique()
    assert len(places) == 6
    kinds = ["drop", "mask", "replace", "random", "drop_over_random"]
    for (layer, expert), part in (
        table.filter(pl.col("domain") == "all")
        .partition_by("layer", "expert", as_dict=True)
        .items()
    ):
        assert part["ablation"].to_list() == kinds, (layer, expert)
        assert part["num_tokens"].n_unique() == 1  # the same tokens, whatever is done to them
    text = ablated.table("causal_text")
    assert text["domain"].to_list() == ["left"] * 4 + ["right"] * 4
    assert text["num_predicted"].to_list() == [19, 20, 21, 22] * 2


def test_prediction_has_every_criterion_for_every_ablation_and_layer(ablated: ScoreRun) -> None:
    table = ablated.prediction
    assert set(table["criterion"]) == {*CRITERIA, "random", "other_half"}
    assert table["layer"].unique().sort().to_list() == [None, 1, 2]
    assert len(table) == 5 * 2 * 3 * (len(CRITERIA) + 2)


@pytest.mark.parametrize("after", [7, 60])
def test_ablations_that_stop_go_on_and_end_the_same(
    ablated: ScoreRun, spec: ScoreSpec, tmp_path: Path, after: int
) -> None:
    causal = replace(spec, causal=6, causal_tokens=80)
    seen = 0

    @contextmanager
    def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
        def advance(num_tokens: int) -> None:
            nonlocal seen
            seen += what == "ablating"
            if seen > after:
                raise _StopError

        yield advance

    with pytest.raises(_StopError):
        score(causal, tmp_path / "run", progress=progress)
    assert (tmp_path / "run" / "tables" / "importance.parquet").exists()
    with pytest.raises(InputError, match="holds no finished scoring; start `moe-lens score` again"):
        ScoreRun(tmp_path / "run")
    done = {f: f.stat().st_mtime_ns for f in (tmp_path / "run" / "state").glob("causal-*")}
    assert bool(done) == (after > 24)  # 6 experts x 4 ablations of the first batch
    seen = after - len(done)  # a second stop, right after what is there
    with pytest.raises(_StopError):
        score(causal, tmp_path / "run", progress=progress)
    again = {f: f.stat().st_mtime_ns for f in (tmp_path / "run" / "state").glob("causal-*")}
    assert again == done
    assert contents(score(causal, tmp_path / "run").directory) == contents(ablated.directory)


def test_a_streamed_model_gives_the_same(
    ablated: ScoreRun, spec: ScoreSpec, tmp_path: Path
) -> None:
    """Layer by layer from disk; sums are taken in another order, so equal to rounding."""
    streamed = replace(spec.model, engine="streaming")
    run = score(replace(spec, model=streamed, causal=6, causal_tokens=80), tmp_path / "run")
    assert run.manifest["model"]["engine"] == "streaming"
    for name in ablated.tables:
        mine, theirs = run.table(name), ablated.table(name)
        assert mine.columns == theirs.columns
        for column in mine.columns:
            left, right = mine[column].to_list(), theirs[column].to_list()
            if mine[column].dtype == pl.Float64:
                told = [value is None for value in left]
                assert told == [value is None for value in right], (name, column)
                pairs = zip(left, right, strict=True)
                assert all(
                    a is None or a == pytest.approx(b, rel=1e-4, abs=1e-7) for a, b in pairs
                ), (name, column)
            else:
                assert left == right, (name, column)


def test_progress_adds_up(spec: ScoreSpec, tmp_path: Path) -> None:
    told: dict[str, list[int]] = {}

    @contextmanager
    def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
        told[what] = [total]
        yield told[what].append

    score(replace(spec, causal=3, causal_tokens=80), tmp_path / "run", progress=progress)
    assert list(told) == ["scoring", "ablating"]
    for total, *steps in told.values():
        assert sum(steps) == total


def test_mistakes_are_told(spec: ScoreSpec, finished: ScoreRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="criterion 'reep' is not one of frequency, gate_mass"):
        replace(spec, criteria=("reep",))
    with pytest.raises(InputError, match="no criterion: choose among frequency"):
        replace(spec, criteria=())
    with pytest.raises(InputError, match="batch_tokens = 0: give at least 1"):
        replace(spec, batch_tokens=0)
    with pytest.raises(InputError, match="ablation 'prune' is not one of drop, mask, replace"):
        replace(spec, ablations=("prune",))
    with pytest.raises(InputError, match="causal = -1: ablate 0 experts or more"):
        replace(spec, causal=-1)
    with pytest.raises(InputError, match="causal_tokens = 0: give at least 1"):
        replace(spec, causal_tokens=0)
    with pytest.raises(InputError, match="holds another run: spec differ"):
        score(replace(spec, seed=3), finished.directory)
    with pytest.raises(InputError, match=r"holds no scoring: it has no manifest\.json"):
        ScoreRun(tmp_path)
    with pytest.raises(InputError, match="has no table 'claims'; it has importance, stability"):
        finished.table("claims")
