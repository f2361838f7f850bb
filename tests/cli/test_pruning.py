"""`plan` and `prune` as a user runs them; what they say, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from transformers import AutoModelForCausalLM

from moe_lens.cli.app import main
from tests.checkpoints import save_checkpoint, text_of
from tests.prune.cases import checkpoint_of


@pytest.fixture
def moe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["moe-lens", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        code = stop.value.code
        return (code if isinstance(code, int) else 0), out, err

    return run


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return checkpoint_of(tmp_path / "model", "olmoe")


def test_from_a_model_to_a_smaller_one(checkpoint: Path, tmp_path: Path, moe) -> None:  # type: ignore[no-untyped-def]
    plan, out = tmp_path / "plan.json", tmp_path / "small"
    code, told, err = moe("plan", checkpoint, "--keep", 8, "--criterion", "random", "--out", plan)
    assert (code, err) == (0, "")
    assert "8 of 12 experts stay in each of 3 layers, by random (seed 0)" in told
    code, told, err = moe("prune", checkpoint, "--plan", plan, "--out", out, "--json")
    assert code == 0, err
    values = json.loads(told)
    assert values["num_experts"] == [12, 8]
    assert values["verification"]["error"] <= 1e-5
    assert AutoModelForCausalLM.from_pretrained(out).config.num_experts == 8
    code, told, _ = moe("prune", checkpoint, "--plan", plan, "--out", tmp_path / "b", "--no-verify")
    assert code == 0
    assert "not verified (--no-verify)" in told


def test_fewer_active_experts_with_their_mass_given_back(tmp_path: Path, moe) -> None:  # type: ignore[no-untyped-def]
    model, words = save_checkpoint(tmp_path / "model"), tmp_path / "words.txt"
    words.write_text(text_of(60))
    plan, scaled = tmp_path / "plan.json", tmp_path / "scaled.json"
    asked = ("--keep", 12, "--criterion", "random", "--top-k", 1, "--out", plan)
    assert moe("plan", model, *asked)[0] == 0
    where = ("--plan", plan, "--corpus", words, "--out", scaled)
    code, told, err = moe("compensate", model, *where)
    assert (code, err) == (0, "")
    assert "1 of 3 active experts; factors on the routed sum:" in told
    fitted = json.loads(scaled.read_text())
    assert set(fitted["scale"]) == {"1", "2"}
    assert moe("compensate", model, *where, "--engine", "streaming")[0] == 0
    assert json.loads(scaled.read_text()) == fitted
    code, told, err = moe("prune", model, "--plan", scaled, "--out", tmp_path / "fewer", "--json")
    assert code == 0, err
    assert json.loads(told)["verification"]["error"] <= 1e-5
    plain = tmp_path / "plain.json"
    moe("plan", model, "--keep", 8, "--criterion", "random", "--out", plain)
    where = ("--plan", plain, "--corpus", words, "--out", scaled)
    code, _, err = moe("compensate", model, *where)
    assert code == 2
    assert "plan with --top-k below that" in err


def test_scores_plan_simulation_export(tmp_path: Path, moe) -> None:  # type: ignore[no-untyped-def]
    """The whole way; the pruned checkpoint's own perplexity is the one that was simulated."""
    model = save_checkpoint(tmp_path / "model")
    for name, seed in (("scored", 0), ("other", 50)):
        (tmp_path / name).mkdir()
        for domain in ("left", "right"):
            lines = [json.dumps({"text": text_of(30, seed=seed + i)}) for i in range(6)]
            (tmp_path / name / f"{domain}.jsonl").write_text("\n".join(lines))
            seed += 6
    scores, plan, simulation = (tmp_path / n for n in ("scores", "plan.json", "simulation"))
    assert moe("score", model, "--corpus", tmp_path / "scored", "--out", scores)[0] == 0
    code, _, err = moe("plan", scores, "--keep", 8, "--domains", "left, right", "--out", plan)
    assert code == 0, err
    made = json.loads(plan.read_text())
    assert made["criterion"] == "reap"
    assert made["domains"] == ["left", "right"]
    assert len(made["model"]["routers_sha256"]) == 64
    where = ("--corpus", tmp_path / "other", "--out", simulation)
    code, told, err = moe("simulate", model, "--plan", plan, *where, "--random", 2, "--json")
    assert code == 0, err
    rows = {(r["policy"], r["domain"]): r for r in json.loads(told)["rows"]}
    assert {p for p, _ in rows} == {"plan", "frequency", "random:0", "random:1", "drop"}
    assert rows["plan", "left"]["text"] == "held-out"
    where = ("--corpus", tmp_path / "other", "--out", tmp_path / "streamed")
    more = ("--random", 2, "--json", "--engine", "streaming")
    code, streamed, err = moe("simulate", model, "--plan", plan, *where, *more)
    assert code == 0, err
    assert json.loads(streamed)["rows"] == json.loads(told)["rows"]
    page = (simulation / "report.html").read_text()
    assert "What is left after pruning?" in page
    assert "random:1" in page
    small = tmp_path / "small"
    extras = ("--simulation", simulation, "--report", tmp_path / "report")
    code, told, err = moe("prune", model, "--plan", plan, "--out", small, *extras)
    assert code == 0, err
    page = (tmp_path / "report" / "report.html").read_text()
    assert "What was written?" in page
    assert "random:1" in page
    record = json.loads((small / "moe_lens_prune.json").read_text())
    in_record = {(r["policy"], r["domain"]): r for r in record["simulation"]["rows"]}
    assert in_record["plan", "all"]["loss_ratio"] == rows["plan", "all"]["loss_ratio"]
    options = ("--measure", "perplexity", "--k", 2, "--out", tmp_path / "run", "--json")
    code, told, err = moe("run", small, "--corpus", tmp_path / "other", *options)
    assert code == 0, err
    table = pl.read_parquet(tmp_path / "run" / "tables" / "perplexity.parquet")
    own = table.filter((pl.col("domain") == "all") & (pl.col("k") == 3))["nll_nats"][0]
    assert own == pytest.approx(rows["plan", "all"]["nll_nats"], rel=1e-6)


def test_check_says_what_is_possible_before_anything_is_measured(checkpoint: Path, moe) -> None:  # type: ignore[no-untyped-def]
    code, told, _ = moe("plan", checkpoint, "--keep", 8, "--check")
    assert code == 0
    assert told.endswith("can be exported\n")
    code, told, _ = moe("plan", checkpoint, "--keep", 8, "--check", "--shape", "global", "--json")
    values = json.loads(told)
    assert values["exportable"] is False
    assert "one number for all layers in its config" in values["why_not"]
    (checkpoint / "model.safetensors").unlink()  # the config alone will do
    code, told, _ = moe("plan", checkpoint, "--keep", 8, "--check", "--json")
    assert json.loads(told)["num_bytes"] is None


def test_bad_input(checkpoint: Path, tmp_path: Path, moe) -> None:  # type: ignore[no-untyped-def]
    plan = tmp_path / "plan.json"
    moe("plan", checkpoint, "--keep", 8, "--criterion", "random", "--out", plan)
    edited = json.loads(plan.read_text())
    edited["keep"]["1"][0] = 12
    (tmp_path / "edited.json").write_text(json.dumps(edited))
    cases = [
        (
            ("plan", checkpoint, "--keep", 8, "--out", plan),
            "is no scoring run, and criterion 'reap'",
        ),
        (("plan", checkpoint, "--keep", 8, "--criterion", "random"), "name the plan's file: --out"),
        (("plan", checkpoint, "--keep", 2, "--check"), "too few experts for the 3"),
        (
            ("prune", checkpoint, "--plan", tmp_path / "no", "--out", tmp_path / "o"),
            "does not exist",
        ),
        (
            ("prune", checkpoint, "--plan", tmp_path / "edited.json", "--out", tmp_path / "o"),
            "layer 1: plan keeps expert 12, but the model has 12 (0 to 11)",
        ),
        (("prune", checkpoint, "--plan", plan, "--out", checkpoint), "model exists already"),
    ]
    for arguments, message in cases:
        code, told, err = moe(*arguments)
        assert (code, told) == (2, ""), err
        assert message in err
        assert err.count("\n") == 1
