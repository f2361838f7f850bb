"""`moe-lens report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from moe_lens.cli import show
from moe_lens.cli.options import JsonOption


def report(
    directory: Annotated[
        Path, typer.Argument(help="What `moe-lens run`, `score` or `compare` wrote.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Write the report and figures of a run again, from its files alone."""
    from moe_lens.report import write_report

    file = write_report(directory)
    show.line(json.dumps({"report": str(file)}) if as_json else f"report: {file}")
