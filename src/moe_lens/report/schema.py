"""The columns of every table of a run, as `docs/tables.md` promises them."""

from __future__ import annotations

from enum import Enum

import polars as pl


class Kind(Enum):
    """What a column may hold; its value is the wording of messages."""

    TEXT = "text"
    WHOLE = "whole numbers"
    NUMBER = "numbers"
    VALUE = "numbers or text"
    FLAG = "true or false"
    TEXTS = "lists of text"
    NUMBERS = "lists of numbers"

    def holds(self, values: pl.Series) -> bool:
        """Whether a column's type fits; a column of nothing but nulls does."""
        dtype = values.dtype
        if isinstance(dtype, pl.Null):
            return True
        text = isinstance(dtype, pl.String | pl.Categorical | pl.Enum)
        match self:
            case Kind.TEXT:
                return text
            case Kind.WHOLE:
                return dtype.is_integer()
            case Kind.NUMBER:
                return dtype.is_numeric()
            case Kind.FLAG:
                return isinstance(dtype, pl.Boolean)
            case Kind.VALUE:
                return text or dtype.is_numeric()
            case Kind.TEXTS | Kind.NUMBERS:
                inner = Kind.TEXT if self is Kind.TEXTS else Kind.NUMBER
                if not isinstance(dtype, pl.List | pl.Array):
                    return False
                return inner.holds(pl.Series(dtype=dtype.inner))


def _columns(**kinds: str) -> dict[str, Kind]:
    return {name: Kind[kind.upper()] for kind, names in kinds.items() for name in names.split()}


def _with_interval(names: str) -> str:
    return " ".join(f"{name} {name}_low {name}_high" for name in names.split())


def _of_both(names: str) -> str:
    return " ".join(f"{name}_{side}" for name in names.split() for side in "ab")


SCHEMA: dict[str, dict[str, Kind]] = {
    "specialization": _columns(
        text="domain verdict",
        whole="layer expert num_tokens num_domain_tokens",
        number=f"{_with_interval('rate')} baseline p_value q_value",
    ),
    "concentration": _columns(
        text="domain",
        whole="layer num_tokens busiest_expert",
        number=f"{_with_interval('n50_experts')} n50_experts_uniform entropy_normalized gini "
        "busiest_share largest_specialization weight_sum_mean rank1_share_mean",
    ),
    "information": _columns(
        whole="layer num_tokens",
        number=f"{_with_interval('information_bits')} shuffled_bits_mean shuffled_bits_high "
        "p_value",
    ),
    "overlap": _columns(
        text="domain_a domain_b",
        whole="layer",
        number="cosine shared_busiest shared_busiest_uniform",
    ),
    "coactivation": _columns(
        whole="layer expert_a expert_b num_tokens", number="expected_tokens lift"
    ),
    "similarity": _columns(
        text="domain quantity",
        whole="layer num_tokens",
        number=f"{_with_interval('mean')} p05 p25 p50 p75 p95",
    ),
    "perplexity": _columns(
        text="domain renorm",
        whole="k num_documents num_tokens",
        number="nll_nats perplexity_tokens perplexity_mean perplexity_geometric minmax "
        f"{_with_interval('ratio_tokens ratio_geometric')}",
    ),
    "frontier": _columns(
        text="policy family domain",
        whole="num_documents num_tokens",
        number=f"nll_nats {_with_interval('loss_ratio kl_nats agreement')} mean_k "
        "distinct_experts_expected distinct_experts_measured active_parameters_theoretical "
        "flops_per_token_theoretical bytes_per_token_theoretical",
        flag="pareto",
    ),
    "simulation": _columns(
        text="policy kind domain text",
        whole="num_documents num_tokens",
        number=f"nll_nats {_with_interval('loss_ratio plan_ratio kl_nats agreement')}",
    ),
    "plan": _columns(whole="layer expert kept frequency_rank"),
    "export": _columns(text="quantity note", number="before after"),
    "lens": _columns(
        text="domain state",
        whole="layer num_tokens",
        number=_with_interval("agree_layer agree_output kl_output_nats logprob_true_nats")
        + " rank_true_median",
    ),
    "lens_grid": _columns(
        text="token state top_token",
        whole="position layer expert",
        number="weight probability",
        texts="next_tokens",
        numbers="next_probabilities",
    ),
    "claims": _columns(
        text="claim statement control_name verdict sentence",
        value="published control",
        number=_with_interval("measured"),
    ),
    "importance": _columns(
        text="domain criterion", whole="layer expert num_tokens", number="score"
    ),
    "stability": _columns(
        text="domain_a domain_b criterion",
        whole="layer num_kept num_splits",
        number="pruned_share overlap overlap_uniform spearman",
    ),
    "causal": _columns(
        text="domain ablation",
        whole="layer expert num_documents num_tokens",
        number=f"{_with_interval('own_nats')} later_nats {_with_interval('text_nats')}",
    ),
    "prediction": _columns(
        text="ablation effect criterion",
        whole="layer num_experts",
        number=_with_interval("spearman"),
    ),
    "compared_identity": _columns(
        whole="layer num_experts", number="correlation shuffled_mean shuffled_high p_value"
    ),
    "compared_specialization": _columns(
        text="domain verdict",
        whole="layer expert",
        number=f"rate_a rate_b {_with_interval('difference')} p_value q_value",
    ),
    "compared_concentration": _columns(
        text="domain",
        whole="layer",
        number=_of_both(
            "n50_experts n50_experts_low n50_experts_high n50_experts_uniform "
            "entropy_normalized gini largest_specialization"
        )
        + " n50_share_difference",
    ),
    "compared_perplexity": _columns(
        text="domain renorm",
        whole="k",
        number=_of_both("ratio_tokens ratio_tokens_low ratio_tokens_high")
        + f" {_with_interval('change')}",
    ),
}
"""Table name -> column name -> what it holds."""
