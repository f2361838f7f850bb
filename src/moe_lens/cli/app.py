"""The commands. torch is imported when a command needs it, so that `--help` is instant."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import moe_lens
from moe_lens.cli import show
from moe_lens.errors import InputError, UnsupportedModel

app = typer.Typer(
    name="moe-lens",
    help="Look inside Mixture-of-Experts language models, and trust what you see.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

USER_ERROR = 2


class Split(StrEnum):
    """How a text file is cut into documents."""

    FILE = "file"
    LINE = "line"
    PARAGRAPH = "paragraph"


class OnLong(StrEnum):
    """What is done about a document longer than the context."""

    SPLIT = "split"
    TRUNCATE = "truncate"
    ERROR = "error"


def main() -> None:
    """Run the command line; exit 0 when done, 2 for the user's input, 1 for a fault of ours."""
    try:
        app()
    except (InputError, UnsupportedModel) as error:
        show.error(str(error))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        show.error(f"{where}{error.strerror or error}")
    sys.exit(USER_ERROR)


def _say_version(asked: bool | None) -> None:
    if asked:
        show.line(f"moe-lens {moe_lens.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool | None,
        typer.Option(
            "--version", help="Say the version and stop.", callback=_say_version, is_eager=True
        ),
    ] = None,
) -> None:
    """Options that go before the command."""


ModelArgument = Annotated[
    str, typer.Argument(help="Checkpoint directory, hub id, or `demo` for the embedded model.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]


@app.command()
def inspect(
    model: ModelArgument, as_json: JsonOption = False, revision: RevisionOption = None
) -> None:
    """Say what a model is, from its config alone: no weights are needed or loaded."""
    from moe_lens.models.inspect import inspect_checkpoint

    target = _embedded() if model == "demo" else model
    facts = inspect_checkpoint(target, revision=revision)
    if as_json:
        show.line(json.dumps(facts.to_dict()))
    else:
        show.model_facts(facts)


@app.command()
def trace(
    model: ModelArgument,
    corpus: Annotated[
        str,
        typer.Option(help="Text file, .jsonl, .parquet, a directory of them, or `demo`."),
    ],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    split: Annotated[Split, typer.Option(help="What in a text file is a document.")] = Split.FILE,
    field: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    max_documents: Annotated[
        int | None, typer.Option(help="At most so many documents of each domain.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens the model sees at once [1024, or the model's].")
    ] = None,
    on_long: Annotated[
        OnLong, typer.Option(help="What to do with a document longer than that.")
    ] = OnLong.SPLIT,
    count_bos: Annotated[
        bool, typer.Option("--count-bos", help="Record the token that begins a text, too.")
    ] = False,
    batch_tokens: Annotated[int, typer.Option(help="Tokens in memory at a time.")] = 4096,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    revision: RevisionOption = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Record which experts every token was sent to, at every layer, with their weights."""
    from moe_lens.cli.tracing import TraceJob

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
    )
    with show.progress("tracing", total=job.tokenized.num_tokens) as advance:
        job.write(out, batch_tokens=batch_tokens, progress=advance)
    if as_json:
        show.line(json.dumps(job.describe(out)))
    else:
        show.line(f"{job.tokenized.num_counted:,} tokens recorded in {out}")
        show.line(f"next: moe-lens usage {out}")


@app.command()
def usage(
    path: Annotated[Path, typer.Argument(help="A trace: of `moe-lens trace`, or from elsewhere.")],
    num_experts: Annotated[
        int | None,
        typer.Option(help="Experts of a layer, for a trace that does not say so itself."),
    ] = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="A row for each layer, not their mean.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write usage per expert to this Parquet file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say from a trace which experts each domain uses; no model is needed."""
    from moe_lens.traces import read_trace
    from moe_lens.traces.summary import summary_by_domain, usage_by_domain

    recorded = read_trace(path, num_experts=num_experts)
    table = summary_by_domain(recorded)
    if as_json:
        show.line(json.dumps(table.to_dicts()))
    else:
        show.usage(recorded, table, per_layer=per_layer)
    if out is not None:
        usage_by_domain(recorded).write_parquet(out)


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="The run's directory; an unfinished run goes on.")],
    model: Annotated[
        str | None, typer.Argument(help="Checkpoint directory, hub id, or `demo`.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Text file, .jsonl, .parquet, a directory, or `demo`.")
    ] = None,
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
    max_tokens: Annotated[
        int | None, typer.Option(help="About so many tokens of each domain.")
    ] = None,
    max_documents: Annotated[
        int | None, typer.Option(help="At most so many documents of each domain.")
    ] = None,
    split: Annotated[Split, typer.Option(help="What in a text file is a document.")] = Split.FILE,
    field: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    context: Annotated[
        int | None, typer.Option(help="Tokens the model sees at once [1024, or the model's].")
    ] = None,
    lens_positions: Annotated[
        int, typer.Option(help="Sampled positions of each domain for the lens.")
    ] = 200,
    prompt: Annotated[str | None, typer.Option(help="Text for the lens grid.")] = None,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    batch_tokens: Annotated[int, typer.Option(help="Tokens in memory at a time.")] = 4096,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    revision: RevisionOption = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint."),
    ] = False,
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


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="A finished run.")],
    as_json: JsonOption = False,
) -> None:
    """Write the report and figures of a run again, from its files alone."""
    from moe_lens.cli.studying import report_of
    from moe_lens.study.result import Study

    file = report_of(Study(directory))
    show.line(json.dumps({"report": str(file)}) if as_json else f"report: {file}")


def _embedded() -> Path:
    from moe_lens.loading import embedded_model

    return embedded_model()
