"""Tables of per-token routing that others recorded, in our columns but without our metadata."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from moe_lens.errors import TraceError
from moe_lens.traces.manifest import TraceManifest
from moe_lens.traces.table import REQUIRED


def sorted_rows(path: str | Path, *, num_experts: int) -> tuple[pl.DataFrame, TraceManifest]:
    """The rows in trace order, and a manifest of what they tell.

    The format of the routing that ESFT released: domain, document, token, layer, expert_0 ..,
    weight_0 .., slots in any order. A table without domains has the one domain "all".

    Raises:
        TraceError: A column that everything stands on is missing, or there are no rows.
    """
    name = str(path)
    try:
        rows = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise TraceError(f"{name}: the rows cannot be read ({error})") from error
    for column in (*REQUIRED, "expert_0"):
        if column not in rows.columns:
            raise TraceError(
                f"{name}: column {column!r} is missing; a table of routing has "
                f"{', '.join(REQUIRED)}, expert_0 .. and, where known, domain, token_id, "
                f"weight_0 .. (docs/trace-schema.md)"
            )
    if len(rows) == 0:
        raise TraceError(f"{name}: the trace is empty; record at least one token")
    if "domain" not in rows.columns:
        rows = rows.with_columns(domain=pl.lit("all"))
    manifest = TraceManifest(
        model="unknown",
        num_experts=num_experts,
        top_k=sum(column.startswith("expert_") for column in rows.columns),
        layers=tuple(rows["layer"].unique().sort().to_list()),
        has_weights="weight_0" in rows.columns,
        provenance={"format": "table without moe-lens metadata"},
    )
    return rows.sort("domain", "document", "token", "layer"), manifest
