"""All passes of a run through a model that is streamed: one sweep, kept after every layer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from moe_lens.corpus import TokenBatch
from moe_lens.engine.boundary import Keeper
from moe_lens.engine.sweep import sweep
from moe_lens.event import LayerEvent
from moe_lens.models.model import MoEModel
from moe_lens.study.chunks import Chunk, Progress
from moe_lens.study.files import STATE, read_tensors, write_json, write_tensors
from moe_lens.study.passes import Pass, is_done, write_sums
from moe_lens.study.sums import PassSums

SWEEP = "sweep"


def stream_passes(
    passes: Sequence[Pass],
    model: MoEModel,
    chunks: Sequence[Chunk],
    *,
    directory: Path,
    progress: Progress,
) -> None:
    """Run chunks that are not on disk through every layer, and put their sums there.

    Sums are kept for each chunk, so that they are, to the last bit, those of a resident model.
    """
    wanted = _wanted(passes, chunks, directory)
    for chunk in chunks:
        if chunk.index not in wanted:
            progress(chunk.num_tokens * len(passes))
    if not wanted:
        return
    kept = _Kept(passes, [chunks[index] for index in wanted], directory)
    streams = [
        one.stream(kept.sink(number), kept.sums[number][0]) for number, one in enumerate(passes)
    ]
    swept = sweep(model, kept.batches, streams, keeper=kept, progress=progress)
    for number, (batch, hidden) in enumerate(swept):
        kept.finish(number, batch, hidden)
    shutil.rmtree(kept.directory)


def _wanted(passes: Sequence[Pass], chunks: Sequence[Chunk], directory: Path) -> list[int]:
    """The chunks that go through the layers: those of the sweep under way, if there is one."""
    file = directory / STATE / SWEEP / "chunks.json"
    undone = [
        chunk.index
        for chunk in chunks
        if not all(is_done(directory, one, chunk.index) for one in passes)
    ]
    if undone and file.exists():
        under_way: list[int] = json.loads(file.read_text(encoding="utf-8"))["chunks"]
        return under_way
    if undone:
        write_json(file, {"chunks": undone})
    return undone


class _Kept(Keeper):
    """The sums of every pass and chunk while their layers come."""

    def __init__(self, passes: Sequence[Pass], chunks: Sequence[Chunk], directory: Path) -> None:
        self._passes, self._chunks, self._run = passes, chunks, directory
        self.directory = directory / STATE / SWEEP
        self.batches = [batch for chunk in chunks for batch in chunk.batches]
        self._chunk_of = [place for place, chunk in enumerate(chunks) for _ in chunk.batches]
        self.sums = self._empty()
        self.reserved_bytes = sum(parts[0].waiting_bytes for parts in self.sums)

    def _empty(self) -> list[list[PassSums]]:
        found = [[one.make() for _ in self._chunks] for one in self._passes]
        for sums in (part for parts in found for part in parts):
            if sums.lens is not None:
                sums.lens.wait_in(self.directory)
        return found

    def sink(self, number: int) -> Callable[[LayerEvent], None]:
        """Where a pass's events go."""

        def feed(event: LayerEvent) -> None:
            self.sums[number][self._chunk_of[event.batch]].update(event)

        return feed

    def finish(self, number: int, batch: TokenBatch, hidden: Sequence[Tensor]) -> None:
        """Take a batch that is done; a chunk whose last batch it is goes to disk."""
        place = self._chunk_of[number]
        index = self._chunks[place].index
        last = number + 1 == len(self._chunk_of) or self._chunk_of[number + 1] != place
        for one, parts, state in zip(self._passes, self.sums, hidden, strict=True):
            if is_done(self._run, one, index):
                continue
            parts[place].finish(batch, state, number=number)
            if last:
                write_sums(self._run, one, index, parts[place])

    def save(self, layer: int) -> None:
        """One file with all sums."""
        states: dict[str, Tensor] = {}
        for number, parts in enumerate(self.sums):
            for place, sums in enumerate(parts):
                states |= {f"{number}/{place}/{k}": v for k, v in sums.state().items()}
        write_tensors(self._file(layer), states)

    def saved(self, layer: int) -> None:
        """The files of earlier layers go."""
        for file in self.directory.glob("sums-*.safetensors"):
            if file != self._file(layer):
                file.unlink()

    def restore(self, layer: int) -> None:
        """The sums as they were before a layer."""
        states = read_tensors(self._file(layer))
        self.sums = self._empty()
        for number, parts in enumerate(self.sums):
            for place, sums in enumerate(parts):
                sums.merge_state(_of(states, f"{number}/{place}/"))
                if sums.lens is not None and not self._is_done(place):
                    numbers = [n for n, at in enumerate(self._chunk_of) if at == place]
                    sums.lens.go_on(numbers, layer=layer)

    def _is_done(self, place: int) -> bool:
        index = self._chunks[place].index
        return all(is_done(self._run, one, index) for one in self._passes)

    def _file(self, layer: int) -> Path:
        return self.directory / f"sums-{layer:05d}.safetensors"


def _of(states: Mapping[str, Tensor], owner: str) -> dict[str, Tensor]:
    return {n.removeprefix(owner): t for n, t in states.items() if n.startswith(owner)}
