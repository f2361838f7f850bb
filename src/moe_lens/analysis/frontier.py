"""Table `frontier`: what each policy costs in loss, and what it saves in work.

Loss is measured; work is counted (experts that ran) and, from that, calculated: parameters, FLOPs
and bytes are theoretical, and say so in their names. No kernel was timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from moe_lens.analysis.counts import frame, known, require
from moe_lens.analysis.intervals import means, rates
from moe_lens.analysis.perplexity import ALL, perplexity_ratio

FULL = "full"
"""The policy that every other is compared with."""

SCHEMA = pl.Schema(
    {
        "policy": pl.String,
        "family": pl.String,
        "domain": pl.String,
        "num_documents": pl.Int64,
        "num_tokens": pl.Int64,
        "nll_nats": pl.Float64,
        "loss_ratio": pl.Float64,
        "loss_ratio_low": pl.Float64,
        "loss_ratio_high": pl.Float64,
        "kl_nats": pl.Float64,
        "kl_nats_low": pl.Float64,
        "kl_nats_high": pl.Float64,
        "agreement": pl.Float64,
        "agreement_low": pl.Float64,
        "agreement_high": pl.Float64,
        "mean_k": pl.Float64,
        "distinct_experts_expected": pl.Float64,
        "distinct_experts_measured": pl.Float64,
        "active_parameters_theoretical": pl.Float64,
        "flops_per_token_theoretical": pl.Float64,
        "bytes_per_token_theoretical": pl.Float64,
        "pareto": pl.Boolean,
    }
)

COMPARISON = pl.Schema(
    {
        "policy": pl.String,
        "other": pl.String,
        "loss_ratio": pl.Float64,
        "loss_ratio_low": pl.Float64,
        "loss_ratio_high": pl.Float64,
        "verdict": pl.String,
        "kl_difference_nats": pl.Float64,
        "kl_difference_nats_low": pl.Float64,
        "kl_difference_nats_high": pl.Float64,
        "kl_verdict": pl.String,
    }
)


@dataclass(frozen=True)
class Sizes:
    """A model's weights, as far as the work of a token depends on them.

    Attributes:
        expert_parameters: Of one routed expert, for each MoE layer.
        lookup_parameters: Of the input embedding, where it is only looked up and never
            multiplied with; 0 where it is also the output matrix.
        other_parameters: All the rest: what every token passes.
        bytes_per_parameter: In the model's dtype.
    """

    expert_parameters: Mapping[int, int]
    lookup_parameters: int
    other_parameters: int
    bytes_per_parameter: int


def frontier_table(
    documents: pl.DataFrame,
    usage: pl.DataFrame,
    steps: pl.DataFrame,
    *,
    sizes: Sizes,
    step_sequences: int,
) -> pl.DataFrame:
    """Loss and work of every policy, by domain and for all documents together.

    Args:
        documents: Columns policy, domain, document, num_tokens, nll_nats, kl_nats,
            num_top1_agree: `Evaluation.documents`, the policy `full` among them.
        usage: Columns policy, domain, layer, expert, num_tokens, num_domain_tokens.
        steps: Columns policy, layer, num_steps, num_distinct.
        sizes: The model's weights.
        step_sequences: B, the sequences of a decoding step.

    Returns:
        The table of tables.md, policies in the order of `documents`. `family` is the policy's name
        without its value, the part after the first colon. `pareto`: no other policy has both at
        most its `mean_k` and at most its `loss_ratio`, by point estimates, one of them smaller.
        `distinct_experts_measured` and with it `bytes_per_token_theoretical` exist for `all`
        alone, since the sequences of a step come from all domains.

    Raises:
        ValueError: A column is missing, a domain is named `all`, or a policy was not evaluated on
            the tokens of the full model.
    """
    for name, table, columns in (
        (
            "documents",
            documents,
            ("policy", "domain", "document", "num_tokens", "nll_nats", "kl_nats", "num_top1_agree"),
        ),
        (
            "usage",
            usage,
            ("policy", "domain", "layer", "expert", "num_tokens", "num_domain_tokens"),
        ),
        ("steps", steps, ("policy", "layer", "num_steps", "num_distinct")),
    ):
        require(table, columns, name=name)
    if ALL in documents["domain"]:
        raise ValueError(f"a domain is named {ALL!r}, which stands for all domains: rename it")
    paired = _paired(documents)
    work = _work(usage, step_sequences=step_sequences)
    measured = _measured(steps)
    rows = []
    policies = documents["policy"].unique(maintain_order=True).to_list()
    domains = documents["domain"].unique(maintain_order=True).to_list()
    for policy in policies:
        here = paired.filter(pl.col("policy") == policy)
        for domain in (ALL, *domains):
            part = here if domain == ALL else here.filter(pl.col("domain") == domain)
            layers = work[policy, domain]
            distinct = measured.get(policy) if domain == ALL else None
            rows.append(
                {"policy": policy, "family": _family(policy), "domain": domain}
                | _loss(part)
                | (_AGREES if policy == FULL else {})
                | _costs(layers, distinct, sizes=sizes, step_sequences=step_sequences)
            )
    table = frame(rows, pl.Schema({name: SCHEMA[name] for name in SCHEMA if name != "pareto"}))
    return _with_pareto(table)


def compare_policies(documents: pl.DataFrame, pairs: Sequence[tuple[str, str]]) -> pl.DataFrame:
    """Pairs of policies on the same tokens: which loses more, and which is further off the model.

    The two can disagree: a policy may move the model's distribution less and yet lose more, where
    the full model is not at its best.

    Args:
        documents: As for `frontier_table`.
        pairs: Names of policies.

    Returns:
        One row a pair, over all documents. Columns: policy, other, loss_ratio (perplexity of
        `policy` over that of `other`), loss_ratio_low, loss_ratio_high, verdict (`more` or `less`
        where the whole interval says so, else `not told`); the same for the difference of their
        KL: kl_difference_nats, _low, _high, kl_verdict (`further` or `nearer`).

    Raises:
        ValueError: A policy is not in the table, or the two have other tokens.
    """
    needed = ("policy", "document", "num_tokens", "nll_nats", "kl_nats")
    require(documents, needed, name="documents")
    rows = []
    for policy, other in pairs:
        left, right = (documents.filter(pl.col("policy") == name) for name in (policy, other))
        for name, part in ((policy, left), (other, right)):
            if part.is_empty():
                raise ValueError(f"policy {name!r} was not evaluated")
        both = left.join(right, on="document", suffix="_other")
        if both.height != left.height or (both["num_tokens"] != both["num_tokens_other"]).any():
            raise ValueError(f"{policy!r} and {other!r} were not evaluated on the same tokens")
        tokens = both["num_tokens"].to_numpy().astype(np.float64)
        extra, moved = (
            (both[name] - both[f"{name}_other"]).to_numpy().astype(np.float64)
            for name in ("nll_nats", "kl_nats")
        )
        ratio, kl = perplexity_ratio(extra, tokens), means(moved[:, None], tokens)
        low, high = known(float(kl.low[0])), known(float(kl.high[0]))
        rows.append(
            {
                "policy": policy,
                "other": other,
                "loss_ratio": ratio.value,
                "loss_ratio_low": ratio.low,
                "loss_ratio_high": ratio.high,
                "verdict": _verdict(ratio.low, ratio.high, 1.0, ("more", "less")),
                "kl_difference_nats": float(kl.value[0]),
                "kl_difference_nats_low": low,
                "kl_difference_nats_high": high,
                "kl_verdict": _verdict(low, high, 0.0, ("further", "nearer")),
            }
        )
    return frame(rows, COMPARISON)


def _verdict(low: float | None, high: float | None, at: float, words: tuple[str, str]) -> str:
    """The first word for an interval above `at`, the second below."""
    if low is None or high is None:
        return "not told"
    return words[0] if low > at else words[1] if high < at else "not told"


def _family(policy: str) -> str:
    first, *others = policy.split(":")
    return ":".join([first, *others[1:]])


def _paired(documents: pl.DataFrame) -> pl.DataFrame:
    full = documents.filter(pl.col("policy") == FULL).select("document", "num_tokens", "nll_nats")
    paired = documents.join(full, on="document", how="left", suffix="_full", maintain_order="left")
    uneven = paired.filter(~pl.col("num_tokens").eq_missing(pl.col("num_tokens_full")))
    if uneven.height:
        first = uneven.row(0, named=True)
        raise ValueError(
            f"policy {first['policy']!r}, document {first['document']}: {first['num_tokens']} "
            f"predicted tokens, the full model {first['num_tokens_full']}; losses are compared on "
            f"the same tokens"
        )
    return paired


def _loss(part: pl.DataFrame) -> dict[str, float | int | None]:
    tokens = part["num_tokens"].to_numpy().astype(np.float64)
    nll, full = (part[name].to_numpy().astype(np.float64) for name in ("nll_nats", "nll_nats_full"))
    ratio = perplexity_ratio(nll - full, tokens)
    kl = means(part["kl_nats"].to_numpy().astype(np.float64)[:, None], tokens)
    agreement = rates(part["num_top1_agree"].to_numpy()[:, None], tokens)
    found: dict[str, float | int | None] = {
        "num_documents": part.height,
        "num_tokens": int(tokens.sum()),
        "nll_nats": float(nll.sum() / tokens.sum()),
        "loss_ratio": ratio.value,
        "loss_ratio_low": ratio.low,
        "loss_ratio_high": ratio.high,
    }
    for name, told in (("kl_nats", kl), ("agreement", agreement)):
        ends = (told.value[0], told.low[0], told.high[0])
        places = (name, f"{name}_low", f"{name}_high")
        found |= {place: known(float(end)) for place, end in zip(places, ends, strict=True)}
    return found


_AGREES = {"agreement_low": 1.0, "agreement_high": 1.0}
"""The full model agrees with itself by definition, not by sample."""


@dataclass(frozen=True)
class _LayerWork:
    mean_k: float
    distinct: float


def _work(
    usage: pl.DataFrame, *, step_sequences: int
) -> dict[tuple[str, str], dict[int, _LayerWork]]:
    """By policy and domain: mean active slots and expected distinct experts of each layer."""
    pooled = usage.group_by("policy", "layer", "expert").agg(
        pl.col("num_tokens", "num_domain_tokens").sum(), domain=pl.lit(ALL)
    )
    rate = pl.col("num_tokens") / pl.col("num_domain_tokens")
    works = 1 - (1 - rate).pow(step_sequences)
    found: dict[tuple[str, str], dict[int, _LayerWork]] = {}
    for part in (usage, pooled):
        sums = part.group_by("policy", "domain", "layer").agg(
            mean_k=rate.sort_by("expert").sum(), distinct=works.sort_by("expert").sum()
        )
        for row in sums.sort("policy", "domain", "layer").iter_rows(named=True):
            layers = found.setdefault((row["policy"], row["domain"]), {})
            layers[row["layer"]] = _LayerWork(row["mean_k"], row["distinct"])
    return found


def _measured(steps: pl.DataFrame) -> dict[str, dict[int, float]]:
    """By policy: mean distinct experts of a decoding step of each layer; nothing without steps."""
    found: dict[str, dict[int, float]] = {}
    for row in steps.filter(pl.col("num_steps") > 0).sort("layer").iter_rows(named=True):
        mean = row["num_distinct"] / row["num_steps"]
        found.setdefault(row["policy"], {})[row["layer"]] = mean
    return found


def _costs(
    layers: Mapping[int, _LayerWork],
    distinct: Mapping[int, float] | None,
    *,
    sizes: Sizes,
    step_sequences: int,
) -> dict[str, float | None]:
    each = sizes.expert_parameters
    routed = sum(work.mean_k * each[layer] for layer, work in layers.items())
    read = None
    if distinct is not None:
        loaded = sum(count * each[layer] for layer, count in distinct.items())
        read = sizes.bytes_per_parameter * (sizes.other_parameters + loaded) / step_sequences
    return {
        "mean_k": float(np.mean([work.mean_k for work in layers.values()])),
        "distinct_experts_expected": float(np.mean([work.distinct for work in layers.values()])),
        "distinct_experts_measured": None
        if distinct is None
        else float(np.mean(list(distinct.values()))),
        "active_parameters_theoretical": sizes.lookup_parameters + sizes.other_parameters + routed,
        "flops_per_token_theoretical": 2 * (sizes.other_parameters + routed),
        "bytes_per_token_theoretical": read,
    }


def _with_pareto(table: pl.DataFrame) -> pl.DataFrame:
    flags = np.zeros(table.height, dtype=bool)
    places = table.with_row_index("place")
    for part in places.partition_by("domain"):
        k, ratio = (part[name].to_numpy().astype(np.float64) for name in ("mean_k", "loss_ratio"))
        no_worse = (k[:, None] <= k) & (ratio[:, None] <= ratio)
        better = (k[:, None] < k) | (ratio[:, None] < ratio)
        flags[part["place"].to_numpy()] = ~(no_worse & better).any(axis=0)
    return table.with_columns(pareto=pl.Series(flags))
