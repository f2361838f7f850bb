"""An export's own report: what was changed, and how it was checked."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from moe_lens.errors import InputError
from moe_lens.prune.export import export
from moe_lens.prune.exported_run import export_table, write_exported
from moe_lens.report import write_report
from tests.prune.cases import checkpoint_of, random_plan


def test_the_report_says_what_changed_and_how_it_was_checked(tmp_path: Path) -> None:
    original = checkpoint_of(tmp_path / "m", "olmoe")
    plan = random_plan(original, top_k=2)
    done = export(original, plan, tmp_path / "out")
    table = export_table(done, plan)
    rows = {row["quantity"]: row for row in table.to_dicts()}
    assert (rows["experts of a layer"]["before"], rows["experts of a layer"]["after"]) == (12, 8)
    assert rows["active experts of a token"]["after"] == 2
    assert rows["bytes of weights"]["after"] == done.num_bytes[1]
    assert "allowed 1e-05; 192 tokens" in rows["difference from the simulation"]["note"]
    write_exported(tmp_path / "run", done, plan, simulation=None)
    page = write_report(tmp_path / "run", figures=()).read_text(encoding="utf-8")
    assert "What was written?" in page
    assert "bytes of weights" in page
    assert pl.read_parquet(tmp_path / "run" / "tables" / "plan.parquet")["kept"].sum() == 24
    with pytest.raises(InputError, match="run exists already; give --report a directory"):
        write_exported(tmp_path / "run", done, plan, simulation=None)


def test_an_export_that_was_not_verified_says_so(tmp_path: Path) -> None:
    original = checkpoint_of(tmp_path / "m", "olmoe")
    plan = random_plan(original)
    done = export(original, plan, tmp_path / "out", check=False)
    assert export_table(done, plan)["note"].to_list()[-1] == "not verified (--no-verify)"
