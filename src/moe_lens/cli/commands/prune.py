"""`moe-lens prune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from moe_lens.cli import show
from moe_lens.cli.options import JsonOption, ModelArgument, RevisionOption

PlanOption = Annotated[Path, typer.Option(help="A plan, from `moe-lens plan`.")]


def prune(
    model: ModelArgument,
    plan: PlanOption,
    out: Annotated[Path, typer.Option(help="The new checkpoint's directory.")],
    simulation: Annotated[
        Path | None,
        typer.Option(help="What `moe-lens simulate` wrote, to be recorded with the result."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write tables and a report to this new directory.")
    ] = None,
    no_verify: Annotated[
        bool,
        typer.Option(
            "--no-verify",
            help="Do not load original and result to compare them: for models larger than memory.",
        ),
    ] = False,
    without_mtp: Annotated[
        bool, typer.Option("--without-mtp", help="Leave multi-token prediction heads out.")
    ] = False,
    with_code: Annotated[
        bool, typer.Option("--with-code", help="Copy Python files of the checkpoint, too.")
    ] = False,
    revision: RevisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the checkpoint without the experts that go; it loads as the original did."""
    from moe_lens.cli import pruning

    done = pruning.export_plan(
        model,
        plan,
        out,
        simulation=simulation,
        report=report,
        check=not no_verify,
        without_mtp=without_mtp,
        with_code=with_code,
        revision=revision,
    )
    show.line(json.dumps(done.values) if as_json else done.text)
