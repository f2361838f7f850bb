"""`moe-lens run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from moe_lens.cli import show
from moe_lens.cli.options import (
    CORPUS_HELP,
    BatchTokensOption,
    ContextOption,
    DeviceOption,
    DtypeOption,
    EngineOption,
    FieldOption,
    JsonOption,
    MaxDocumentsOption,
    MaxTokensOption,
    MemoryOption,
    RevisionOption,
    SeedOption,
    Split,
    SplitOption,
    TrustOption,
)
from moe_lens.errors import InputError


def run(
    out: Annotated[Path, typer.Option(help="The run's directory; an unfinished run goes on.")],
    model: Annotated[
        str | None, typer.Argument(help="Checkpoint directory, hub id, or `demo`.")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help=CORPUS_HELP)] = None,
    spec: Annotated[
        Path | None, typer.Option(help="A TOML file that says all of this; see docs/study.md.")
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(help="routing, similarity, perplexity, lens; repeat for several [all]."),
    ] = None,
    k: Annotated[
        list[int] | None, typer.Option(help="Active experts for perplexity [1 to the model's].")
    ] = None,
    renorm: Annotated[
        list[str] | None, typer.Option(help="native, keep_mass, none; repeat [native].")
    ] = None,
    max_tokens: MaxTokensOption = None,
    max_documents: MaxDocumentsOption = None,
    split: SplitOption = Split.FILE,
    field: FieldOption = "text",
    context: ContextOption = None,
    lens_positions: Annotated[
        int, typer.Option(help="Sampled positions of each domain for the lens.")
    ] = 200,
    lens_norm: Annotated[
        str, typer.Option(help="final, or none: decode without the model's final norm.")
    ] = "final",
    prompt: Annotated[str | None, typer.Option(help="Text for the lens grid.")] = None,
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
    """Measure what experts do on your text: tables with intervals and controls, and a report."""
    from moe_lens.cli.studying import report_of, run_study, spec_of

    if spec is None:
        wanted = spec_of(
            model={
                "model": model,
                "dtype": dtype,
                "device": device,
                "revision": revision,
                "trust_remote_code": trust_remote_code,
                "engine": engine,
                "memory": memory,
            },
            text={
                "corpus": corpus,
                "split": split.value,
                "field": field,
                "max_documents": max_documents,
                "max_tokens": max_tokens,
                "context_length": context,
            },
            rest={
                "measures": measure,
                "ks": k,
                "renorms": renorm,
                "lens_positions": lens_positions,
                "lens_norm": lens_norm,
                "prompt": prompt,
                "seed": seed,
                "batch_tokens": batch_tokens,
            },
        )
    else:
        if model is not None or corpus is not None:
            raise InputError(f"{spec} names the model and the corpus; leave them out here")
        from moe_lens.study.spec import StudySpec

        wanted = StudySpec.from_toml(spec)
    study = run_study(wanted, out, progress=show.progress)
    report_file = report_of(study)
    if as_json:
        show.line(json.dumps({"run": str(out), "tables": study.tables, "report": str(report_file)}))
    else:
        show.claims(study.claims)
        show.line(f"report: {report_file}")
