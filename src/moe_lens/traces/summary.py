"""What a trace says of each domain and layer, in one table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from moe_lens.stats.concentration import concentration_table
from moe_lens.stats.usage import Usage
from moe_lens.stats.weight_mass import WeightMass
from moe_lens.traces.reader import Trace


def usage_by_domain(trace: Trace) -> pl.DataFrame:
    """How often each domain's tokens chose each expert, beside what chance would give.

    Columns: domain, layer, expert, num_tokens, share, specialization, baseline (active slots per
    token / experts; top_k / experts for a model's own routing).
    """
    return pl.concat([_usage(domain, sums.usage) for domain, sums in _by_domain(trace)])


def summary_by_domain(trace: Trace) -> pl.DataFrame:
    """One row for each domain and layer.

    Columns: domain, layer, num_tokens, n50_experts, entropy_normalized, gini, busiest_share,
    largest_specialization, busiest_expert; where weights were recorded also weight_sum_mean and
    rank1_share_mean.
    """
    tables = []
    for domain, sums in _by_domain(trace):
        usage = _usage(domain, sums.usage)
        tokens = {layer: sums.usage.num_tokens(layer) for layer in sums.usage.layers}
        busiest = usage.filter(
            pl.col("num_tokens") == pl.col("num_tokens").max().over("layer")
        ).group_by("layer")
        table = pl.DataFrame({"layer": tokens.keys(), "num_tokens": tokens.values()})
        table = table.join(concentration_table(usage), on="layer")
        table = table.join(busiest.agg(busiest_expert=pl.col("expert").min()), on="layer")
        if trace.manifest.has_weights:
            columns = ["layer", "weight_sum_mean", "rank1_share_mean"]
            table = table.join(sums.mass.table().select(columns), on="layer")
        tables.append(table.select(pl.lit(domain).alias("domain"), pl.all()))
    return pl.concat(tables).sort("domain", "layer")


class _Sums(NamedTuple):
    usage: Usage
    mass: WeightMass


def _by_domain(trace: Trace) -> Iterator[tuple[str, _Sums]]:
    for domain in trace.domains()["domain"]:
        sums = _Sums(Usage(), WeightMass())
        for event in trace.events(domains=[domain]):
            sums.usage.update(event)
            sums.mass.update(event)
        yield domain, sums


def _usage(domain: str, usage: Usage) -> pl.DataFrame:
    table = usage.table()
    per_token = pl.col("specialization").sum() / pl.len()
    return table.select(
        pl.lit(domain).alias("domain"), pl.all(), per_token.over("layer").alias("baseline")
    )
