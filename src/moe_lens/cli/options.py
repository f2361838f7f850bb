"""Arguments and options that several commands share, each said once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


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


ModelArgument = Annotated[
    str, typer.Argument(help="Checkpoint directory, hub id, or `demo` for the embedded model.")
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
EngineOption = Annotated[
    str,
    typer.Option(help="auto, resident (all weights in memory) or streaming (layer by layer)."),
]
MemoryOption = Annotated[
    str | None, typer.Option(help="What the model may take of it, such as 8GiB [what is free].")
]
TrustOption = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint."),
]

CORPUS_HELP = (
    "Text file, .jsonl, .parquet, a directory of them, or `demo`; of the hub (docs/corpora.md): "
    "`paper`, hub:OWNER/NAME@SPLIT#FIELD, or a .toml of several."
)
CorpusOption = Annotated[str, typer.Option(help=CORPUS_HELP)]
SplitOption = Annotated[Split, typer.Option(help="What in a text file is a document.")]
FieldOption = Annotated[str, typer.Option(help="Field or column that holds the text.")]
MaxDocumentsOption = Annotated[
    int | None, typer.Option(help="At most so many documents of each domain.")
]
MaxTokensOption = Annotated[int | None, typer.Option(help="About so many tokens of each domain.")]
ContextOption = Annotated[
    int | None, typer.Option(help="Tokens the model sees at once [1024, or the model's].")
]
BatchTokensOption = Annotated[int, typer.Option(help="Tokens in memory at a time.")]

SeedOption = Annotated[int, typer.Option(help="Of every draw.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
