"""Two runs compared: what is the same, what differs, and what cannot be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from moe_lens.errors import InputError
from moe_lens.report import write_report
from moe_lens.study.comparison import compare
from moe_lens.study.result import Study
from moe_lens.study.run import run
from moe_lens.study.spec import ModelSpec, StudySpec
from tests.checkpoints import save_checkpoint


@pytest.fixture(scope="module")
def base(tiny_spec: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = replace(tiny_spec, measures=("routing", "perplexity"))
    return run(spec, tmp_path_factory.mktemp("base") / "run").directory


@pytest.fixture(scope="module")
def other(tiny_spec: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    model = ModelSpec(str(save_checkpoint(folder / "model", seed=7)), device="cpu")
    spec = replace(tiny_spec, model=model, measures=("routing", "perplexity"))
    return run(spec, folder / "run").directory


def test_a_model_does_not_differ_from_itself(base: Path, tiny_spec: StudySpec, tmp_path: Path):
    spec = replace(tiny_spec, measures=("routing", "perplexity"), batch_tokens=32)
    again = run(spec, tmp_path / "again").directory
    found = compare(base, again, tmp_path / "out")
    assert set(found) == {
        "compared_identity", "compared_specialization", "compared_concentration",
        "compared_perplexity",
    }  # fmt: skip
    assert found["compared_specialization"]["difference"].abs().max() == 0
    assert set(found["compared_specialization"]["verdict"]) == {"not told"}
    assert found["compared_concentration"]["n50_share_difference"].abs().max() == 0
    assert found["compared_identity"]["correlation"].to_list() == pytest.approx([1, 1])
    assert found["compared_perplexity"]["change"].to_list() == pytest.approx(
        [1.0] * found["compared_perplexity"].height
    )


def test_differences_are_those_of_the_runs_own_tables(base: Path, other: Path, tmp_path: Path):
    out = tmp_path / "out"
    compare(base, other, out)
    changes = pl.read_parquet(out / "tables" / "compared_specialization.parquet")
    rates = {
        side: {
            (d, layer, e): rate
            for d, layer, e, rate in Study(run)
            .specialization.select("domain", "layer", "expert", "rate")
            .iter_rows()
        }
        for side, run in (("a", base), ("b", other))
    }
    assert changes.height == len(rates["a"]) == 2 * 2 * 12
    for row in changes.iter_rows(named=True):
        key = (row["domain"], row["layer"], row["expert"])
        assert row["difference"] == pytest.approx(rates["b"][key] - rates["a"][key])
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["comparison"]["a"]["run"] == str(base)
    assert (
        manifest["comparison"]["a"]["weights_sha256"]
        != (manifest["comparison"]["b"]["weights_sha256"])
    )
    page = write_report(out, figures=()).read_text()
    assert "Which experts changed their work?" in page
    compare(base, other, out)  # a comparison may be made again


def test_runs_that_cannot_be_compared_are_refused(
    base: Path, other: Path, tiny_spec: StudySpec, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="would be compared with itself"):
        compare(base, base, out)
    with pytest.raises(InputError, match="holds no run"):
        compare(base, tmp_path, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no comparison"):
        compare(base, other, tmp_path / "full")
    with pytest.raises(InputError, match="is not empty and holds no comparison"):
        compare(base, other, base)
    fewer = replace(tiny_spec, text=replace(tiny_spec.text, max_documents=5), measures=("routing",))
    short = run(fewer, tmp_path / "short").directory
    with pytest.raises(InputError, match=r"on other text \(corpus: sha256 differ\).*--other-text"):
        compare(base, short, out)
    assert "compared_specialization" in compare(base, short, out, other_text=True)
    only = replace(tiny_spec, measures=("perplexity",))
    with pytest.raises(InputError, match="no table in common"):
        compare(short, run(only, tmp_path / "only").directory, out, other_text=True)


def test_runs_without_a_common_domain_are_refused(
    base: Path, tiny_spec: StudySpec, tmp_path: Path
) -> None:
    (tmp_path / "text").mkdir()
    source = Path(tiny_spec.text.corpus) / "left.jsonl"
    (tmp_path / "text" / "elsewhere.jsonl").write_bytes(source.read_bytes())
    text = replace(tiny_spec.text, corpus=str(tmp_path / "text"))
    spec = replace(tiny_spec, text=text, measures=("routing",))
    elsewhere = run(spec, tmp_path / "elsewhere").directory
    with pytest.raises(InputError, match=r"share no domain \(left, right; elsewhere\)"):
        compare(base, elsewhere, tmp_path / "out", other_text=True)
