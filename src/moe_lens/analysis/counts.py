"""Usage of documents as matrices: what every analysis of routing starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64


@dataclass(frozen=True)
class LayerCounts:
    """One layer's usage by document.

    Attributes:
        layer: Index of the layer.
        domains: Names, sorted.
        domain_of: Index in `domains` of each document.
        documents: Index of each document, rising.
        chosen: Tokens of each document that chose each expert.
        tokens: Tokens of each document.
    """

    layer: int
    domains: tuple[str, ...]
    domain_of: Int64[np.ndarray, " doc"]
    documents: Int64[np.ndarray, " doc"]
    chosen: Int64[np.ndarray, "doc expert"]
    tokens: Int64[np.ndarray, " doc"]

    def by_domain(self) -> Iterator[DomainCounts]:
        """The documents of each domain that has any, in the order of `domains`."""
        for index, domain in enumerate(self.domains):
            here = self.domain_of == index
            if here.any():
                yield DomainCounts(domain, self.layer, self.chosen[here], self.tokens[here])


@dataclass(frozen=True)
class DomainCounts:
    """One layer's usage by the documents of one domain."""

    domain: str
    layer: int
    chosen: Int64[np.ndarray, "doc expert"]
    tokens: Int64[np.ndarray, " doc"]


def layer_counts(
    usage: pl.DataFrame, tokens: pl.DataFrame, documents: pl.DataFrame, *, num_experts: int
) -> Iterator[LayerCounts]:
    """Usage of documents, layer by layer in rising order.

    Args:
        usage: Columns layer, document, expert, num_tokens: `DocumentUsage.table`.
        tokens: Columns layer, document, num_tokens: `DocumentUsage.tokens`.
        documents: Columns document, domain: one row for each document.
        num_experts: Routed experts of a layer.

    Raises:
        ValueError: Tables that do not fit each other; the message names the first such row.
    """
    for name, table, needed in (
        ("usage", usage, ("layer", "document", "expert", "num_tokens")),
        ("tokens", tokens, ("layer", "document", "num_tokens")),
        ("documents", documents, ("document", "domain")),
    ):
        require(table, needed, name=name)
    tokens = tokens.filter(pl.col("num_tokens") > 0)
    _refuse(tokens.filter(tokens.select("layer", "document").is_duplicated()), "tokens twice")
    _refuse(documents.filter(documents["document"].is_duplicated()), "a domain twice")
    _refuse(tokens.join(documents, on="document", how="anti"), "no domain")
    _refuse(
        usage.filter(pl.col("num_tokens") > 0).join(tokens, on=["layer", "document"], how="anti"),
        "usage, but no tokens",
    )
    _refuse(
        usage.filter((pl.col("expert") < 0) | (pl.col("expert") >= num_experts)),
        f"an expert that is not 0 to {num_experts - 1}",
    )
    domains = tuple(sorted(documents.join(tokens, on="document", how="semi")["domain"].unique()))
    index = pl.DataFrame(
        {"domain": domains, "domain_of": range(len(domains))},
        schema={"domain": pl.String, "domain_of": pl.Int64},
    )
    placed = tokens.join(documents.select("document", "domain"), on="document").join(
        index, on="domain"
    )
    used = usage.partition_by("layer", as_dict=True)
    for (layer,), here in sorted(placed.partition_by("layer", as_dict=True).items()):
        here = here.sort("document")
        ids = here["document"].to_numpy().astype(np.int64)
        chosen = np.zeros((len(ids), num_experts), dtype=np.int64)
        if (layer,) in used:
            rows = used[(layer,)].filter(pl.col("num_tokens") > 0)
            place = np.searchsorted(ids, rows["document"].to_numpy())
            np.add.at(chosen, (place, rows["expert"].to_numpy()), rows["num_tokens"].to_numpy())
        total = here["num_tokens"].to_numpy().astype(np.int64)
        if (chosen > total[:, None]).any():
            where = np.argwhere(chosen > total[:, None])[0]
            raise ValueError(
                f"layer {layer}, document {ids[where[0]]}: expert {where[1]} was chosen by "
                f"{chosen[tuple(where)]} tokens of {total[where[0]]}; a token can choose an "
                f"expert once"
            )
        domain_of = here["domain_of"].to_numpy().astype(np.int64)
        yield LayerCounts(int(layer), domains, domain_of, ids, chosen, total)


def domain_usage(
    usage: pl.DataFrame, tokens: pl.DataFrame, documents: pl.DataFrame, *, num_experts: int
) -> pl.DataFrame:
    """Usage summed over the documents of each domain, experts without tokens included.

    Returns:
        Columns: domain, layer, expert, num_tokens, num_domain_tokens; by domain, layer, expert.
    """
    parts = [
        pl.DataFrame(
            {
                "domain": [here.domain] * num_experts,
                "layer": [here.layer] * num_experts,
                "expert": range(num_experts),
                "num_tokens": here.chosen.sum(axis=0),
                "num_domain_tokens": [int(here.tokens.sum())] * num_experts,
            },
            schema=DOMAIN_USAGE_SCHEMA,
        )
        for layer in layer_counts(usage, tokens, documents, num_experts=num_experts)
        for here in layer.by_domain()
    ]
    empty = pl.DataFrame(schema=DOMAIN_USAGE_SCHEMA)
    return pl.concat([empty, *parts]).sort("domain", "layer", "expert")


DOMAIN_USAGE_SCHEMA = pl.Schema(
    {
        "domain": pl.String,
        "layer": pl.Int64,
        "expert": pl.Int64,
        "num_tokens": pl.Int64,
        "num_domain_tokens": pl.Int64,
    }
)


def require(table: pl.DataFrame, columns: Sequence[str], *, name: str) -> None:
    """Stop unless a table has these columns.

    Raises:
        ValueError: Columns are missing.
    """
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"table {name}: no column {', '.join(missing)}; it has {table.columns}")


def frame(rows: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> pl.DataFrame:
    """Rows as a table in which nan, what cannot be told, is null."""
    return pl.DataFrame(list(rows), schema=schema, orient="row").fill_nan(None)


def known(value: float) -> float | None:
    """The number, or None for nan."""
    return None if np.isnan(value) else float(value)


def filled(column: pl.Series) -> Float64[np.ndarray, " row"]:
    """A column as float64, nan for null."""
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _refuse(rows: pl.DataFrame, what: str) -> None:
    if rows.height:
        first = rows.sort(rows.columns).row(0, named=True)
        raise ValueError(f"{rows.height} rows have {what}, the first: {first}")
