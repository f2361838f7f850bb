"""A simulation equals the exported model, its controls are fair, and a kill loses little."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moe_lens.corpus import load_corpus
from moe_lens.errors import InputError
from moe_lens.loading import load_model
from moe_lens.observing import tokens_of
from moe_lens.policies import Chain, DropExperts, KeepTopK, MaskExperts, ScaleWeights
from moe_lens.prune import simulation as module
from moe_lens.prune.export import export
from moe_lens.prune.plan import Plan
from moe_lens.prune.simulation import (
    SimulationSpec,
    controls_of,
    plan_table,
    read_simulation,
    simulate,
)
from moe_lens.study.evaluation import evaluate
from moe_lens.study.spec import ModelSpec, TextSpec
from tests.checkpoints import save_checkpoint, text_of
from tests.prune.cases import random_plan


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("simulation") / "model")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for seed, domain in enumerate(("left", "right")):
        lines = [json.dumps({"text": text_of(20 + i, seed=10 * seed + i)}) for i in range(6)]
        (folder / f"{domain}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def plan(checkpoint: Path) -> Plan:
    made = random_plan(checkpoint)
    order = {layer: tuple(reversed(range(12))) for layer in made.model.layers}
    return replace(made, frequency_order=order, calibration={"domains": {"left": {}}})


def spec_of(checkpoint: Path, corpus: Path, **changes: object) -> SimulationSpec:
    text = TextSpec(str(corpus))
    return SimulationSpec(ModelSpec(str(checkpoint)), text, num_random=2, **changes)  # type: ignore[arg-type]


def test_the_exported_model_has_the_simulated_perplexity(
    checkpoint: Path, corpus: Path, plan: Plan, tmp_path: Path
) -> None:
    found = simulate(spec_of(checkpoint, corpus), plan, tmp_path / "sim")
    export(checkpoint, plan, tmp_path / "small")
    small = load_model(tmp_path / "small")
    alone = evaluate(small, tokens_of(small, load_corpus(corpus)), {}).documents
    for domain in ("left", "right"):
        rows = alone.filter(pl.col("domain") == domain)
        nll = rows["nll_nats"].sum() / rows["num_tokens"].sum()
        simulated = found.table.filter((pl.col("policy") == "plan") & (pl.col("domain") == domain))[
            "nll_nats"
        ][0]
        assert simulated == pytest.approx(nll, rel=1e-6)
    dropped = found.table.filter((pl.col("policy") == "drop") & (pl.col("domain") == "all"))
    kept = found.table.filter((pl.col("policy") == "plan") & (pl.col("domain") == "all"))
    assert abs(dropped["nll_nats"][0] - kept["nll_nats"][0]) > 1e-3  # zeroing is not pruning
    assert kept["text"][0] == "mixed"
    assert read_simulation(tmp_path / "sim", plan)["rows"][0]["domain"] == "all"
    with pytest.raises(InputError, match="simulated another plan: keep differ"):
        read_simulation(tmp_path / "sim", random_plan(checkpoint, seed=9))
    with pytest.raises(InputError, match="holds no finished simulation"):
        read_simulation(tmp_path, plan)


def test_controls_have_the_plan_s_size_and_settings(plan: Plan) -> None:
    changed = replace(plan, top_k=2, scale={1: 1.5, 2: 0.5})
    found = controls_of(changed, seed=4, num_random=2)
    assert list(found) == ["plan", "frequency", "random:4", "random:5", "drop"]
    masked = {}
    for name, (_, policy) in found.items():
        assert isinstance(policy, Chain)
        removal = next(p for p in policy.policies if isinstance(p, MaskExperts | DropExperts))
        assert KeepTopK(2) in policy.policies
        assert policy.policies[-1] == ScaleWeights({1: 1.5, 2: 0.5})
        masked[name] = removal.experts
        assert all(len(ids) == 4 for ids in removal.experts.values())
    assert masked["plan"] == masked["drop"] == plan.masked
    assert masked["frequency"] == {1: (0, 1, 2, 3), 2: (0, 1, 2, 3)}  # order is 11, 10, ..., 0
    assert masked["random:4"] != masked["random:5"]


def test_a_simulation_that_was_stopped_goes_on_to_the_same_table(
    checkpoint: Path, corpus: Path, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(checkpoint, corpus, batch_tokens=40, chunk_tokens=120)
    whole = simulate(spec, plan, tmp_path / "whole")
    real = module.evaluate

    def stopped(*arguments, progress, **options):  # type: ignore[no-untyped-def]
        seen = 0

        def stop(num_tokens: int) -> None:
            nonlocal seen
            seen += num_tokens
            if seen > 600:
                raise KeyboardInterrupt

        return real(*arguments, progress=stop, **options)

    monkeypatch.setattr(module, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        simulate(spec, plan, tmp_path / "again")
    assert not (tmp_path / "again" / "tables" / "simulation.parquet").exists()
    assert list((tmp_path / "again" / "state").iterdir())
    monkeypatch.setattr(module, "evaluate", real)
    assert simulate(spec, plan, tmp_path / "again").table.equals(whole.table)
    same = [
        (tmp_path / n / "tables" / "simulation.parquet").read_bytes() for n in ("whole", "again")
    ]
    assert same[0] == same[1]
    assert not (tmp_path / "again" / "state").exists()
    with pytest.raises(InputError, match="holds another run: plan"):
        simulate(spec, random_plan(checkpoint, seed=5), tmp_path / "again")


def test_a_plan_for_another_model_is_refused(corpus: Path, plan: Plan, tmp_path: Path) -> None:
    other = save_checkpoint(tmp_path / "other", "olmoe")
    with pytest.raises(InputError, match=r"does not fit .*other: model_type is deepseek in the"):
        simulate(spec_of(other, corpus), plan, tmp_path / "sim")


def test_calibration_text_is_told(
    checkpoint: Path, corpus: Path, plan: Plan, tmp_path: Path
) -> None:
    sha = load_corpus(corpus).sha256
    scored = {"sha256": sha, "domains": {"left": {}, "right": {}}}
    same = replace(plan, calibration=scored)
    found = simulate(spec_of(checkpoint, corpus), same, tmp_path / "sim")
    assert set(found.table["text"]) == {"calibration"}


def test_uneven_plans_are_simulated(
    checkpoint: Path, corpus: Path, plan: Plan, tmp_path: Path
) -> None:
    keep = {1: tuple(range(5)), 2: tuple(range(9))}
    uneven = replace(plan, keep=keep, budget=replace(plan.budget, shape="custom"))
    found = simulate(spec_of(checkpoint, corpus), uneven, tmp_path / "sim")
    assert np.isfinite(found.table["loss_ratio"].to_numpy()).all()
    table = plan_table(uneven)
    assert table.group_by("layer").agg(pl.col("kept").sum()).sort("layer")["kept"].to_list() == [
        5,
        9,
    ]
    assert table.filter(pl.col("layer") == 1)["frequency_rank"].to_list() == list(range(11, -1, -1))
