"""`Reading`: what the lens says of each sampled token and state, and its sums for each document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moe_lens.lens.waiting import State

SCHEMA: dict[str, Any] = {
    "domain": pl.String,
    "document": pl.Int64,
    "layer": pl.Int64,
    "state": pl.String,
    "num_tokens": pl.Int64,
    "agree_layer": pl.Int64,
    "agree_output": pl.Int64,
    "kl_output_nats": pl.Float64,
    "logprob_true_nats": pl.Float64,
    "ranks_true": pl.List(pl.Int64),
}


class Reading(NamedTuple):
    """What the lens says of each sampled token and state."""

    document: NDArray[np.int64]
    position: NDArray[np.int64]
    present: NDArray[np.bool_]
    agree_layer: NDArray[np.bool_]
    agree_output: NDArray[np.bool_]
    kl: NDArray[np.float64]
    log_prob: NDArray[np.float64]
    rank: NDArray[np.int64]

    @staticmethod
    def beside(reads: list[Reading]) -> Reading:
        """The states of all reads, which are of the same tokens, one after the other."""
        document, position, *rest = zip(*reads, strict=True)
        columns: list[NDArray[Any]] = [np.concatenate(parts, axis=1) for parts in rest]
        return Reading(document[0], position[0], *columns)

    @staticmethod
    def joined(reads: list[Reading]) -> Reading:
        """All tokens by rising document and position, so that sums do not depend on batches."""
        columns: list[NDArray[Any]] = [np.concatenate(parts) for parts in zip(*reads, strict=True)]
        order = np.lexsort((columns[1], columns[0]))
        return Reading(*(column[order] for column in columns))


def sums_by_document(
    read: Reading, states: Sequence[State], domain_of: tuple[str, ...]
) -> pl.DataFrame:
    """One row for each document, layer and state with sampled tokens, as `SCHEMA` names them.

    Args:
        read: All tokens, joined.
        states: What its columns are.
        domain_of: Each document's domain.
    """
    starts = np.flatnonzero(np.r_[True, read.document[1:] != read.document[:-1]])
    frames = [
        _sums_of_state(read, column, state, starts, domain_of)
        for column, state in enumerate(states)
    ]
    return pl.concat(frames).filter(pl.col("num_tokens") > 0)


def _sums_of_state(
    read: Reading,
    column: int,
    state: State,
    starts: NDArray[np.intp],
    domain_of: tuple[str, ...],
) -> pl.DataFrame:
    present = read.present[:, column]

    def total(values: NDArray[np.generic]) -> NDArray[np.generic]:
        kept = np.where(present, values, np.zeros_like(values))
        return np.add.reduceat(kept, starts)

    documents = read.document[starts].tolist()
    ranks = np.split(read.rank[:, column], starts[1:])
    kept = np.split(present, starts[1:])
    return pl.DataFrame(
        {
            "domain": [domain_of[document] for document in documents],
            "document": documents,
            "layer": [state.layer] * len(starts),
            "state": [state.name] * len(starts),
            "num_tokens": total(present.astype(np.int64)),
            "agree_layer": total(read.agree_layer[:, column].astype(np.int64)),
            "agree_output": total(read.agree_output[:, column].astype(np.int64)),
            "kl_output_nats": total(read.kl[:, column]),
            "logprob_true_nats": total(read.log_prob[:, column]),
            "ranks_true": [r[k].tolist() for r, k in zip(ranks, kept, strict=True)],
        },
        schema=SCHEMA,
    )
