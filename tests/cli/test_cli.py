"""The command line: what it prints, its exit codes, and one clear message for bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import moe_lens
from moe_lens import cli
from moe_lens.traces import read_trace
from tests.checkpoints import edit_weights, save_checkpoint, text_of


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for seed, domain in enumerate(("left", "right")):
        lines = [json.dumps({"id": str(i), "text": text_of(20 + i, seed=seed)}) for i in range(4)]
        (folder / f"{domain}.jsonl").write_text("\n".join(lines))
    return folder


def run(
    *arguments: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["moe-lens", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    seen = capsys.readouterr()
    return int(stop.value.code or 0), seen.out, seen.err


@pytest.fixture
def moe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    return lambda *arguments: run(*arguments, monkeypatch=monkeypatch, capsys=capsys)


def test_inspect_prints_what_others_rely_on(checkpoint: Path, moe) -> None:  # type: ignore[no-untyped-def]
    code, out, err = moe("inspect", checkpoint, "--json")
    facts = json.loads(out)
    expected = {
        "model_type": "deepseek",
        "num_layers": 3,
        "num_moe_layers": 2,
        "num_experts": 12,
        "top_k": 3,
        "num_shared_experts": 2,
    }
    assert {key: facts[key] for key in expected} == expected
    assert facts["parameters"] > facts["active_parameters"] > 0
    assert facts["bytes"] == 4 * facts["parameters"]
    assert (code, err) == (0, "")
    code, out, _ = moe("inspect", checkpoint)
    assert code == 0
    assert "12 routed of width 16, top 3; 2 shared" in out
    assert "routers and experts found in all 2 MoE layers" in out


def test_trace_then_usage(checkpoint: Path, corpus: Path, tmp_path: Path, moe) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "t.parquet"
    code, out, err = moe("trace", checkpoint, "--corpus", corpus, "--out", file, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    num_tokens = 2 * (20 + 21 + 22 + 23)
    assert told["num_tokens"] == num_tokens
    assert max(told["checks"].values()) < 1e-5
    trace = read_trace(file)
    assert trace.num_tokens == num_tokens
    assert trace.manifest.layers == (1, 2)
    assert trace.domains()["domain"].to_list() == ["left", "right"]
    before = file.read_bytes()
    code, out, err = moe("trace", checkpoint, "--corpus", corpus, "--out", file)
    assert (code, out, file.read_bytes()) == (2, "", before)
    assert "exists; choose another name, or replace it with --force" in err
    assert moe("trace", checkpoint, "--corpus", corpus, "--out", file, "--force")[0] == 0
    code, out, err = moe("usage", file, "--json", "--out", tmp_path / "u.parquet")
    rows = json.loads(out)
    assert (code, err, len(rows)) == (0, "", 4)
    assert {row["num_tokens"] for row in rows} == {86}
    usage = pl.read_parquet(tmp_path / "u.parquet")
    sums = usage.group_by("domain", "layer").agg(pl.col("num_tokens").sum())
    assert set(sums["num_tokens"]) == {86 * 3}
    assert usage["baseline"].to_list() == pytest.approx([3 / 12] * len(usage))
    code, out, _ = moe("usage", file)
    assert code == 0
    assert "2 MoE layers, top 3 of 12 experts" in out.replace("\n", " ")
    assert len([line for line in out.splitlines() if line.startswith(("left", "right"))]) == 2


def test_the_same_trace_whatever_the_batch(
    checkpoint: Path,
    corpus: Path,
    tmp_path: Path,
    moe,  # type: ignore[no-untyped-def]
) -> None:
    for size in (30, 4096):
        options = (
            "--corpus",
            corpus,
            "--batch-tokens",
            size,
            "--out",
            tmp_path / f"{size}.parquet",
        )
        assert moe("trace", checkpoint, *options)[0] == 0
    key = ["document", "token", "layer"]
    small, large = (pl.read_parquet(tmp_path / f"{size}.parquet").sort(key) for size in (30, 4096))
    ids = [name for name in small.columns if not name.startswith("weight")]
    assert small.select(ids).equals(large.select(ids))


BAD = [
    (("inspect", "/nowhere/at/all"), "does not exist, and is no hub id"),
    (("inspect",), "Missing argument 'model'"),
    (("usage", "/nowhere.parquet"), "/nowhere.parquet"),
    (("nonsense",), "No such command 'nonsense'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_message_and_exit_code_2(
    arguments: tuple[str, ...],
    message: str,
    moe,  # type: ignore[no-untyped-def]
) -> None:
    code, out, err = moe(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_bad_input_to_trace(checkpoint: Path, corpus: Path, tmp_path: Path, moe) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "t.parquet"
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    broken = save_checkpoint(tmp_path / "broken")
    edit_weights(broken, "lm_head.weight", float("nan"))
    cases = [
        ((checkpoint, "--corpus", tmp_path / "no.txt", "--out", out), "no.txt"),
        ((checkpoint, "--corpus", empty, "--out", out), "empty.txt"),
        ((broken, "--corpus", corpus, "--out", out), "the weight lm_head.weight holds a value"),
        ((checkpoint, "--corpus", corpus, "--out", out, "--context", "9999"), "was made for 128"),
        ((checkpoint, "--corpus", corpus, "--out", out, "--dtype", "int3"), "dtype 'int3'"),
        ((checkpoint, "--corpus", corpus, "--out", tmp_path / "no" / "t"), "does not exist"),
        (
            (checkpoint, "--corpus", corpus, "--out", out, "--context", "16", "--on-long", "error"),
            "16",
        ),
    ]
    for arguments, message in cases:
        code, printed, err = moe("trace", *arguments)
        assert (code, printed) == (2, ""), err
        assert message in err
        assert err.count("\n") == 1, err
    assert not out.exists()
    assert not list(tmp_path.glob(".*partial"))


def test_version(moe) -> None:  # type: ignore[no-untyped-def]
    assert moe("--version")[1] == f"moe-lens {moe_lens.__version__}\n"


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; sys.argv = ['moe-lens', 'trace', '--help']\n"
        "from moe_lens.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--corpus" in done.stdout


def test_run_writes_tables_and_a_report_and_report_writes_it_again(
    checkpoint: Path,
    corpus: Path,
    tmp_path: Path,
    moe,  # type: ignore[no-untyped-def]
) -> None:
    out = tmp_path / "run"
    options = ("--corpus", corpus, "--out", out, "--lens-positions", "5", "--json")
    code, printed, err = moe("run", checkpoint, *options)
    assert (code, err) == (0, "")
    told = json.loads(printed)
    page = Path(told["report"])
    assert page == out / "report.html"
    assert {"claims", "lens", "perplexity", "similarity", "specialization"} <= set(told["tables"])
    text = page.read_text(encoding="utf-8")
    assert str(checkpoint) in text
    page.unlink()
    code, printed, err = moe("report", out)
    assert (code, printed, err) == (0, f"report: {page}\n", "")
    assert page.read_text(encoding="utf-8") == text
    code, printed, _ = moe("run", checkpoint, *options[:-1])
    assert code == 0
    assert "the claim" in printed or "cannot be told" in printed


def test_bad_input_to_run(checkpoint: Path, corpus: Path, tmp_path: Path, moe) -> None:  # type: ignore[no-untyped-def]
    spec = tmp_path / "s.toml"
    spec.write_text('[model]\nmodel = "x"\n[text]\ncorpus = "y"\n')
    out = tmp_path / "out"
    cases = [
        (("--out", out), "name the model and --corpus"),
        ((checkpoint, "--corpus", corpus, "--spec", spec, "--out", out), "leave them out here"),
        (("--spec", tmp_path / "no.toml", "--out", out), "does not exist"),
        ((checkpoint, "--corpus", corpus, "--out", out, "--measure", "taste"), "measure 'taste'"),
        ((checkpoint, "--corpus", corpus, "--out", out, "--k", "7"), "has 3 active experts"),
    ]
    for arguments, message in cases:
        code, printed, err = moe("run", *arguments)
        assert (code, printed) == (2, ""), err
        assert message in err
    code, _, err = moe("report", tmp_path)
    assert code == 2
    assert "no manifest, so this is not the directory of a run" in err


def test_score_writes_tables_and_says_what_they_are_worth(
    checkpoint: Path,
    corpus: Path,
    tmp_path: Path,
    moe,  # type: ignore[no-untyped-def]
) -> None:
    out = tmp_path / "scores"
    options = ("--corpus", corpus, "--out", out, "--criterion", "reap", "--criterion", "aimer")
    code, printed, err = moe("score", checkpoint, *options)
    assert (code, err) == (0, "")
    lines = printed.splitlines()
    assert any(line.startswith("reap") and "%" in line for line in lines)
    assert lines[-2] == f"scores: {out / 'tables' / 'importance.parquet'}"
    assert lines[-1] == f"report: {out / 'report.html'}"
    assert "What is each expert worth?" in (out / "report.html").read_text()
    code, printed, _ = moe("score", checkpoint, *options, "--json")
    assert code == 0
    assert json.loads(printed)["skipped"] == {}
    table = pl.read_parquet(out / "tables" / "importance.parquet")
    assert set(table["criterion"]) == {"reap", "aimer"}
    for arguments, message in (
        (("--criterion", "reep"), "criterion 'reep' is not one of frequency"),
        (("--criterion", "reap"), "holds another run: spec differ"),
    ):
        code, printed, err = moe("score", checkpoint, "--corpus", corpus, "--out", out, *arguments)
        assert (code, printed) == (2, "")
        assert message in err


def test_frontier_says_what_policies_cost_and_report_writes_it_again(
    checkpoint: Path,
    corpus: Path,
    tmp_path: Path,
    moe,  # type: ignore[no-untyped-def]
) -> None:
    out = tmp_path / "frontier"
    options = ("--corpus", corpus, "--out", out, "--policy", "k:1", "--policy", "dp:1.5")
    code, printed, err = moe("frontier", checkpoint, *options, "--step-sequences", "2", "--json")
    assert (code, err) == (0, "")
    told = json.loads(printed)
    assert told["tables"] == ["evaluation", "frontier", "reduction"]
    page = Path(told["report"])
    text = page.read_text(encoding="utf-8")
    assert "What does each expert that is left out cost?" in text
    assert "Which experts work for which text?" not in text
    assert 'id="claims"' not in text
    page.unlink()
    assert moe("report", out)[0] == 0
    assert page.read_text(encoding="utf-8") == text
    code, printed, _ = moe("frontier", checkpoint, *options, "--step-sequences", "2")
    assert code == 0
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    assert lines["full"][:2] == ["1.0000", "1.0000"]
    assert lines["k:1"][5] == "1.00"


def test_bad_input_to_frontier(checkpoint: Path, corpus: Path, tmp_path: Path, moe) -> None:  # type: ignore[no-untyped-def]
    common = (checkpoint, "--corpus", corpus, "--out", tmp_path / "out")
    cases = [
        (("--policy", "tok-p:1"), "policy 'tok-p:1': 'tok-p' is not one of k, layers"),
        (("--policy", "min-p:2"), "'2' is not a part, from 0 to 1; write it as in min-p:0.3"),
        (("--policy", "k:4"), "k = 4, but the model has 3 active experts"),
        (("--policy", "layers:1,2,3"), "3 numbers for 2 MoE layers"),
        (("--policy", "scale:1", "--calibration", str(corpus)), "8 documents are in the corpus"),
        (("--step-sequences", "0"), "step_sequences = 0: give at least 1"),
    ]
    for options, message in cases:
        code, printed, err = moe("frontier", *common, *options)
        assert (code, printed) == (2, ""), err
        assert message in err
        assert err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()
