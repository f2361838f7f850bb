"""Run the passes of a study: side by side, through whichever engine the model has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moe_lens.corpus import TokenizedCorpus
from moe_lens.engine.sweep import sweep
from moe_lens.models.model import MoEModel
from moe_lens.study.chunks import Chunk, Progress, chunks
from moe_lens.study.passes import Pass, is_done, write_sums
from moe_lens.study.spec import RunSpec
from moe_lens.study.streaming import stream_passes


def run_passes(
    passes: Sequence[Pass],
    model: MoEModel,
    tokenized: TokenizedCorpus,
    *,
    spec: RunSpec,
    directory: Path,
    progress: Progress,
) -> None:
    """Do what is not on disk yet, all passes as the streams of sweeps.

    A resident model takes the text in chunks; one that is streamed takes all of it through each
    layer, and keeps what it has after every layer.
    """
    sizes = {
        "batch_tokens": spec.batch_tokens,
        "chunk_tokens": max(1, spec.chunk_tokens // len(passes)),
    }
    pieces = (Chunk(index, held) for index, held in enumerate(chunks(tokenized, **sizes)))
    if model.store is not None:
        stream_passes(passes, model, list(pieces), directory=directory, progress=progress)
        return
    for chunk in pieces:
        if all(is_done(directory, one, chunk.index) for one in passes):
            progress(chunk.num_tokens * len(passes))
        else:
            _run_chunk(passes, model, chunk, directory=directory, progress=progress)


def _run_chunk(
    passes: Sequence[Pass],
    model: MoEModel,
    chunk: Chunk,
    *,
    directory: Path,
    progress: Progress,
) -> None:
    sums = [one.make() for one in passes]
    streams = [one.stream(part.update, part) for one, part in zip(passes, sums, strict=True)]
    swept = sweep(model, chunk.batches, streams, progress=progress)
    for number, (batch, hidden) in enumerate(swept):
        for part, state in zip(sums, hidden, strict=True):
            part.finish(batch, state, number=number)
    for one, part in zip(passes, sums, strict=True):
        write_sums(directory, one, chunk.index, part)
