"""Table `perplexity`: what the loss becomes with fewer active experts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float64

from moe_lens.analysis.counts import frame, known, require
from moe_lens.analysis.intervals import means

ALL = "all"
"""The domain that stands for all domains together."""

SCHEMA = pl.Schema(
    {
        "domain": pl.String,
        "k": pl.Int64,
        "renorm": pl.String,
        "num_documents": pl.Int64,
        "num_tokens": pl.Int64,
        "nll_nats": pl.Float64,
        "perplexity_tokens": pl.Float64,
        "perplexity_mean": pl.Float64,
        "perplexity_geometric": pl.Float64,
        "ratio_tokens": pl.Float64,
        "ratio_tokens_low": pl.Float64,
        "ratio_tokens_high": pl.Float64,
        "ratio_geometric": pl.Float64,
        "ratio_geometric_low": pl.Float64,
        "ratio_geometric_high": pl.Float64,
        "minmax": pl.Float64,
    }
)


class Ratio(NamedTuple):
    """A ratio of perplexities and its interval; None is what cannot be told."""

    value: float | None
    low: float | None
    high: float | None


def perplexity_table(losses: pl.DataFrame, *, full_k: int | None = None) -> pl.DataFrame:
    """Perplexity at each k, and its ratio to the full model on the same documents.

    Three perplexities differ and are told apart: `perplexity_tokens` weights every token alike,
    `perplexity_geometric` every document, and `perplexity_mean` averages documents' perplexities,
    so that a few hard documents decide. Ratios are paired: the spread is that of the documents'
    differences. `all` takes the documents of all domains together.

    Args:
        losses: One row for each document, k and renorm. Columns domain, document, k, renorm,
            num_tokens, nll_nats (summed over the document's predicted tokens).
        full_k: K of the full model; the largest k of the table unless given. Where K was run
            under another renorm only (all are the same there), that run is the reference. Without
            a run at K, ratios are null.

    Returns:
        The table of tables.md, by domain, renorm, k; `nll_nats` is the mean over tokens. `minmax`
        runs over the ks of the same domain and renorm, and is null if there is only one.

    Raises:
        ValueError: A document twice, with another number of tokens at another k, or in a domain
            named `all`.
    """
    columns = ("domain", "document", "k", "renorm", "num_tokens", "nll_nats")
    require(losses, columns, name="losses")
    losses = losses.select(columns).filter(pl.col("num_tokens") > 0)
    _refuse_unpaired(losses)
    if losses.is_empty():
        return frame([], SCHEMA)
    full = int(losses["k"].max()) if full_k is None else full_k  # type: ignore[arg-type]
    pooled = losses.with_columns(domain=pl.lit(ALL))
    rows = []
    for (domain,), here in pl.concat([losses, pooled]).partition_by("domain", as_dict=True).items():
        runs = here.partition_by("renorm", "k", as_dict=True)
        at_full = {renorm: run for (renorm, k), run in sorted(runs.items()) if k == full}
        any_full = next(iter(at_full.values()), None)
        for (renorm, k), run in runs.items():
            reference = at_full.get(renorm, any_full)
            rows.append({"domain": domain, "k": k, "renorm": renorm} | _row(run, reference))
    ppl = pl.col("perplexity_tokens")
    span = ppl.max() - ppl.min()
    curve = pl.when(span > 0).then((ppl - ppl.min()) / span).over("domain", "renorm")
    table = frame(rows, pl.Schema({name: SCHEMA[name] for name in SCHEMA if name != "minmax"}))
    return table.with_columns(minmax=curve).sort("domain", "renorm", "k")


def _row(run: pl.DataFrame, reference: pl.DataFrame | None) -> dict[str, float | int | None]:
    num_tokens = run["num_tokens"].to_numpy().astype(np.float64)
    nll = run["nll_nats"].to_numpy().astype(np.float64)
    by_tokens = by_document = Ratio(None, None, None)
    if reference is not None:
        pairs = run.join(reference, on=["domain", "document"], suffix="_full")
        if pairs.height:
            extra = (pairs["nll_nats"] - pairs["nll_nats_full"]).to_numpy().astype(np.float64)
            tokens = pairs["num_tokens"].to_numpy().astype(np.float64)
            by_tokens = perplexity_ratio(extra, tokens)
            by_document = perplexity_ratio(extra / tokens, np.ones_like(tokens))
    with np.errstate(over="ignore"):
        return {
            "num_documents": run.height,
            "num_tokens": int(num_tokens.sum()),
            "nll_nats": float(nll.sum() / num_tokens.sum()),
            "perplexity_tokens": float(np.exp(nll.sum() / num_tokens.sum())),
            "perplexity_mean": float(np.exp(nll / num_tokens).mean()),
            "perplexity_geometric": float(np.exp((nll / num_tokens).mean())),
            "ratio_tokens": by_tokens.value,
            "ratio_tokens_low": by_tokens.low,
            "ratio_tokens_high": by_tokens.high,
            "ratio_geometric": by_document.value,
            "ratio_geometric_low": by_document.low,
            "ratio_geometric_high": by_document.high,
        }


def perplexity_ratio(
    extra: Float64[np.ndarray, " doc"], weights: Float64[np.ndarray, " doc"]
) -> Ratio:
    """The exponential of the mean difference: a ratio of perplexities, and its interval."""
    found = means(extra[:, None], weights)
    with np.errstate(over="ignore"):
        ends = np.exp([found.value[0], found.low[0], found.high[0]])
    return Ratio(*(known(float(end)) for end in ends))


def _refuse_unpaired(losses: pl.DataFrame) -> None:
    if ALL in losses["domain"]:
        raise ValueError(f"a domain is named {ALL!r}, which stands for all domains: rename it")
    twice = losses.filter(losses.select("domain", "document", "k", "renorm").is_duplicated())
    if twice.height:
        raise ValueError(
            f"a document has two rows for one k and renorm: {twice.row(0, named=True)}"
        )
    shared = losses.group_by("document").agg(pl.col("domain").n_unique().alias("domains"))
    if (shared["domains"] > 1).any():
        document = shared.filter(pl.col("domains") > 1).sort("document")["document"][0]
        raise ValueError(f"document {document} is in two domains; one document, one domain")
    uneven = (
        losses.group_by("document")
        .agg(pl.col("num_tokens").n_unique().alias("sizes"))
        .filter(pl.col("sizes") > 1)
    )
    if uneven.height:
        document = uneven.sort("document")["document"][0]
        raise ValueError(
            f"document {document} has another number of tokens at another k; "
            f"perplexities are compared on the same tokens"
        )
