"""`moe-lens frontier`."""

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


def frontier(
    model: ModelArgument,
    corpus: CorpusOption,
    out: Annotated[Path, typer.Option(help="The run's directory; an unfinished run goes on.")],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="k:3, min-p:0.3, top-p:0.8:keep_mass, dp:2.5 ... (docs/frontier.md); repeat "
            "for several [a set that spans the frontier]."
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Text that naee, dp, scale and entropy quantiles are fitted on [every fourth "
            "document of the corpus, which is then not evaluated]."
        ),
    ] = None,
    step_sequences: Annotated[
        int, typer.Option(help="Sequences that decode side by side in a step.")
    ] = 8,
    max_tokens: MaxTokensOption = None,
    max_documents: MaxDocumentsOption = None,
    split: SplitOption = Split.FILE,
    field: FieldOption = "text",
    context: ContextOption = None,
    batch_tokens: Annotated[
        int, typer.Option(help="Tokens in memory at a time, times the policies at the end.")
    ] = 8192,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    memory: MemoryOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what fewer active experts cost on your text, and what they save: policy by policy."""
    from moe_lens.cli.frontiers import run_frontier, show_frontier
    from moe_lens.cli.studying import report_of
    from moe_lens.study.frontier import FrontierSpec
    from moe_lens.study.spec import ModelSpec, TextSpec

    def text(corpus: str) -> TextSpec:
        return TextSpec(corpus, split.value, field, max_documents, max_tokens, context)

    spec = FrontierSpec(
        ModelSpec(model, dtype, device, revision, trust_remote_code, engine, memory),
        text(corpus),
        policies=None if policy is None else tuple(policy),
        calibration=None if calibration is None else text(calibration),
        step_sequences=step_sequences,
        batch_tokens=batch_tokens,
    )
    study = run_frontier(spec, out, progress=show.progress)
    report_file = report_of(study)
    if as_json:
        show.line(json.dumps({"run": str(out), "tables": study.tables, "report": str(report_file)}))
    else:
        show_frontier(study.frontier)
        show.line(f"report: {report_file}")
