"""Table `overlap`: how much two domains use the same experts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl
from jaxtyping import Num
from scipy import stats

from moe_lens.analysis.counts import frame, require
from moe_lens.stats.concentration import n50

SCHEMA = pl.Schema(
    {
        "layer": pl.Int64,
        "domain_a": pl.String,
        "domain_b": pl.String,
        "cosine": pl.Float64,
        "shared_busiest": pl.Float64,
        "shared_busiest_uniform": pl.Float64,
    }
)


def overlap_table(usage: pl.DataFrame) -> pl.DataFrame:
    """Likeness of the usage of every two domains, per layer.

    Args:
        usage: Columns domain, layer, expert, num_tokens, with a row for every expert: what
            `domain_usage` gives, or the table `specialization`. Domains in which no token chose
            an expert at a layer are left out there.

    Returns:
        The table of tables.md, by layer, domain_a, domain_b (`domain_a` < `domain_b`).
        `shared_busiest` is 1 where the n50 busiest experts are the same, 0 where none is shared.
    """
    require(usage, ("domain", "layer", "expert", "num_tokens"), name="usage")
    rows = []
    for (layer,), here in sorted(usage.partition_by("layer", as_dict=True).items()):
        num_experts = int(here["expert"].n_unique())
        counts = {
            str(domain): group.sort("expert")["num_tokens"].to_numpy()
            for (domain,), group in sorted(here.partition_by("domain", as_dict=True).items())
            if group["num_tokens"].sum() > 0
        }
        for domain, row in counts.items():
            if len(row) != num_experts:
                raise ValueError(
                    f"layer {layer}, domain {domain}: {len(row)} rows for {num_experts} experts; "
                    f"experts without tokens need their row too"
                )
        busiest = {domain: _busiest(row) for domain, row in counts.items()}
        for a, b in combinations(counts, 2):
            x, y = counts[a].astype(np.float64), counts[b].astype(np.float64)
            both, either = len(busiest[a] & busiest[b]), len(busiest[a] | busiest[b])
            rows.append(
                {
                    "layer": layer,
                    "domain_a": a,
                    "domain_b": b,
                    "cosine": float(x @ y / np.sqrt((x @ x) * (y @ y))),
                    "shared_busiest": both / either,
                    "shared_busiest_uniform": expected_jaccard(
                        len(busiest[a]), len(busiest[b]), num_experts=num_experts
                    ),
                }
            )
    return frame(rows, SCHEMA)


def expected_jaccard(size_a: int, size_b: int, *, num_experts: int) -> float:
    """The mean Jaccard index of two random sets of these sizes among `num_experts`."""
    shared = np.arange(min(size_a, size_b) + 1)
    chance = stats.hypergeom.pmf(shared, num_experts, size_a, size_b)
    return float((chance * shared / (size_a + size_b - shared)).sum())


def _busiest(counts: Num[np.ndarray, " expert"]) -> set[int]:
    """The n50 busiest experts; of equals, those of lower index."""
    return {int(e) for e in np.argsort(-counts, kind="stable")[: n50(counts)]}
