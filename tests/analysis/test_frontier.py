"""The frontier by hand: every number of a small case was worked out on paper."""

from __future__ import annotations

from math import exp, log

import polars as pl
import pytest

from moe_lens.analysis.frontier import SCHEMA, Sizes, compare_policies, frontier_table

SIZES = Sizes(
    expert_parameters={1: 10, 3: 20},
    lookup_parameters=1000,
    other_parameters=500,
    bytes_per_parameter=2,
)


def case(extra: float = log(2)) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Six documents of ten tokens in two domains; 'k:1' loses `extra` nats on each token."""
    rows = []
    for policy, more, kl, agree in (("full", 0.0, 0.0, 10), ("k:1", extra, 0.25, 5)):
        for document in range(6):
            domain = "ab"[document // 3]
            rows.append((policy, domain, document, 10, 10 * (2 + more), 10 * kl, agree))
    names = ("policy", "domain", "document", "num_tokens", "nll_nats", "kl_nats", "num_top1_agree")
    documents = pl.DataFrame(rows, schema=list(names), orient="row")
    # Two experts a layer. full: both, always. k:1: expert 0 on three of four tokens of layer 1.
    used = {("full", 1): (40, 40), ("full", 3): (40, 40), ("k:1", 1): (30, 10), ("k:1", 3): (40, 0)}
    usage = [
        (policy, domain, layer, expert, count, 40)
        for (policy, layer), counts in used.items()
        for domain in "ab"
        for expert, count in enumerate(counts)
    ]
    names = ("policy", "domain", "layer", "expert", "num_tokens", "num_domain_tokens")
    steps = [("full", 1, 8, 16), ("full", 3, 8, 16), ("k:1", 1, 8, 12), ("k:1", 3, 8, 8)]
    return (
        documents,
        pl.DataFrame(usage, schema=list(names), orient="row"),
        pl.DataFrame(steps, schema=["policy", "layer", "num_steps", "num_distinct"], orient="row"),
    )


def table(*frames: pl.DataFrame) -> pl.DataFrame:
    return frontier_table(*frames, sizes=SIZES, step_sequences=2)


def test_by_hand() -> None:
    found = table(*case())
    assert found.schema == SCHEMA
    assert found.select("policy", "domain").rows() == [
        ("full", "all"), ("full", "a"), ("full", "b"), ("k:1", "all"), ("k:1", "a"), ("k:1", "b"),
    ]  # fmt: skip
    full, one = (found.row(place, named=True) for place in (0, 3))
    assert (full["family"], one["family"]) == ("full", "k")
    assert (full["num_documents"], full["num_tokens"]) == (6, 60)
    for name in ("loss_ratio", "loss_ratio_low", "loss_ratio_high"):
        assert full[name] == 1
        assert one[name] == pytest.approx(2)  # every document loses ln 2: no spread
    assert one["nll_nats"] == pytest.approx(2 + log(2))
    assert (full["kl_nats"], one["kl_nats"]) == (0, pytest.approx(0.25))
    assert full["agreement_low"] == full["agreement_high"] == 1
    assert (full["agreement"], one["agreement"]) == (1, pytest.approx(0.5))
    assert one["agreement_low"] < 0.5 < one["agreement_high"]
    # mean k: layer 1 (30 + 10) / 40, layer 3 40 / 40.
    assert (full["mean_k"], one["mean_k"]) == (2, 1)
    # Two tokens: 1 - (1/4)^2 + 1 - (3/4)^2 = 1.375 in layer 1, 1 in layer 3.
    assert one["distinct_experts_expected"] == pytest.approx((1.375 + 1) / 2)
    assert one["distinct_experts_measured"] == pytest.approx((1.5 + 1) / 2)
    # 1000 + 500 + 1 x 10 + 1 x 20; twice what multiplies; bytes of 500 + 1.5 x 10 + 20, over two.
    assert one["active_parameters_theoretical"] == 1530
    assert full["active_parameters_theoretical"] == 1560
    assert one["flops_per_token_theoretical"] == 2 * 530
    assert one["bytes_per_token_theoretical"] == pytest.approx(2 * (500 + 15 + 20) / 2)
    assert full["bytes_per_token_theoretical"] == pytest.approx(500 + 20 + 40)
    domain = found.row(4, named=True)
    assert domain["distinct_experts_measured"] is domain["bytes_per_token_theoretical"] is None
    assert domain["num_documents"] == 3
    assert domain["loss_ratio"] == pytest.approx(2)
    assert domain["loss_ratio_low"] is None  # fewer than five documents


def test_a_policy_is_on_the_front_unless_another_is_no_worse_in_both() -> None:
    assert table(*case())["pareto"].all()  # fewer experts, more loss
    documents, usage, steps = case(extra=-0.1)
    found = table(documents, usage, steps)
    assert found.filter(pl.col("policy") == "full")["pareto"].any() is False
    assert found["loss_ratio"][3] == pytest.approx(exp(-0.1))
    same = [frame.with_columns(policy=pl.lit("k:1:none")) for frame in (documents, usage, steps)]
    twice = [
        pl.concat([frame, other.filter(keep)])
        for frame, other, keep in zip(
            (documents, usage, steps),
            same,
            (frame["policy"] == "k:1" for frame in (documents, usage, steps)),
            strict=True,
        )
    ]
    equal = table(*twice).filter(pl.col("family").str.starts_with("k"))
    assert set(equal["family"]) == {"k", "k:none"}
    assert equal["pareto"].all()  # of two equals neither beats the other


def test_two_policies_against_each_other() -> None:
    documents, _, _ = case()
    found = compare_policies(documents, [("k:1", "full"), ("full", "k:1"), ("full", "full")])
    assert found["loss_ratio"].to_list() == pytest.approx([2, 0.5, 1])
    assert found["verdict"].to_list() == ["more", "less", "not told"]
    assert found["kl_difference_nats"].to_list() == pytest.approx([0.25, -0.25, 0])
    assert found["kl_verdict"].to_list() == ["further", "nearer", "not told"]
    few = documents.filter(pl.col("document") < 4)
    assert compare_policies(few, [("k:1", "full")])["verdict"].to_list() == ["not told"]
    with pytest.raises(ValueError, match="policy 'k:9' was not evaluated"):
        compare_policies(documents, [("k:9", "full")])
    part = documents.filter((pl.col("policy") == "full") | (pl.col("document") > 0))
    with pytest.raises(ValueError, match="'full' and 'k:1' were not evaluated on the same tokens"):
        compare_policies(part, [("full", "k:1")])


def test_refusals() -> None:
    documents, usage, steps = case()
    with pytest.raises(ValueError, match="a domain is named 'all'"):
        table(documents.with_columns(domain=pl.lit("all")), usage, steps)
    fewer = documents.with_columns(
        num_tokens=pl.when((pl.col("policy") == "k:1") & (pl.col("document") == 4))
        .then(9)
        .otherwise("num_tokens")
    )
    with pytest.raises(
        ValueError, match="'k:1', document 4: 9 predicted tokens, the full model 10"
    ):
        table(fewer, usage, steps)
    with pytest.raises(ValueError, match="document 0: 10 predicted tokens, the full model None"):
        table(documents.filter(pl.col("policy") != "full"), usage, steps)
    with pytest.raises(ValueError, match="table steps: no column num_steps"):
        table(documents, usage, steps.drop("num_steps"))
