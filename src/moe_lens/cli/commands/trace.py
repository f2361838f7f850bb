"""`moe-lens trace`."""

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
    MemoryOption,
    ModelArgument,
    OnLong,
    RevisionOption,
    Split,
    SplitOption,
    TrustOption,
)


def trace(
    model: ModelArgument,
    corpus: CorpusOption,
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    split: SplitOption = Split.FILE,
    field: FieldOption = "text",
    max_documents: MaxDocumentsOption = None,
    context: ContextOption = None,
    on_long: Annotated[
        OnLong, typer.Option(help="What to do with a document longer than that.")
    ] = OnLong.SPLIT,
    count_bos: Annotated[
        bool, typer.Option("--count-bos", help="Record the token that begins a text, too.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    batch_tokens: BatchTokensOption = 4096,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    memory: MemoryOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Record which experts every token was sent to, at every layer, with their weights."""
    from moe_lens.cli.tracing import TraceJob
    from moe_lens.traces.writer import refuse_existing

    if not force:
        refuse_existing(out)  # before a model is loaded
    job = TraceJob.open(
        model,
        corpus,
        split=split.value,
        field=field,
        max_documents=max_documents,
        context_length=context,
        on_long=on_long.value,
        count_bos=count_bos,
        dtype=dtype,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        engine=engine,
        memory=memory,
    )
    with show.progress("tracing", total=job.tokenized.num_tokens) as advance:
        job.write(out, batch_tokens=batch_tokens, progress=advance, replace=force)
    if as_json:
        show.line(json.dumps(job.describe(out)))
    else:
        show.line(f"{job.tokenized.num_counted:,} tokens recorded in {out}")
        show.line(f"next: moe-lens usage {out}")
