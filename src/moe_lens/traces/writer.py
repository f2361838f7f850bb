"""`TraceWriter`: events to a trace, a few tokens in memory at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moe_lens.errors import TraceError
from moe_lens.event import LayerEvent
from moe_lens.stats.pairing import OpenBatch, TokenBatches
from moe_lens.traces.block import TokenBlock
from moe_lens.traces.manifest import METADATA_KEY, TraceManifest
from moe_lens.traces.table import to_rows

_PART_ROWS = 1 << 18


class _Layer(NamedTuple):
    experts: NDArray[np.int64]
    weights: NDArray[np.float32]
    num_active: NDArray[np.int64]


@final
class TraceWriter:
    """Write a trace: `with TraceWriter(path, manifest=..., domains=...) as writer: ...`.

    Rows go to a hidden folder beside `path`; `path` appears, whole, when the block ends without
    an error. A run that fails leaves nothing, one that is killed only the hidden folder.

    Args:
        path: Where the trace is to be.
        manifest: What the trace says of itself, and what its events must agree with.
        domains: The domain of each document.
        replace: Whether a file that is already at `path` is replaced; else it is refused.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        manifest: TraceManifest,
        domains: Mapping[int, str],
        replace: bool = False,
    ) -> None:
        self._path = Path(path)
        self._replace = replace
        self._manifest = manifest
        self._domains = domains
        self._batches = TokenBatches[_Layer](manifest.layers)
        self._columns: list[str] | None = None
        self._rows: list[pl.DataFrame] = []
        self._parts: list[Path] = []
        self._num_rows = 0
        self._folder: Path | None = None

    def __enter__(self) -> TraceWriter:
        parent = self._path.parent
        if not parent.is_dir():
            raise TraceError(f"{self._path}: the folder {parent} does not exist; create it first")
        if not self._replace:
            refuse_existing(self._path)
        prefix = f".{self._path.name}."
        self._folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix, suffix=".partial"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._folder is not None
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._folder)

    def update(self, event: LayerEvent) -> None:
        """Add one layer's routing; a batch is kept until its last layer.

        Raises:
            TraceError: The event does not agree with the manifest, or holds a choice that cannot
                be counted.
            ValueError: A batch's events are not in layer order.
        """
        routing, manifest = event.routing, self._manifest
        found = (routing.num_experts, routing.num_slots)
        if found != (manifest.num_experts, manifest.top_k):
            raise TraceError(
                f"{self._path}: layer {event.layer} has {found[0]} experts and {found[1]} slots, "
                f"but the manifest says {manifest.num_experts} and {manifest.top_k}"
            )
        layer = _Layer(
            experts=routing.experts.cpu().numpy().copy(),
            weights=routing.weights.cpu().numpy().copy(),
            num_active=routing.active.sum(dim=-1).cpu().numpy(),
        )
        batch = self._batches.join(event, layer)
        if len(batch.kept) == len(manifest.layers) and routing.num_tokens:
            self._add(batch)

    def _add(self, batch: OpenBatch[_Layer]) -> None:
        tokens, manifest = batch.tokens, self._manifest
        ids = tokens.ids.cpu().numpy()
        document = tokens.document.cpu().numpy().astype(np.int64)
        weights = np.stack([layer.weights for layer in batch.kept], axis=1)
        block = TokenBlock(
            domain=self._domain(document),
            document=document,
            position=tokens.position.cpu().numpy().astype(np.int64),
            token_id=None if (ids < 0).any() else ids.astype(np.int64),
            experts=np.stack([layer.experts for layer in batch.kept], axis=1),
            weights=weights if manifest.has_weights else None,
            num_active=np.stack([layer.num_active for layer in batch.kept], axis=1),
        )
        block.check(manifest, path=str(self._path))
        rows = to_rows(block, manifest)
        if self._columns is None:
            self._columns = rows.columns
        if self._columns != rows.columns:
            raise TraceError(
                f"{self._path}: some tokens have a vocabulary id and others none; give all or none"
            )
        self._rows.append(rows)
        self._num_rows += len(rows)
        if self._num_rows >= _PART_ROWS:
            self._write_part()

    def _domain(self, document: NDArray[np.int64]) -> pl.Series:
        unique, inverse = np.unique(document, return_inverse=True)
        missing = [index for index in unique.tolist() if index not in self._domains]
        if missing:
            raise TraceError(f"{self._path}: document {missing[0]} has no entry in `domains`")
        names = pl.Series([self._domains[index] for index in unique.tolist()], dtype=pl.String)
        return names.gather(inverse)

    def _write_part(self) -> None:
        assert self._folder is not None
        part = self._folder / f"{len(self._parts):06d}.parquet"
        pl.concat(self._rows).write_parquet(part, compression="zstd")
        self._parts.append(part)
        self._rows, self._num_rows = [], 0

    def _finish(self) -> None:
        assert self._folder is not None
        self._batches.require_done("trace")
        if self._num_rows:
            self._write_part()
        if not self._parts:
            raise TraceError(
                f"{self._path}: no token was recorded, so there is no trace; is the corpus empty?"
            )
        whole = self._folder / "whole.parquet"
        pl.scan_parquet(self._parts).sink_parquet(
            whole,
            compression="zstd",
            row_group_size=_PART_ROWS,
            metadata={METADATA_KEY: self._manifest.to_json()},
        )
        whole.replace(self._path)


def refuse_existing(path: Path) -> None:
    """Keep what is there: to be asked before hours of work, too.

    Raises:
        TraceError: Something is at `path`.
    """
    if path.exists():
        raise TraceError(f"{path} exists; choose another name, or replace it with --force")


def write_trace(
    path: str | Path,
    events: Iterable[LayerEvent],
    *,
    manifest: TraceManifest,
    domains: Mapping[int, str],
    replace: bool = False,
) -> None:
    """Write a trace of events: those of each batch in layer order.

    Raises:
        TraceError: The events do not agree with the manifest, or there are none; or something is
            at `path` and is not to be replaced.
    """
    with TraceWriter(path, manifest=manifest, domains=domains, replace=replace) as writer:
        for event in events:
            writer.update(event)
