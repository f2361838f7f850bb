"""Table `simulation`: what a plan costs, beside what its controls cost on the same tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from moe_lens.analysis.counts import frame, known, require
from moe_lens.analysis.intervals import means, rates
from moe_lens.analysis.perplexity import ALL, Ratio, perplexity_ratio

FULL = "full"
PLAN = "plan"
"""The policy that the others are controls of."""

SCHEMA = pl.Schema(
    {
        "policy": pl.String,
        "kind": pl.String,
        "domain": pl.String,
        "text": pl.String,
        "num_documents": pl.Int64,
        "num_tokens": pl.Int64,
        "nll_nats": pl.Float64,
        "loss_ratio": pl.Float64,
        "loss_ratio_low": pl.Float64,
        "loss_ratio_high": pl.Float64,
        "plan_ratio": pl.Float64,
        "plan_ratio_low": pl.Float64,
        "plan_ratio_high": pl.Float64,
        "kl_nats": pl.Float64,
        "kl_nats_low": pl.Float64,
        "kl_nats_high": pl.Float64,
        "agreement": pl.Float64,
        "agreement_low": pl.Float64,
        "agreement_high": pl.Float64,
    }
)


@dataclass(frozen=True)
class _Told:
    value: float | None
    low: float | None
    high: float | None

    def named(self, name: str) -> dict[str, float | None]:
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def simulation_table(
    documents: pl.DataFrame,
    *,
    kinds: Mapping[str, str],
    text: Mapping[str, str],
    reference: str = PLAN,
) -> pl.DataFrame:
    """Loss of the full model, of the plan and of every control, by domain and for all documents.

    Args:
        documents: Columns policy, domain, document, num_tokens, nll_nats, kl_nats,
            num_top1_agree: `study.evaluation.Evaluation.documents`.
        kinds: What each policy is: plan, random, frequency, drop; `full` is added.
        text: What each domain is to the plan: see `text_of`.
        reference: The policy that is the plan.

    Returns:
        The table of tables.md. `loss_ratio` is perplexity as a multiple of the full model's,
        `plan_ratio` the plan's perplexity as a multiple of this policy's: below 1 the plan is
        better. Both are paired on the same documents.

    Raises:
        ValueError: A column is missing, a domain is named `all`, or policies did not see the same
            tokens.
    """
    wanted = ("policy", "domain", "document", "num_tokens", "nll_nats", "kl_nats", "num_top1_agree")
    require(documents, wanted, name="documents")
    if ALL in documents["domain"]:
        raise ValueError(f"a domain is named {ALL!r}, which stands for all domains: rename it")
    sizes = documents.group_by("document").agg(pl.col("num_tokens").n_unique(), pl.len())
    num_policies = documents["policy"].n_unique()
    uneven = sizes.filter((pl.col("num_tokens") > 1) | (pl.col("len") != num_policies))
    if uneven.height:
        first = uneven.sort("document")["document"][0]
        raise ValueError(
            f"document {first}: policies saw different tokens of it; losses are compared on the "
            f"same tokens"
        )
    rows = []
    names = documents["policy"].unique(maintain_order=True).to_list()
    domains = documents["domain"].unique(maintain_order=True).to_list()
    for domain in (ALL, *domains):
        here = documents if domain == ALL else documents.filter(pl.col("domain") == domain)
        parts = {name: here.filter(pl.col("policy") == name).sort("document") for name in names}
        of = {name: _sums(part, "nll_nats") for name, part in parts.items()}
        tokens = _sums(parts[FULL], "num_tokens")
        for name, part in parts.items():
            kl = means(_sums(part, "kl_nats")[:, None], tokens)
            same = rates(part["num_top1_agree"].to_numpy()[:, None], tokens)
            loss = perplexity_ratio(of[name] - of[FULL], tokens)
            against = perplexity_ratio(of[reference] - of[name], tokens)
            rows.append(
                {
                    "policy": name,
                    "kind": FULL if name == FULL else kinds[name],
                    "domain": domain,
                    "text": text[domain],
                    "num_documents": part.height,
                    "num_tokens": int(tokens.sum()),
                    "nll_nats": float(of[name].sum() / tokens.sum()),
                    **_ratio(loss).named("loss_ratio"),
                    **_ratio(against).named("plan_ratio"),
                    **_first(kl).named("kl_nats"),
                    **_first(same).named("agreement"),
                }
            )
    return frame(rows, SCHEMA)


def text_of(
    domains: Collection[str], *, scored: Collection[str], same_text: bool
) -> dict[str, str]:
    """What each domain is to a plan.

    `calibration`: the very text that was scored, so that its loss flatters the plan. `held-out`:
    other text of a domain that was scored. `other domain`: of none that was scored. `mixed`: all
    of them together, where they differ.
    """
    seen = "calibration" if same_text else "held-out"
    found = {name: seen if name in scored else "other domain" for name in domains}
    every = set(found.values())
    return {ALL: next(iter(every)) if len(every) == 1 else "mixed", **found}


def _sums(part: pl.DataFrame, column: str) -> np.ndarray:
    return part[column].to_numpy().astype(np.float64)


def _ratio(ratio: Ratio) -> _Told:
    return _Told(ratio.value, ratio.low, ratio.high)


def _first(found: object) -> _Told:
    value, low, high = (getattr(found, name)[0] for name in ("value", "low", "high"))
    return _Told(known(float(value)), known(float(low)), known(float(high)))
