"""A frontier: against the pieces it is made of, twice the same, stopped anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import polars as pl
import pytest

from moe_lens.corpus import Corpus, Document, batches, load_corpus
from moe_lens.errors import InputError
from moe_lens.loading import load_model
from moe_lens.models.inspect import inspect_checkpoint
from moe_lens.observing import tokens_of
from moe_lens.policies import KeepTopK, Renorm
from moe_lens.study.calibration import fit_scales
from moe_lens.study.frontier import FrontierSpec, frontier, sizes_of, split_documents
from moe_lens.study.result import Study
from moe_lens.study.spec import StudySpec
from tests.study.conftest import contents

POLICIES = ("k:1", "min-p:0.5", "naee", "entropy:50%=1", "dp:2", "dp:1.5:none", "scale:1",
            "budget:3@2")  # fmt: skip


@pytest.fixture(scope="module")
def spec(tiny_spec: StudySpec) -> FrontierSpec:
    return FrontierSpec(
        tiny_spec.model,
        tiny_spec.text,
        policies=POLICIES,
        step_sequences=2,
        batch_tokens=64,
        chunk_tokens=500,
    )


@pytest.fixture(scope="module")
def finished(spec: FrontierSpec, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return frontier(spec, tmp_path_factory.mktemp("frontier") / "run")


def rows(study: Study, domain: str = "all") -> dict[str, dict[str, float]]:
    table = study.frontier.filter(pl.col("domain") == domain)
    return {row["policy"]: row for row in table.iter_rows(named=True)}


def test_it_writes_its_manifest_its_policies_and_its_tables(finished: Study) -> None:
    assert finished.tables == ["evaluation", "frontier", "reduction"]
    assert finished.manifest["kind"] == "frontier"
    assert finished.manifest["policies"] == ["full", *POLICIES]
    names = {path.name for path in finished.directory.iterdir()}
    assert names == {"manifest.json", "policies.json", "tables"}
    policies = json.loads((finished.directory / "policies.json").read_text())
    assert policies["k:1"] == {"policy": "keep_top_k", "k": 1, "renorm": "native"}
    assert set(policies["naee"]["threshold"]) == {"1", "2"}
    assert policies["scale:1"]["of"][1]["policy"] == "scale_weights"


def test_calibration_text_is_not_evaluated(finished: Study) -> None:
    # Eight documents a domain: the fourth and the eighth are fitted on.
    evaluated = finished.table("evaluation").filter(pl.col("policy") == "full")
    assert evaluated.height == 12
    calibration = finished.manifest["calibration"]
    assert calibration["domains"]["left"]["num_documents"] == 2
    assert finished.manifest["corpus"]["domains"]["left"]["num_documents"] == 6
    assert finished.table("reduction")["num_tokens"].unique().to_list() == [2 * (23 + 27)]


def test_the_allocation_is_the_best_of_all_and_spends_its_budget(finished: Study) -> None:
    """Oracle: every allocation, by the errors of the table."""
    reduction = finished.table("reduction")
    chosen = json.loads((finished.directory / "policies.json").read_text())
    for name, renorm, budget in (("dp:2", "native", 4), ("dp:1.5:none", "none", 3)):
        errors = {
            (row["layer"], row["k"]): row["error"]
            for row in reduction.filter(pl.col("renorm") == renorm).iter_rows(named=True)
        }
        options = [
            (errors[1, a] + errors[2, b], a, b)
            for a, b in product((1, 2, 3), repeat=2)
            if a + b <= budget
        ]
        _, a, b = min(options)
        assert chosen[name]["k"] == {"1": a, "2": b}
        assert rows(finished)[name]["mean_k"] == pytest.approx((a + b) / 2)


def test_scales_are_those_fitted_on_the_calibration_text_alone(
    finished: Study, spec: FrontierSpec
) -> None:
    model = load_model(spec.model.model)
    corpus = split_documents(load_corpus(spec.text.corpus)).fitted
    text = batches(tokens_of(model, corpus), batch_tokens=1000)
    expected = fit_scales(model, text, KeepTopK(1, Renorm.NONE))
    policies = json.loads((finished.directory / "policies.json").read_text())
    found = policies["scale:1"]["of"][1]["scale"]
    assert found == pytest.approx({str(layer): s for layer, s in expected.items()}, rel=1e-5)


def test_work_is_what_the_policies_leave(finished: Study, spec: FrontierSpec) -> None:
    found = rows(finished)
    assert found["full"]["mean_k"] == found["budget:3@2"]["mean_k"] == 3
    assert found["k:1"]["mean_k"] == found["scale:1"]["mean_k"] == 1
    assert 1 < found["min-p:0.5"]["mean_k"] < 3
    assert found["budget:3@2"]["distinct_experts_measured"] == 3
    assert found["full"]["distinct_experts_measured"] > 3
    facts = inspect_checkpoint(spec.model.model)
    assert found["full"]["active_parameters_theoretical"] == facts.active_parameters
    gone = facts.active_parameters - found["k:1"]["active_parameters_theoretical"]
    assert gone == 2 * facts.split.routed / 12  # two experts of twelve fewer
    sizes = sizes_of(load_model(spec.model.model))
    assert sizes.lookup_parameters == facts.split.embedding / 2
    assert found["full"]["loss_ratio"] == 1
    assert rows(finished, "left")["k:1"]["num_documents"] == 6


class _StopError(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 3, 6])
def test_a_frontier_that_stops_goes_on_and_ends_the_same(
    finished: Study, spec: FrontierSpec, tmp_path: Path, after: int
) -> None:
    seen = 0

    @contextmanager
    def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
        def advance(num_tokens: int) -> None:
            nonlocal seen
            if seen == after:
                raise _StopError
            seen += 1

        yield advance

    with pytest.raises(_StopError):
        frontier(spec, tmp_path / "run", progress=progress)
    with pytest.raises(InputError, match="a run that is not finished"):
        Study(tmp_path / "run")
    again = frontier(spec, tmp_path / "run")
    assert contents(again.directory) == contents(finished.directory)
    assert contents(frontier(spec, tmp_path / "run").directory) == contents(finished.directory)


def test_calibration_text_of_ones_own(spec: FrontierSpec, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"text": f"w5 w6 w7 w{i} w9"}) for i in range(10, 14)))
    told = replace(spec, policies=("scale:1",), calibration=replace(spec.text, corpus=str(other)))
    study = frontier(told, tmp_path / "run")
    assert study.table("evaluation").filter(pl.col("policy") == "full").height == 16
    assert study.manifest["calibration"]["num_tokens"] == 20
    same = replace(told, calibration=spec.text)
    with pytest.raises(InputError, match="16 documents are in the corpus and in the calibration"):
        frontier(same, tmp_path / "no")


def test_without_fitted_policies_everything_is_evaluated(
    spec: FrontierSpec, tmp_path: Path
) -> None:
    study = frontier(replace(spec, policies=("k:1",)), tmp_path / "run")
    assert study.tables == ["evaluation", "frontier"]
    assert study.manifest["calibration"] is None
    assert rows(study)["k:1"]["num_documents"] == 16


def test_the_default_set_runs(spec: FrontierSpec, tmp_path: Path) -> None:
    text = replace(spec.text, max_tokens=80)
    study = frontier(replace(spec, policies=None, text=text), tmp_path / "run")
    families = set(study.frontier["family"])
    assert {"full", "k", "k:keep_mass", "scale", "dp", "min-p", "top-p", "naee", "entropy",
            "budget"} <= families  # fmt: skip


def test_refusals(spec: FrontierSpec, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="policy 'k:x'"):
        replace(spec, policies=("k:x",))
    with pytest.raises(InputError, match="step_sequences = 0: give at least 1"):
        replace(spec, step_sequences=0)
    with pytest.raises(InputError, match="policy 'k:1' is named twice"):
        frontier(replace(spec, policies=("k:1", "k:1")), tmp_path / "run")
    with pytest.raises(InputError, match="policy 'k:9': k = 9, but the model has 3"):
        frontier(replace(spec, policies=("k:9",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    few = Corpus(tuple(Document("x", "a", str(i)) for i in range(3)), ("a",))
    with pytest.raises(InputError, match="no domain has 4 documents"):
        split_documents(few)
