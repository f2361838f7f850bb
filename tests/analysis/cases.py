"""Documents with known rates, the published data, and tables by hand."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from jaxtyping import Int64

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "published"


def published(name: str) -> pl.DataFrame:
    path = PUBLISHED / name
    if not path.exists():
        pytest.skip(f"../shared/data/published/{name} is not beside the checkout")
    return pl.read_parquet(path)


def lengths(
    rng: np.random.Generator, num_documents: int, spread: float
) -> Int64[np.ndarray, " doc"]:
    drawn = rng.lognormal(np.log(300), spread, num_documents)
    return np.maximum(drawn, 8).astype(np.int64)


def overdispersed(
    rng: np.random.Generator,
    tokens: Int64[np.ndarray, " doc"],
    rate: float,
    overlap: float,
    size: int,
) -> Int64[np.ndarray, "doc stat"]:
    """Beta-binomial counts; `overlap` is the correlation of two tokens of one document."""
    scale = (1 - overlap) / overlap
    own = rng.beta(rate * scale, (1 - rate) * scale, size=(len(tokens), size))
    return rng.binomial(tokens[:, None], own).astype(np.int64)


class Study(NamedTuple):
    usage: pl.DataFrame
    tokens: pl.DataFrame
    documents: pl.DataFrame


def study(
    chosen: dict[int, list[list[int]]], tokens: list[int], domains: list[str], first: int = 0
) -> Study:
    """Tables as `DocumentUsage` gives them: `chosen[layer][document][expert]`."""
    usage = [
        (layer, first + d, e, n)
        for layer, rows in chosen.items()
        for d, row in enumerate(rows)
        for e, n in enumerate(row)
        if n
    ]
    totals = [(layer, first + d, n) for layer in chosen for d, n in enumerate(tokens)]
    ints = dict.fromkeys(("layer", "document", "expert", "num_tokens"), pl.Int64)
    return Study(
        pl.DataFrame(usage, schema=ints, orient="row"),
        pl.DataFrame(
            totals,
            schema=dict.fromkeys(("layer", "document", "num_tokens"), pl.Int64),
            orient="row",
        ),
        pl.DataFrame(
            {"document": range(first, first + len(domains)), "domain": domains},
            schema={"document": pl.Int64, "domain": pl.String},
        ),
    )


def random_study(
    seed: int,
    *,
    num_documents: int = 12,
    num_experts: int = 6,
    top_k: int = 2,
    num_layers: int = 2,
    domains: tuple[str, ...] = ("a", "b"),
) -> Study:
    """Each token of each document picks `top_k` experts, by the document's own preferences."""
    rng = np.random.default_rng(seed)
    size = [int(n) for n in rng.integers(10, 60, num_documents)]
    chosen: dict[int, list[list[int]]] = {}
    for layer in range(1, num_layers + 1):
        rows = []
        for total in size:
            taste = rng.gumbel(size=(total, num_experts)) + rng.normal(size=num_experts)
            picks = np.argsort(-taste, axis=1)[:, :top_k]
            rows.append([int(n) for n in np.bincount(picks.ravel(), minlength=num_experts)])
        chosen[layer] = rows
    return study(chosen, size, [domains[d % len(domains)] for d in range(num_documents)])
