"""Who matters: how close a part of the layer comes to all of it."""

from __future__ import annotations

from functools import partial

from moe_lens.report import figures, findings
from moe_lens.report.section import Figure, LensGrid, Section, columns

_LENS_STATES = (
    "At each layer a state is decoded as if it were the last one. The control is the residual "
    "stream without the layer's experts: only what lies above it is the experts' work."
)

SIMILARITY = Figure(
    "similarity",
    "similarity",
    "Is one expert as good as the layer?",
    "Cosine between two states: all chosen experts with the residual stream, and something "
    "smaller. The residual stream is in both and dominates, so a cosine near 1 says little until "
    "it is read against the controls: only the distance between the solid blue and the dashed "
    "grey line is the top expert's doing. Shared experts are left out on both sides.",
    figures.similarity,
    findings.similarity,
    columns(
        "domain", "layer", "quantity", "mean", "mean_low", "mean_high", "p05", "p50", "p95"
    ),
)  # fmt: skip
LENS_AGREEMENT = Figure(
    "lens_agreement",
    "lens",
    "Does one expert say the same word as the layer?",
    _LENS_STATES,
    figures.lens,
    partial(findings.lens, measure="agree_layer"),
    columns(
        "domain", "layer", "state", "num_tokens", "agree_layer", "agree_layer_low",
        "agree_layer_high", "agree_output", "agree_output_low", "agree_output_high",
    ),
)  # fmt: skip
LENS_KL = Figure(
    "lens_kl",
    "lens",
    "How far is each state from the model's answer?",
    "KL divergence from the model's final distribution to that of each state; 0 is the same. "
    + _LENS_STATES,
    partial(figures.lens, measure="kl_output_nats"),
    partial(findings.lens, measure="kl_output_nats"),
    columns(
        "domain", "layer", "state", "num_tokens", "kl_output_nats", "kl_output_nats_low",
        "kl_output_nats_high", "logprob_true_nats", "rank_true_median",
    ),
)  # fmt: skip

SECTION = Section(
    anchor="who-matters",
    heading="Who matters?",
    lead="How close one expert with the residual stream comes to the whole layer, in the hidden "
    "space and in words, and how much of that needs no expert at all.",
    parts=(
        SIMILARITY,
        LENS_AGREEMENT,
        LENS_KL,
        LensGrid(),
    ),
    always=True,
)
