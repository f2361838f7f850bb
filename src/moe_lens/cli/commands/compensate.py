"""`moe-lens compensate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from moe_lens.cli import show
from moe_lens.cli.options import (
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
    Split,
    SplitOption,
    TrustOption,
)


def compensate(
    model: ModelArgument,
    plan: Annotated[Path, typer.Option(help="A plan with --top-k below the model's own.")],
    corpus: CorpusOption,
    out: Annotated[Path, typer.Option(help="The file for the plan that has the factors.")],
    max_tokens: MaxTokensOption = None,
    max_documents: MaxDocumentsOption = None,
    split: SplitOption = Split.FILE,
    field: FieldOption = "text",
    context: ContextOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    memory: MemoryOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fit a factor for each layer that gives back what fewer active experts lose in mass."""
    from moe_lens.cli import pruning
    from moe_lens.study.spec import ModelSpec, TextSpec

    told = pruning.compensate_plan(
        plan,
        out,
        model=ModelSpec(model, dtype, device, revision, trust_remote_code, engine, memory),
        text=TextSpec(corpus, split.value, field, max_documents, max_tokens, context),
        progress=show.progress,
    )
    show.line(json.dumps(told.values) if as_json else told.text)
