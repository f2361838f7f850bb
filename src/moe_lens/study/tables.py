"""From a run's sums to the tables of docs/tables.md."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from moe_lens.analysis.claims import claims_table
from moe_lens.analysis.coactivation import coactivation_table
from moe_lens.analysis.concentration import concentration_table
from moe_lens.analysis.counts import domain_usage
from moe_lens.analysis.information import information_table
from moe_lens.analysis.lens import lens_table
from moe_lens.analysis.overlap import overlap_table
from moe_lens.analysis.perplexity import perplexity_table
from moe_lens.analysis.similarity import similarity_table
from moe_lens.analysis.specialization import specialization_table
from moe_lens.corpus import Corpus
from moe_lens.stats.coactivation import Coactivation
from moe_lens.stats.documents import DocumentUsage
from moe_lens.stats.similarity import Similarity
from moe_lens.stats.weight_mass import WeightMass
from moe_lens.study.passes import Pass
from moe_lens.study.sums import PassSums

Tables = dict[str, pl.DataFrame]


def documents_of(corpus: Corpus) -> pl.DataFrame:
    """Columns: document (index), domain."""
    domains = [document.domain for document in corpus]
    columns = {"document": range(len(domains)), "domain": domains}
    return pl.DataFrame(columns, schema={"document": pl.Int64, "domain": pl.String})


def routing_tables(
    sums: PassSums, corpus: Corpus, *, num_experts: int, top_k: int, seed: int
) -> Tables:
    """Specialisation, concentration, information, overlap, co-activation."""
    counts, pairs = sums.accumulators["usage"], sums.accumulators["pairs"]
    assert isinstance(counts, DocumentUsage)
    assert isinstance(pairs, Coactivation)
    usage, tokens, documents = counts.table(), counts.tokens(), documents_of(corpus)
    shape = {"num_experts": num_experts}
    weights = _weights(sums.mass, corpus.domains)
    return {
        "specialization": specialization_table(usage, tokens, documents, top_k=top_k, **shape),
        "concentration": concentration_table(
            usage, tokens, documents, top_k=top_k, weights=weights, seed=seed, **shape
        ),
        "information": information_table(usage, tokens, documents, seed=seed, **shape),
        "overlap": overlap_table(domain_usage(usage, tokens, documents, **shape)),
        "coactivation": coactivation_table(pairs.table(), usage, tokens),
    }


def similarity_tables(sums: PassSums, corpus: Corpus) -> Tables:
    """Similarity of states."""
    found = sums.accumulators["similarity"]
    assert isinstance(found, Similarity)
    names = pl.DataFrame(
        {"domain": range(len(corpus.domains)), "name": list(corpus.domains)},
        schema={"domain": pl.Int64, "name": pl.String},
    )
    quantiles = found.quantiles().join(names, on="domain")
    quantiles = quantiles.with_columns(domain=pl.col("name"))
    return {"similarity": similarity_table(found.documents(), documents_of(corpus), quantiles)}


def perplexity_tables(losses: Mapping[Pass, PassSums], corpus: Corpus, *, top_k: int) -> Tables:
    """Perplexity at each k and renorm."""
    frames = []
    for one, sums in losses.items():
        assert sums.loss is not None
        rows = sums.loss.documents().join(documents_of(corpus), on="document")
        frames.append(rows.with_columns(k=pl.lit(one.k, pl.Int64), renorm=pl.lit(one.renorm)))
    return {"perplexity": perplexity_table(pl.concat(frames), full_k=top_k)}


def lens_tables(rows: pl.DataFrame) -> Tables:
    """The lens over the corpus."""
    return {"lens": lens_table(rows)}


def claims_tables(tables: Tables) -> Tables:
    """The paper's claims, from whatever was measured."""
    wanted = ("perplexity", "concentration", "similarity", "lens", "specialization")
    return {"claims": claims_table(**{name: tables.get(name) for name in wanted})}


def _weights(mass: list[WeightMass], domains: tuple[str, ...]) -> pl.DataFrame:
    columns = ["layer", "weight_sum_mean", "rank1_share_mean"]
    parts = [
        sums.table().select(pl.lit(domain).alias("domain"), *columns)
        for domain, sums in zip(domains, mass, strict=True)
    ]
    return pl.concat(parts)
