"""`moe-lens compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from moe_lens.cli import show
from moe_lens.cli.options import JsonOption


def compare(
    run_a: Annotated[Path, typer.Argument(help="A finished run: the base, for example.")],
    run_b: Annotated[Path, typer.Argument(help="Another: its chat tune, or another model.")],
    out: Annotated[Path, typer.Option(help="The comparison's directory.")],
    other_text: Annotated[
        bool, typer.Option("--other-text", help="Compare runs on other text all the same.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how two models differ on the same text: tables with intervals, and a report."""
    from moe_lens.report import write_report
    from moe_lens.study.comparison import compare as compare_runs

    tables = compare_runs(run_a, run_b, out, other_text=other_text)
    file = write_report(out)
    if as_json:
        sizes = {name: table.height for name, table in tables.items()}
        show.line(json.dumps({"comparison": str(out), "tables": sizes, "report": str(file)}))
    else:
        show.line(f"report: {file}")
