"""`moe-lens usage`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from moe_lens.cli import show
from moe_lens.cli.options import JsonOption


def usage(
    path: Annotated[Path, typer.Argument(help="A trace: of `moe-lens trace`, or from elsewhere.")],
    num_experts: Annotated[
        int | None,
        typer.Option(help="Experts of a layer, for a trace that does not say so itself."),
    ] = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="A row for each layer, not their mean.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write usage per expert to this Parquet file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say from a trace which experts each domain uses; no model is needed."""
    from moe_lens.traces import read_trace
    from moe_lens.traces.summary import summary_by_domain, usage_by_domain

    recorded = read_trace(path, num_experts=num_experts)
    table = summary_by_domain(recorded)
    if as_json:
        show.line(json.dumps(table.to_dicts()))
    else:
        show.usage(recorded, table, per_layer=per_layer)
    if out is not None:
        usage_by_domain(recorded).write_parquet(out)
