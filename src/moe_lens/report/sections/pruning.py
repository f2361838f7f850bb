"""What can go: a plan, what it costs, and what it was measured beside."""

from __future__ import annotations

import polars as pl

from moe_lens.report import figures, pruned
from moe_lens.report.section import Figure, Listing, Section, columns, everything


def _going(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("kept") == 0).sort("layer", "expert")


PLAN = Figure(
    "plan",
    "plan",
    "Which experts stay?",
    "One row for each layer, one column for each expert of the original. The plan's file says what "
    "ranked them and on what text.",
    figures.plan,
    pruned.plan,
    _going,
)
SIMULATION = Figure(
    "simulation",
    "simulation",
    "What does the model lose without the others?",
    "The experts that go are masked: others take their place, as in the pruned checkpoint. 1 is no "
    "loss. A plan is worth something only where it is left of the random experts and of the most "
    "frequent ones. Giving slots weight 0 instead is how pruning is often simulated; it is not "
    "what a pruned model does.",
    figures.simulation,
    pruned.simulation,
    columns(
        "domain", "policy", "text", "num_documents", "num_tokens", "loss_ratio", "loss_ratio_low",
        "loss_ratio_high", "plan_ratio", "plan_ratio_low", "plan_ratio_high", "kl_nats",
        "agreement",
    ),
)  # fmt: skip

EXPORT = Listing(
    "export",
    "export",
    "What was written?",
    "The checkpoint without the experts that go. Unless the last row says otherwise, it was loaded "
    "again and compared with the original under the plan before it got its name.",
    everything,
)

SECTION = Section(
    anchor="pruning",
    heading="What is left after pruning?",
    lead="Experts of a plan masked in place and measured, beside choices that know less.",
    parts=(SIMULATION, PLAN, EXPORT),
)
