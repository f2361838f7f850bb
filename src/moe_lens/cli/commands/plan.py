"""`moe-lens plan`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from moe_lens.cli import show
from moe_lens.cli.options import JsonOption, RevisionOption, SeedOption
from moe_lens.errors import InputError


class Shape(StrEnum):
    """How the experts that stay are spread over layers."""

    UNIFORM = "uniform"
    GLOBAL = "global"


def plan(
    source: Annotated[
        str,
        typer.Argument(
            help="The directory that `moe-lens score` wrote; with --check, or for the criterion "
            "random, a model."
        ),
    ],
    keep: Annotated[int, typer.Option(help="Experts of each layer that stay.")],
    criterion: Annotated[
        str, typer.Option(help="What ranks experts: one that was scored, or random.")
    ] = "reap",
    out: Annotated[Path | None, typer.Option(help="The plan's file, JSON, to write.")] = None,
    domains: Annotated[
        str, typer.Option(help="Whose scores count, each alike: names with commas between.")
    ] = "all",
    shape: Annotated[
        Shape,
        typer.Option(
            help="uniform: every layer keeps as many. global: the best of all layers stay, --keep "
            "being the mean; can be simulated, not exported."
        ),
    ] = Shape.UNIFORM,
    multiple_of: Annotated[
        int, typer.Option(help="Every layer keeps a multiple of this (of a serving engine).")
    ] = 1,
    protect_super: Annotated[
        bool, typer.Option("--protect-super", help="Keep super-experts whatever their score.")
    ] = False,
    top_k: Annotated[
        int | None, typer.Option(help="Active experts of the pruned model [the model's own].")
    ] = None,
    seed: SeedOption = 0,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Only say whether a model allows this budget; before scoring."
        ),
    ] = False,
    revision: RevisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the experts that stay, from scores, and write them to a file to be reviewed."""
    from moe_lens.cli import pruning

    if check:
        found = pruning.feasible(
            source,
            keep=keep,
            shape=shape.value,
            multiple_of=multiple_of,
            top_k=top_k,
            revision=revision,
        )
        show.line(json.dumps(found.values) if as_json else found.text)
        return
    if out is None:
        raise InputError("name the plan's file: --out plan.json")
    made = pruning.write_plan(
        source,
        out,
        keep=keep,
        criterion=criterion,
        domains=domains,
        shape=shape.value,
        multiple_of=multiple_of,
        protect_super=protect_super,
        top_k=top_k,
        seed=seed,
    )
    show.line(json.dumps(made.values) if as_json else made.text)
