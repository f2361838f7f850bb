"""Fewer active experts: what each policy loses, and what it saves."""

from __future__ import annotations

import polars as pl

from moe_lens.report import figures
from moe_lens.report import frontier_findings as findings
from moe_lens.report.section import Figure, Section


def _excerpt(frame: pl.DataFrame) -> pl.DataFrame:
    """All domains together first, the cheapest policies first."""
    order = pl.col("domain") != "all"
    return frame.sort(order, "domain", "mean_k", maintain_order=True).select(
        "policy", "domain", "num_documents", "loss_ratio", "loss_ratio_low", "loss_ratio_high",
        "kl_nats", "agreement", "mean_k", "distinct_experts_measured",
        "active_parameters_theoretical", "flops_per_token_theoretical",
        "bytes_per_token_theoretical", "pareto",
    )  # fmt: skip


FRONTIER = Figure(
    "frontier",
    "frontier",
    "What does each expert that is left out cost?",
    "The model is run end to end under each policy, and compared with itself on the same tokens. "
    "To the left: fewer experts. Down: less loss. Policies that are fitted (dp, scale, naee, "
    "entropy quantiles) were fitted on other documents. Parameters, FLOPs and bytes are "
    "calculated from counts of experts, not timed.",
    figures.frontier,
    findings.frontier,
    _excerpt,
)
READS = Figure(
    "frontier_reads",
    "frontier",
    "And what does it save where several sequences decode at once?",
    "Sequences that decode side by side share the experts that are read. What a step reads is the "
    "number of distinct experts, which falls more slowly than the experts of a token.",
    figures.frontier_reads,
    findings.frontier_reads,
    lambda frame: _excerpt(frame.filter(pl.col("domain") == "all")),
)

SECTION = Section(
    anchor="fewer-experts",
    heading="Fewer active experts",
    lead="What the model loses, and what is saved, when each token uses fewer experts: the same "
    "number everywhere, another in each layer, or as many as the token's router asks for.",
    parts=(FRONTIER, READS),
)
