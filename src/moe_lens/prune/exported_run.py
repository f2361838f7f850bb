"""What an export did, as a run of its own: the tables that its report is written from."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl

import moe_lens
from moe_lens.errors import InputError
from moe_lens.prune.export import Exported
from moe_lens.prune.plan import Plan
from moe_lens.prune.simulation import PLAN_TABLE, SIMULATION, plan_table
from moe_lens.study.files import MANIFEST, TABLES, write_json, write_table

EXPORT = "export"


def check_report(directory: Path) -> None:
    """Prove that a report's directory can be written, before the export is made.

    Raises:
        InputError: Something lies there.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} exists already; give --report a directory that is new")


def write_exported(directory: Path, done: Exported, plan: Plan, *, simulation: Path | None) -> None:
    """Write tables `export`, `plan` and, of what was simulated, `simulation`.

    Args:
        directory: Where to; a run that is there is never changed.
        done: The export.
        plan: What was exported.
        simulation: The directory of its simulation.
    """
    check_report(directory)
    manifest = {
        "kind": EXPORT,
        "schema_version": 1,
        "model": plan.model.to_dict(),
        "plan": plan.to_dict(),
        "exported_to": str(done.directory),
        "versions": {"moe_lens": moe_lens.__version__},
    }
    write_json(directory / MANIFEST, manifest)
    if simulation is not None:
        (directory / TABLES).mkdir(parents=True, exist_ok=True)
        name = f"{SIMULATION}.parquet"
        shutil.copyfile(simulation / TABLES / name, directory / TABLES / name)
    write_table(directory / TABLES / f"{PLAN_TABLE}.parquet", plan_table(plan))
    write_table(directory / TABLES / f"{EXPORT}.parquet", export_table(done, plan))


def export_table(done: Exported, plan: Plan) -> pl.DataFrame:
    """What an export changed: quantity, before, after, note."""
    check = done.verification
    (experts, experts_kept), (size, size_left) = done.num_experts, done.num_bytes
    rows: list[tuple[str, float | None, float | None, str]] = [
        ("experts of a layer", experts, experts_kept, f"{len(plan.keep)} layers"),
        ("active experts of a token", plan.model.top_k, plan.active, ""),
        ("bytes of weights", size, size_left, ""),
    ]
    if check is None:
        rows.append(("difference from the simulation", None, None, "not verified (--no-verify)"))
    else:
        note = (
            f"of a logit, as a part of the largest; allowed {check.tolerance:.0e}; "
            f"{check.num_tokens} tokens, {check.dtype}, {check.loader}"
        )
        rows.append(("difference from the simulation", 0.0, check.error, note))
    schema = {"quantity": pl.String, "before": pl.Float64, "after": pl.Float64, "note": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")
