"""`moe-lens score`."""

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


def score(
    model: ModelArgument,
    corpus: CorpusOption,
    out: Annotated[Path, typer.Option(help="The scores' directory; an unfinished run goes on.")],
    criterion: Annotated[
        list[str] | None,
        typer.Option(help="reap, frequency, ... (docs/pruning.md); repeat for several [all]."),
    ] = None,
    causal: Annotated[
        int, typer.Option(help="Also ablate so many experts, over all layers, and see the loss.")
    ] = 0,
    ablation: Annotated[
        list[str] | None,
        typer.Option(help="drop, mask, replace, random (the control); repeat [all]."),
    ] = None,
    causal_tokens: Annotated[
        int, typer.Option(help="About so many tokens of each domain for that.")
    ] = 4096,
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
    """Say what each expert is worth, by every criterion, and how sure that is."""
    from moe_lens.cli.scoring import run_scoring
    from moe_lens.report import write_report
    from moe_lens.scoring.names import ABLATIONS, CRITERIA
    from moe_lens.study.score_spec import ScoreSpec
    from moe_lens.study.spec import ModelSpec, TextSpec

    spec = ScoreSpec(
        ModelSpec(
            model,
            dtype=dtype,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
            engine=engine,
            memory=memory,
        ),
        TextSpec(
            corpus,
            split=split.value,
            field=field,
            max_documents=max_documents,
            max_tokens=max_tokens,
            context_length=context,
        ),
        criteria=CRITERIA if criterion is None else tuple(criterion),
        causal=causal,
        ablations=ABLATIONS if ablation is None else tuple(ablation),
        causal_tokens=causal_tokens,
        seed=seed,
        batch_tokens=batch_tokens,
    )
    run = run_scoring(spec, out, progress=show.progress)
    report = str(write_report(run.directory))
    if as_json:
        told = {"run": str(out), "tables": run.tables, "skipped": run.manifest["skipped"]}
        show.line(json.dumps(told | {"report": report}))
    else:
        show.scores(run.stability, skipped=run.manifest["skipped"])
        if "prediction" in run.tables:
            show.prediction(run.prediction)
        show.line(f"scores: {out / 'tables' / 'importance.parquet'}")
        show.line(f"report: {report}")
