"""`moe-lens simulate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from moe_lens.cli import show
from moe_lens.cli.options import (
    BatchTokensOption,
    ContextOption,
    CorpusOption,
    DeviceOption,
    DtypeOption,
    EngineOption,
    FieldOption,
    JsonOption,
    MaxDocumentsOption,
    MaxTokensOption,
    MemoryOption,
    ModelArgument,
    RevisionOption,
    SeedOption,
    Split,
    SplitOption,
    TrustOption,
)


def simulate(
    model: ModelArgument,
    plan: Annotated[Path, typer.Option(help="A plan, from `moe-lens plan`.")],
    corpus: CorpusOption,
    out: Annotated[Path, typer.Option(help="The run's directory; an unfinished run goes on.")],
    random: Annotated[
        int, typer.Option("--random", help="How many random choices are measured beside it.")
    ] = 3,
    max_tokens: MaxTokensOption = None,
    max_documents: MaxDocumentsOption = None,
    split: SplitOption = Split.FILE,
    field: FieldOption = "text",
    context: ContextOption = None,
    seed: SeedOption = 0,
    batch_tokens: BatchTokensOption = 4096,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    memory: MemoryOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure what a plan costs before anything is cut, beside random and frequent experts."""
    from moe_lens.cli import pruning
    from moe_lens.study.spec import ModelSpec, TextSpec

    told = pruning.simulate_plan(
        plan,
        out,
        model=ModelSpec(model, dtype, device, revision, trust_remote_code, engine, memory),
        text=TextSpec(corpus, split.value, field, max_documents, max_tokens, context),
        rest={"num_random": random, "seed": seed, "batch_tokens": batch_tokens},
        progress=show.progress,
    )
    show.line(json.dumps(told.values) if as_json else told.text)
