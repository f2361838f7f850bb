"""A trace's columns: `TokenBlock` to rows and back."""

from __future__ import annotations

import numpy as np
import polars as pl

from moe_lens.errors import TraceError
from moe_lens.traces.block import TokenBlock
from moe_lens.traces.manifest import TraceManifest

REQUIRED = ("document", "token", "layer")


def expert_columns(top_k: int) -> list[str]:
    """The names of the columns of experts, by slot."""
    return [f"expert_{slot}" for slot in range(top_k)]


def weight_columns(top_k: int) -> list[str]:
    """The names of the columns of weights, by slot."""
    return [f"weight_{slot}" for slot in range(top_k)]


def to_rows(block: TokenBlock, manifest: TraceManifest) -> pl.DataFrame:
    """One row for each token and layer; a token's rows together, in layer order."""
    num_layers, top_k = len(manifest.layers), manifest.top_k
    small = pl.UInt8 if manifest.num_experts <= 256 else pl.UInt16
    columns: dict[str, pl.Series] = {
        "domain": block.domain.gather(np.repeat(np.arange(block.num_tokens), num_layers)),
        "document": pl.Series(block.document.repeat(num_layers)).cast(pl.Int32),
        "token": pl.Series(block.position.repeat(num_layers)).cast(pl.Int32),
    }
    if block.token_id is not None:
        columns["token_id"] = pl.Series(block.token_id.repeat(num_layers)).cast(pl.Int32)
    columns["layer"] = pl.Series(np.tile(manifest.layers, block.num_tokens)).cast(pl.Int16)
    columns["num_active"] = pl.Series(block.num_active.reshape(-1)).cast(small)
    experts = block.experts.reshape(-1, top_k)
    for slot, name in enumerate(expert_columns(top_k)):
        columns[name] = pl.Series(np.ascontiguousarray(experts[:, slot])).cast(small)
    if block.weights is not None:
        weights = block.weights.reshape(-1, top_k)
        for slot, name in enumerate(weight_columns(top_k)):
            columns[name] = pl.Series(np.ascontiguousarray(weights[:, slot]))
    return pl.DataFrame(columns)


def check_columns(rows: pl.LazyFrame, manifest: TraceManifest, *, path: str) -> None:
    """Refuse a file that lacks a column, or has one of another kind.

    Raises:
        TraceError: A column is missing, or holds something else.
    """
    schema = rows.collect_schema()
    integers = [*REQUIRED, *expert_columns(manifest.top_k)]
    integers += [name for name in ("token_id", "num_active") if name in schema]
    floats = weight_columns(manifest.top_k) if manifest.has_weights else []
    for name in (*integers, *floats, "domain"):
        if name not in schema:
            raise TraceError(
                f"{path}: column {name!r} is missing; a trace with top_k {manifest.top_k} has "
                f"{', '.join((*REQUIRED, 'expert_0 ..'))} (docs/trace-schema.md)"
            )
        dtype = schema[name]
        if name in integers:
            kind, fits = "integers", dtype.is_integer()
        elif name in floats:
            kind, fits = "floating-point numbers", dtype.is_float()
        else:
            kind, fits = "strings", dtype in (pl.String, pl.Categorical, pl.Enum)
        if not fits:
            raise TraceError(f"{path}: column {name!r} holds {dtype}; it must hold {kind}")


def from_rows(rows: pl.DataFrame, manifest: TraceManifest, *, path: str) -> TokenBlock:
    """The tokens of some rows that `check_columns` has passed.

    Raises:
        TraceError: A value is missing, a token lacks a layer, or a choice cannot be counted.
    """
    names = [*REQUIRED, "domain", *expert_columns(manifest.top_k)]
    names += weight_columns(manifest.top_k) if manifest.has_weights else []
    names += [name for name in ("token_id", "num_active") if name in rows.columns]
    for name in names:
        if rows[name].null_count():
            row = rows.filter(pl.col(name).is_null()).row(0, named=True)
            raise TraceError(
                f"{path}: document {row['document']}, token {row['token']}, layer {row['layer']}: "
                f"column {name!r} is null; every row needs a value"
            )
    num_layers, top_k = len(manifest.layers), manifest.top_k
    _check_layers(rows, manifest, path=path)
    heads = rows[::num_layers]
    experts = rows.select(expert_columns(top_k)).to_numpy().astype(np.int64, order="C")
    if "num_active" in rows.columns:
        num_active = rows["num_active"].cast(pl.Int64).to_numpy().reshape(-1, num_layers)
    else:
        num_active = np.full((len(heads), num_layers), top_k)
    weights = None
    if manifest.has_weights:
        flat = rows.select(weight_columns(top_k)).to_numpy().astype(np.float32, order="C")
        weights = flat.reshape(-1, num_layers, top_k)
    block = TokenBlock(
        domain=heads["domain"].cast(pl.String),
        document=heads["document"].cast(pl.Int64).to_numpy(writable=True),
        position=heads["token"].cast(pl.Int64).to_numpy(writable=True),
        token_id=(
            heads["token_id"].cast(pl.Int64).to_numpy(writable=True)
            if "token_id" in rows.columns
            else None
        ),
        experts=experts.reshape(-1, num_layers, top_k),
        weights=weights,
        num_active=num_active.copy(),
    )
    block.check(manifest, path=path)
    return block


def _check_layers(rows: pl.DataFrame, manifest: TraceManifest, *, path: str) -> None:
    """Every token has one row for each layer, together and in layer order."""
    num_layers = len(manifest.layers)
    whole = len(rows) // num_layers * num_layers
    token = rows.select(
        pl.col(name).cast(pl.Int64) for name in ("document", "token", "layer")
    ).to_numpy()
    groups = token[:whole].reshape(-1, num_layers, 3)
    wrong = (groups[:, :, 2] != manifest.layers).any(axis=1)
    wrong |= (groups[:, :, :2] != groups[:, :1, :2]).any(axis=(1, 2))
    if not wrong.any() and whole == len(rows):
        return
    start = int(wrong.argmax()) * num_layers if wrong.any() else whole
    document, position, _ = token[start]
    same = (token[:, 0] == document) & (token[:, 1] == position)
    found = token[same, 2].tolist()
    raise TraceError(
        f"{path}: document {document}, token {position}: rows of layers {found}, but every token "
        f"needs one row for each of the layers {list(manifest.layers)}, together and in this "
        f"order; leave the token out, or sort the rows by document, token, layer"
    )
