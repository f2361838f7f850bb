"""Figures of a run, one declarative Altair chart each, from the tables of `docs/tables.md`.

In a notebook: `figures.similarity(polars.read_parquet("DIR/tables/similarity.parquet"))`.
"""

from moe_lens.report.figures.base import Chart
from moe_lens.report.figures.compared import (
    compared_concentration,
    compared_identity,
    compared_perplexity,
    compared_specialization,
)
from moe_lens.report.figures.effect import lens, perplexity, perplexity_minmax, similarity
from moe_lens.report.figures.frontier import frontier, frontier_reads
from moe_lens.report.figures.pruning import plan, simulation
from moe_lens.report.figures.routing import (
    concentration,
    heatmap,
    information,
    overlap,
    specialization,
)
from moe_lens.report.figures.scores import (
    causal,
    importance_agreement,
    prediction,
    stability,
)

__all__ = [
    "Chart",
    "causal",
    "compared_concentration",
    "compared_identity",
    "compared_perplexity",
    "compared_specialization",
    "concentration",
    "frontier",
    "frontier_reads",
    "heatmap",
    "importance_agreement",
    "information",
    "lens",
    "overlap",
    "perplexity",
    "perplexity_minmax",
    "plan",
    "prediction",
    "similarity",
    "simulation",
    "specialization",
    "stability",
]
