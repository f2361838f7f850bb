"""What can go: what fewer active experts cost."""

from __future__ import annotations

import polars as pl

from moe_lens.report import figures, findings
from moe_lens.report.section import Figure, Section, columns


def _lacks_range(frame: pl.DataFrame) -> str | None:
    if frame["minmax"].is_not_null().any():
        return None
    return "it needs the loss at two numbers of active experts or more"


PERPLEXITY = Figure(
    "perplexity",
    "perplexity",
    "What do fewer active experts cost?",
    "The model is run end to end with only its k highest-weighted experts. 1 is no loss; 1.05 is "
    "5 % more perplexity. The lines differ in what becomes of the weights that stay.",
    figures.perplexity,
    findings.perplexity,
    columns(
        "domain", "k", "renorm", "num_documents", "num_tokens", "perplexity_tokens",
        "perplexity_mean", "perplexity_geometric", "ratio_tokens", "ratio_tokens_low",
        "ratio_tokens_high", "ratio_geometric", "minmax",
    ),
)  # fmt: skip

PERPLEXITY_MINMAX = Figure(
    "perplexity_minmax",
    "perplexity",
    "What shape has the loss?",
    "The curve as the paper draws it: of each domain, the worst k is 1 and the best 0. It shows "
    "where the loss falls, and hides how large it is; the figure above says that.",
    figures.perplexity_minmax,
    findings.perplexity_minmax,
    columns("domain", "renorm", "k", "perplexity_tokens", "minmax"),
    lacking=_lacks_range,
)

SECTION = Section(
    anchor="what-can-go",
    heading="What can go?",
    lead="What the model loses when fewer experts work.",
    parts=(PERPLEXITY, PERPLEXITY_MINMAX),
    always=True,
)
