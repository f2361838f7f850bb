"""`read_trace`: a trace back to events, a few tokens in memory at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import final

import polars as pl

from moe_lens.errors import TraceError
from moe_lens.event import LayerEvent
from moe_lens.traces.foreign import sorted_rows
from moe_lens.traces.manifest import METADATA_KEY, TraceManifest
from moe_lens.traces.table import check_columns, from_rows

_MAGIC = b"PAR1"


@final
class Trace:
    """A recorded routing, ready to be counted; made by `read_trace`.

    Attributes:
        manifest: What the trace says of itself.
        num_tokens: How many tokens it holds.
        has_token_ids: Whether vocabulary ids were recorded.
    """

    def __init__(self, path: str, rows: pl.LazyFrame, *, manifest: TraceManifest) -> None:
        self.manifest = manifest
        self._path, self._rows = path, rows
        check_columns(rows, manifest, path=path)
        self.has_token_ids = "token_id" in rows.collect_schema()
        self._num_rows = int(_collect(rows.select(pl.len()), path).item())
        if self._num_rows == 0:
            raise TraceError(f"{path}: the trace is empty; record at least one token")
        self.num_tokens = self._num_rows // len(manifest.layers)

    def documents(self) -> pl.DataFrame:
        """One row for each document. Columns: document, domain, num_tokens.

        Raises:
            TraceError: A document is in two domains, so that its number names two documents.
        """
        rows = self._rows.filter(pl.col("layer") == self.manifest.layers[0])
        keys = (pl.col("document").cast(pl.Int64), pl.col("domain").cast(pl.String))
        count = rows.group_by(*keys).agg(num_tokens=pl.len().cast(pl.Int64))
        found = _collect(count, self._path).sort("document", "domain")
        twice = found.filter(pl.col("document").is_duplicated())
        if len(twice):
            first, second = twice.rows()[:2]
            raise TraceError(
                f"{self._path}: document {first[0]} is in the domains {first[1]!r} and "
                f"{second[1]!r}; number documents across domains, so that each has its own"
            )
        return found

    def domains(self) -> pl.DataFrame:
        """One row for each domain. Columns: domain, num_documents, num_tokens."""
        return (
            self.documents()
            .group_by("domain")
            .agg(num_documents=pl.len().cast(pl.Int64), num_tokens=pl.col("num_tokens").sum())
            .sort("domain")
        )

    def events(
        self, *, batch_tokens: int = 4096, domains: Collection[str] | None = None
    ) -> Iterator[LayerEvent]:
        """The events of batch after batch of tokens, each batch in layer order.

        Where the trace holds no weights, every weight is 0, and statistics that need weights or
        ranks refuse; where it holds no vocabulary ids, every id is -1.

        Args:
            batch_tokens: Tokens in memory at a time.
            domains: Only tokens of these domains; None takes all.

        Raises:
            TraceError: There is no such domain, or the rows break the schema.
        """
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens {batch_tokens}: a batch has at least 1 token")
        if domains is not None:
            self._check_domains(domains)
        step = batch_tokens * len(self.manifest.layers)
        for start in range(0, self._num_rows, step):
            rows = _collect(self._rows.slice(start, step), self._path)
            block = from_rows(rows, self.manifest, path=self._path)
            if domains is not None:
                block = block.select(block.domain.is_in(list(domains)).to_numpy())
            if block.num_tokens:
                yield from block.events(self.manifest)

    def _check_domains(self, domains: Collection[str]) -> None:
        known = self.domains()["domain"].to_list()
        for domain in domains:
            if domain not in known:
                raise TraceError(
                    f"{self._path}: no domain {domain!r}; the trace has {', '.join(known)}"
                )


def read_trace(path: str | Path, *, num_experts: int | None = None) -> Trace:
    """Open a trace: one that moe-lens wrote, or a table of the same columns from elsewhere.

    A table without our metadata is read whole and sorted; its slots may be in any order, and its
    top_k and layers are those of its columns and rows.

    Args:
        path: A Parquet file.
        num_experts: How many routed experts each layer has, for a table without our metadata.

    Raises:
        TraceError: No such file, not Parquet, cut short, empty, or against the schema.
    """
    name = str(path)
    _check_file(Path(path), name)
    try:
        metadata = pl.read_parquet_metadata(path)
    except pl.exceptions.PolarsError as error:
        raise TraceError(f"{name}: the Parquet footer cannot be read ({error})") from error
    if METADATA_KEY not in metadata:
        if num_experts is None:
            raise TraceError(
                f"{name}: no {METADATA_KEY!r} metadata, so it was not written by moe-lens, and "
                f"the file does not say how many experts a layer has; pass num_experts"
            )
        rows, manifest = sorted_rows(path, num_experts=num_experts)
        trace = Trace(name, rows.lazy(), manifest=manifest)
        trace.documents()  # one number for two documents would mix them
        return trace
    manifest = TraceManifest.from_json(metadata[METADATA_KEY], path=name)
    if num_experts not in (None, manifest.num_experts):
        raise TraceError(
            f"{name}: num_experts {num_experts} was given, but the trace was recorded with "
            f"{manifest.num_experts}; leave it out"
        )
    return Trace(name, pl.scan_parquet(path), manifest=manifest)


def _check_file(path: Path, name: str) -> None:
    if not path.is_file():
        raise TraceError(f"{name}: no such file; a trace is one Parquet file")
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(path.stat().st_size - 4, 0))
        tail = file.read(4)
    if head != _MAGIC:
        raise TraceError(f"{name}: not a Parquet file (it starts with {head!r}, not {_MAGIC!r})")
    if tail != _MAGIC:
        raise TraceError(
            f"{name}: the file is cut short: it starts as Parquet and does not end as Parquet; "
            f"copy or record it again"
        )


def _collect(rows: pl.LazyFrame, name: str) -> pl.DataFrame:
    try:
        return rows.collect()
    except pl.exceptions.PolarsError as error:
        raise TraceError(f"{name}: the rows cannot be read ({error}); record it again") from error
