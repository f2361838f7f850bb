"""From a scoring run's files to a plan: which scores count, and how domains combine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moe_lens.errors import InputError
from moe_lens.prune.planning import make_plan, read_scores, super_experts
from tests.prune.cases import shape_of

MODEL = shape_of(layers=(1, 2), num_experts=4, top_k=1, routers_sha256="abc")
SCORES = {
    ("all", "reap"): [[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]],
    ("code", "reap"): [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]],
    ("prose", "reap"): [[300.0, 0.0, 200.0, 100.0], [0.0, 0.0, 0.0, 400.0]],
    ("all", "frequency"): [[10.0, 40.0, 20.0, 30.0], [5.0, 5.0, 5.0, 9.0]],
    ("all", "max_abs"): [[1.0, 1.0, 90.0, 1.0], [1.0, 1.0, 1.0, 5.0]],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "scores"
    (directory / "tables").mkdir(parents=True)
    corpus = {"sha256": "ff", "num_tokens": 90, "num_counted": 80, "domains": {"code": {}}}
    manifest = {"model": MODEL.to_dict() | {"dtype": "float32"}, "corpus": corpus}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    rows = [
        (domain, layer, expert, criterion, score)
        for (domain, criterion), matrix in SCORES.items()
        for layer, row in zip(MODEL.layers, matrix, strict=True)
        for expert, score in enumerate(row)
    ]
    columns = ["domain", "layer", "expert", "criterion", "score"]
    frame = pl.DataFrame(rows, schema=columns, orient="row")
    frame.write_parquet(directory / "tables" / "importance.parquet")
    return directory


def test_a_plan_from_scores_says_where_it_comes_from(run: Path) -> None:
    plan = make_plan(run, keep=2, criterion="reap")
    assert plan.keep == {1: (0, 1), 2: (2, 3)}
    assert plan.model == MODEL
    assert plan.calibration == {
        "sha256": "ff", "num_tokens": 90, "num_counted": 80, "domains": {"code": {}},
    }  # fmt: skip
    assert plan.frequency_order == {1: (1, 3, 2, 0), 2: (3, 0, 1, 2)}
    assert (plan.criterion, plan.domains) == ("reap", ("all",))


def test_one_domain_counts_as_it_is_and_several_alike(run: Path) -> None:
    """prose has scores 100 times as large: without dividing, it alone would decide."""
    assert make_plan(run, keep=2, criterion="reap", domains=["code"]).keep[1] == (2, 3)
    assert make_plan(run, keep=2, criterion="reap", domains=["prose"]).keep[1] == (0, 2)
    # code / 2.5: .4 .8 1.2 1.6; prose / 125: 2.4 0 1.6 .8; means: 1.4 .4 1.4 1.2
    both = make_plan(run, keep=3, criterion="reap", domains=["code", "prose"])
    assert both.keep[1] == (0, 2, 3)
    scores = read_scores(run).scores("reap", ["code", "prose"])
    assert scores[1].tolist() == pytest.approx([1.4, 0.4, 1.4, 1.2])


def test_super_experts_stay(run: Path) -> None:
    plan = make_plan(run, keep=2, criterion="reap", protect_super=True)
    assert plan.budget.protected == {1: (2,)}
    assert plan.keep[1] == (0, 2)


def test_super_experts_stand_out_from_all_layers_and_reach_a_tenth_of_the_largest() -> None:
    """1,000 experts: the 99.5th percentile leaves five; of those, one is below a tenth."""
    peaks = np.ones((2, 500))
    peaks[0, :3], peaks[1, 7], peaks[1, 9] = (50.0, 60.0, 100.0), 11.0, 9.0
    found = super_experts({1: peaks[0], 2: peaks[1]})
    assert found == {1: (0, 1, 2), 2: (7,)}


def test_random_needs_no_scores_and_is_of_its_seed(run: Path) -> None:
    plans = [make_plan(run, keep=2, criterion="random", seed=seed) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    assert plans[0].criterion == "random (seed 0)"
    assert plans[0].frequency_order is not None


def test_what_was_not_measured_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"criterion 'magic' was not measured .* reap, frequency"):
        make_plan(run, keep=2, criterion="magic")
    with pytest.raises(InputError, match=r"domain 'law' is not in .*; it has all, code, prose"):
        make_plan(run, keep=2, criterion="reap", domains=["law"])
    with pytest.raises(InputError, match="shape 'round' is not one of uniform, global"):
        make_plan(run, keep=2, criterion="reap", shape="round")
    (run / "tables" / "importance.parquet").unlink()
    with pytest.raises(InputError, match="it is no scoring run, or one that is not finished"):
        make_plan(run, keep=2, criterion="reap")
    with pytest.raises(InputError, match="is no scoring run: it has no manifest"):
        read_scores(tmp_path)


def test_scores_of_experts_that_are_not_there(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["model"]["num_experts"] = 3
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="a score of expert 3 of layer 1, which the model"):
        make_plan(run, keep=2, criterion="reap")


def test_global_plans_differ_between_layers(run: Path) -> None:
    plan = make_plan(run, keep=2, criterion="max_abs", shape="global")
    assert plan.keep == {1: (0, 1, 2), 2: (3,)}
