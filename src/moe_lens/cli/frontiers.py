"""`moe-lens frontier` without its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table
from rich.text import Text

from moe_lens.cli import show
from moe_lens.cli.quiet import quiet_transformers
from moe_lens.study.frontier import FrontierSpec, frontier
from moe_lens.study.result import Study


def run_frontier(spec: FrontierSpec, out: Path, *, progress: Any) -> Study:
    """Run it, in quiet: only our own progress is shown."""
    quiet_transformers()
    return frontier(spec, out, progress=progress)


def show_frontier(table: pl.DataFrame) -> None:
    """Every policy over all documents: what it loses, and how many experts work."""
    out = show._out()
    out.print(
        Text(
            "Perplexity as a multiple of the full model's on the same tokens, with its 95 % "
            "interval from resampling documents; experts per token; distinct experts of a layer "
            "in a decoding step. *: no policy with as few experts loses less.",
            style="dim",
        )
    )
    shown = Table(box=None, pad_edge=False)
    shown.add_column("policy")
    for name in ("loss ratio", "from", "to", "KL nats", "same top", "experts", "in a step", ""):
        shown.add_column(name, justify="right")
    for row in table.filter(pl.col("domain") == "all").iter_rows(named=True):
        columns = ("loss_ratio", "loss_ratio_low", "loss_ratio_high", "kl_nats")
        cells = ["-" if row[name] is None else f"{row[name]:.4f}" for name in columns]
        distinct = row["distinct_experts_measured"]
        cells += [
            f"{row['agreement']:.1%}",
            f"{row['mean_k']:.2f}",
            "-" if distinct is None else f"{distinct:.1f}",
            "*" if row["pareto"] else "",
        ]
        shown.add_row(Text(row["policy"]), *(Text(cell) for cell in cells))
    out.print(shown)
