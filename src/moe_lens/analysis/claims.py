"""Table `claims`: what the paper claims, and whether it holds on this model and text.

Every rule is stated where it is applied. `holds` and `does not hold` need the whole interval on
one side; anything else, a missing interval included, is `cannot be told`. An aggregate's interval
goes from the mean of the lower to the mean of the upper ends, which is as wide as if all layers
and domains erred together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import polars as pl

from moe_lens.analysis.counts import frame, require
from moe_lens.analysis.judging import (
    Measure,
    Verdict,
    above,
    average,
    below,
    between,
    closes,
    mean_of,
    percent,
    says,
    says_closed,
    share,
)
from moe_lens.analysis.perplexity import ALL

SCHEMA = pl.Schema(
    {
        "claim": pl.String,
        "statement": pl.String,
        "published": pl.Float64,
        "measured": pl.Float64,
        "measured_low": pl.Float64,
        "measured_high": pl.Float64,
        "control": pl.Float64,
        "control_name": pl.String,
        "verdict": pl.String,
        "sentence": pl.String,
    }
)

_COST = 1.055
"""The largest ratio that is still called 5 %: what rounds to it."""

_HALF_OF_UNIFORM = 0.5
"""Few experts: at most this part of what uniform routing needs."""

_WELL_ABOVE = 2.0
"""Well above k/N: at least this many times as much."""


class _Cosines(NamedTuple):
    one: pl.DataFrame
    alone: pl.DataFrame


@dataclass(frozen=True)
class Claim:
    """One row of the table. None is what was not published, or cannot be told."""

    claim: str
    statement: str
    published: float | None
    measured: float | None
    measured_low: float | None
    measured_high: float | None
    control: float | None
    control_name: str
    verdict: Verdict
    sentence: str


def claims_table(
    *,
    perplexity: pl.DataFrame | None = None,
    concentration: pl.DataFrame | None = None,
    similarity: pl.DataFrame | None = None,
    lens: pl.DataFrame | None = None,
    specialization: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The paper's claims, judged from a run's tables.

    A table that was not measured, is empty, or lacks the rows a claim needs leaves its claims out.

    Args:
        perplexity: Table `perplexity`; needs k = 1 and the ratio to the full model.
        concentration: Table `concentration`.
        similarity: Table `similarity`; needs `cos_h1_hk` and `cos_resid_hk`.
        lens: Table `lens`; needs the states `rank1` and `resid`.
        specialization: Table `specialization`.

    Returns:
        The table of tables.md, in the order of the paper.
    """
    found: list[Claim | None] = []
    if specialization is not None:
        found.append(specialized_experts(specialization))
    if concentration is not None:
        found.append(few_experts(concentration))
    if lens is not None:
        found.append(rank1_decodes_layer(lens))
    if similarity is not None:
        found += [similar_states(similarity), highest_similarity(similarity)]
    if perplexity is not None:
        found.append(single_expert_cost(perplexity))
    return frame([asdict(claim) for claim in found if claim is not None], SCHEMA)


def single_expert_cost(perplexity: pl.DataFrame) -> Claim | None:
    """One active expert costs about 5 % perplexity.

    Measured: `ratio_tokens` of all documents at k = 1 (renorm `native` if it was run). Holds if
    the interval stays at or below 1.055, does not if it stays above. Control: the fewest active
    experts whose cost is within it.
    """
    require(perplexity, ("domain", "k", "renorm", "ratio_tokens"), name="perplexity")
    runs = perplexity.filter((pl.col("domain") == ALL) & pl.col("ratio_tokens").is_not_null())
    modes = sorted(
        runs.filter(pl.col("k") == 1)["renorm"], key=lambda name: (name != "native", name)
    )
    if not modes or runs["k"].n_unique() < 2:
        return None
    runs = runs.filter(pl.col("renorm") == modes[0]).sort("k")
    one = runs.row(0, named=True)
    measured = Measure(one["ratio_tokens"], one["ratio_tokens_low"], one["ratio_tokens_high"])
    cheap = runs.filter(pl.col("ratio_tokens") <= _COST)["k"]
    enough = int(cheap.min()) if len(cheap) else None  # type: ignore[arg-type]
    verdict = below(measured, _COST)
    tail = (
        f"the fewest active experts that cost at most 5 % are {enough}"
        if enough is not None
        else "no number of active experts that was run costs at most 5 %"
    )
    return Claim(
        claim="single_expert_cost",
        statement="One active expert in place of all raises perplexity by only 5 %.",
        published=1.05,
        measured=measured.value,
        measured_low=measured.low,
        measured_high=measured.high,
        control=None if enough is None else float(enough),
        control_name="fewest active experts within 5 %",
        verdict=verdict,
        sentence=(
            f"With one active expert perplexity changes by {percent(measured.value - 1)}"
            f"{between(measured, lambda ratio: percent(ratio - 1))}, published +5 %; {tail}: "
            f"{says(verdict)}."
        ),
    )


def few_experts(concentration: pl.DataFrame) -> Claim | None:
    """Very few experts take over half of the routing decisions.

    Measured: n50, mean over domains and layers. Control: uniform routing, N / 2. Holds if the
    interval stays at or below half of the control, does not if it stays above.
    """
    columns = ("n50_experts", "n50_experts_low", "n50_experts_high", "n50_experts_uniform")
    require(concentration, columns, name="concentration")
    if concentration.is_empty():
        return None
    measured = mean_of(concentration, "n50_experts", "n50_experts_low", "n50_experts_high")
    uniform = average(concentration["n50_experts_uniform"])
    few = _HALF_OF_UNIFORM * uniform
    verdict = below(measured, few)
    return Claim(
        claim="few_experts",
        statement="Very few experts handle over 50 % of routing decisions.",
        published=None,
        measured=measured.value,
        measured_low=measured.low,
        measured_high=measured.high,
        control=uniform,
        control_name="uniform routing",
        verdict=verdict,
        sentence=(
            f"Half of the decisions take {measured.value:.1f} experts"
            f"{between(measured, '{:.1f}'.format)} as a mean over domains and layers, uniform "
            f"routing {uniform:.1f}; few would be at most {few:.1f}: {says(verdict)}."
        ),
    )


def similar_states(similarity: pl.DataFrame) -> Claim | None:
    """H_1 is close to H_k.

    Measured: cos(H_1, H_k), mean over domains and layers. Control: the residual alone. Holds if
    one expert surely closes at least half of the distance to 1 that the residual alone leaves
    (interval above the midpoint from the control's upper end), does not if it surely closes less.
    """
    one, alone = _cosines(similarity)
    if one.is_empty() or alone.is_empty():
        return None
    measured = mean_of(one, "mean", "mean_low", "mean_high")
    control = mean_of(alone, "mean", "mean_low", "mean_high")
    verdict = closes(measured, control)
    return Claim(
        claim="similar_states",
        statement="The residual stream with the top expert alone is close to that with all.",
        published=None,
        measured=measured.value,
        measured_low=measured.low,
        measured_high=measured.high,
        control=control.value,
        control_name="residual only",
        verdict=verdict,
        sentence=(
            f"cos(H_1, H_k) is {measured.value:.3f}{between(measured, '{:.3f}'.format)} as a mean "
            f"over domains and layers, and {control.value:.3f} with no expert at all; "
            f"{says_closed(measured, control)}: {says(verdict)}."
        ),
    )


def highest_similarity(similarity: pl.DataFrame) -> Claim | None:
    """Cosine similarity of H_1 and H_k reaches 0.95.

    Measured: the domain and layer with the largest mean. Control: the residual alone there. Does
    not hold if the interval stays below 0.945, or if the residual alone surely reaches as much
    (its lower end at or above 0.945: the expert is not what does it); holds if the interval stays
    at or above 0.945 and the control's below.
    """
    one, alone = _cosines(similarity)
    both = one.join(alone, on=["domain", "layer"], suffix="_alone").sort("domain", "layer")
    if both.is_empty():
        return None
    best = both.row(int(both["mean"].arg_max() or 0), named=True)
    measured = Measure(best["mean"], best["mean_low"], best["mean_high"])
    control = Measure(best["mean_alone"], best["mean_low_alone"], best["mean_high_alone"])
    reached, without = above(measured, 0.945), above(control, 0.945)
    verdict: Verdict = "cannot be told"
    if reached == "does not hold" or without == "holds":
        verdict = "does not hold"
    elif reached == "holds" and without == "does not hold":
        verdict = "holds"
    reason = ", so the expert is not what does it" if without == "holds" else ""
    return Claim(
        claim="highest_similarity",
        statement="The cosine of the states with one and with all experts is up to 0.95.",
        published=0.95,
        measured=measured.value,
        measured_low=measured.low,
        measured_high=measured.high,
        control=control.value,
        control_name="residual only",
        verdict=verdict,
        sentence=(
            f"The largest mean cos(H_1, H_k) is {measured.value:.3f}"
            f"{between(measured, '{:.3f}'.format)}, in layer {best['layer']} on "
            f"{best['domain']}, published 0.95; with no expert at all it is "
            f"{control.value:.3f} there{reason}: {says(verdict)}."
        ),
    )


def rank1_decodes_layer(lens: pl.DataFrame) -> Claim | None:
    """The top-1 expert, on the residual, decodes like the layer.

    Measured: agreement of the top token with that of the layer's output, mean over domains and
    layers. Control: the residual alone. The rule is that of `similar_states`.
    """
    columns = ("state", "agree_layer", "agree_layer_low", "agree_layer_high")
    require(lens, columns, name="lens")
    one = lens.filter(pl.col("state") == "rank1")
    alone = lens.filter(pl.col("state") == "resid")
    if one.is_empty() or alone.is_empty():
        return None
    measured, control = (mean_of(rows, *columns[1:]) for rows in (one, alone))
    verdict = closes(measured, control)
    return Claim(
        claim="rank1_decodes_layer",
        statement="The top-1 expert, added to the residual, decodes to what the layer decodes to.",
        published=15 / 27,
        measured=measured.value,
        measured_low=measured.low,
        measured_high=measured.high,
        control=control.value,
        control_name="residual only",
        verdict=verdict,
        sentence=(
            f"Residual and top-1 expert decode to the layer's token in {share(measured.value)} of "
            f"cases{between(measured, share)}, the residual alone in "
            f"{share(control.value)}; {says_closed(measured, control)}: {says(verdict)}."
        ),
    )


def specialized_experts(specialization: pl.DataFrame) -> Claim | None:
    """In each domain and layer the busiest expert is chosen well above k / N.

    Measured: the largest rate, mean over domains and layers; its lower end is the mean of the
    largest lower ends, its upper end of the largest upper ends. Control: the rate of the same
    experts in the other domains (k / N if there is one domain): an expert that is busy everywhere
    is not specialised. Holds if the interval stays above 2 k / N and above the control, does not
    if it stays below either.
    """
    columns = ("domain", "layer", "expert", "rate", "rate_low", "rate_high", "baseline")
    require(specialization, columns, name="specialization")
    if specialization.is_empty():
        return None
    ends = specialization.group_by("domain", "layer", maintain_order=True).agg(
        pl.col("rate", "rate_low", "rate_high").max()
    )
    measured = mean_of(ends, "rate", "rate_low", "rate_high")
    largest = float(ends["rate"].to_numpy().max())
    baseline = average(specialization["baseline"])
    elsewhere = _rate_elsewhere(specialization)
    control = baseline if elsewhere is None else elsewhere
    threshold = max(_WELL_ABOVE * baseline, control)
    verdict = above(measured, threshold)
    beside = (
        f"k / N being {share(baseline)} and there being no other domain to compare with"
        if elsewhere is None
        else f"the same experts' in the other domains {share(control)}, "
        f"k / N being {share(baseline)}"
    )
    return Claim(
        claim="specialized_experts",
        statement="Experts are chosen in their domain well above the uniform rate k / N.",
        published=0.728,
        measured=measured.value,
        measured_low=measured.low,
        measured_high=measured.high,
        control=control,
        control_name="k / N" if elsewhere is None else "same experts in other domains",
        verdict=verdict,
        sentence=(
            f"The busiest expert's rate is {share(measured.value)}"
            f"{between(measured, share)} as a mean over domains and layers, {beside}; "
            f"the largest of all is {share(largest)}, published 72.8 %: {says(verdict)}."
        ),
    )


def _cosines(similarity: pl.DataFrame) -> _Cosines:
    """Rows of the states with one expert, and with none."""
    columns = ("domain", "layer", "quantity", "mean", "mean_low", "mean_high")
    require(similarity, columns, name="similarity")
    rows = similarity.select(columns)
    return _Cosines(
        one=rows.filter(pl.col("quantity") == "cos_h1_hk"),
        alone=rows.filter(pl.col("quantity") == "cos_resid_hk"),
    )


def _rate_elsewhere(specialization: pl.DataFrame) -> float | None:
    """Mean rate of each domain and layer's busiest expert in all other domains."""
    busiest = (
        specialization.sort("rate", "expert", descending=[True, False])
        .group_by("domain", "layer", maintain_order=True)
        .first()
        .select("domain", "layer", "expert")
    )
    others = busiest.join(
        specialization.select("layer", "expert", "rate", other="domain"), on=["layer", "expert"]
    ).filter(pl.col("other") != pl.col("domain"))
    if others.is_empty():
        return None
    return average(
        others.group_by("domain", "layer", maintain_order=True).agg(pl.col("rate").mean())["rate"]
    )
