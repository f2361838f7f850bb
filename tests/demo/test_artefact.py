"""The model that ships shows what it must: experts that specialised, and that count."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from moe_lens.study.result import Study
from moe_lens.study.run import run
from moe_lens.study.spec import ModelSpec, StudySpec, TextSpec

DOMAINS = ("aime", "chinese", "code", "english", "french", "gsm", "science")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    spec = StudySpec(
        ModelSpec("demo"),
        TextSpec("demo", max_tokens=6_000),
        measures=("routing", "perplexity"),
        ks=(1, 2, 3),
    )
    return run(spec, tmp_path_factory.mktemp("artefact"))


@pytest.mark.slow
def test_every_expert_taken_away_costs_perplexity_in_every_domain(study: Study) -> None:
    table = study.table("perplexity").filter(pl.col("k") < 6)
    assert set(table["domain"]) == {"all", *DOMAINS}
    for (domain,), rows in table.group_by("domain"):
        rising = rows.sort("k", descending=True)["ratio_tokens"].to_list()
        assert [1.0, *rising] == sorted([1.0, *rising]), (domain, rising)
        one = rows.filter(pl.col("k") == 1)["ratio_tokens_low"].item()
        assert one > 1, (domain, one)


@pytest.mark.slow
def test_experts_know_the_domain_far_beyond_chance(study: Study) -> None:
    for row in study.table("information").iter_rows(named=True):
        assert row["information_bits_low"] > 4 * row["shuffled_bits_high"], row


@pytest.mark.slow
def test_half_of_a_domains_decisions_take_fewer_experts_than_even_use(study: Study) -> None:
    table = study.table("concentration").filter(pl.col("domain") != "all")
    assert table.filter(pl.col("n50_experts_high") >= pl.col("n50_experts_uniform")).is_empty()


@pytest.mark.slow
def test_some_experts_are_specialised_and_others_general(study: Study) -> None:
    table = study.table("specialization").filter(pl.col("domain") != "all")
    verdicts = table.group_by("layer", "expert").agg(pl.col("verdict"))
    above = verdicts["verdict"].list.contains("above")
    one_domain = verdicts["verdict"].list.count_matches("above") == 1
    assert above.sum() > 100
    assert one_domain.sum() > 20
    assert (verdicts["verdict"].list.count_matches("above") >= 3).sum() > 5


def test_the_card_is_of_the_files_beside_it() -> None:
    import moe_lens

    folder = Path(moe_lens.__file__).parent / "demo" / "model"
    card = (folder / "README.md").read_text(encoding="utf-8")
    size = (folder / "model.safetensors").stat().st_size
    assert f"{size / 1e6:.1f} MB in bfloat16" in card
    assert size < 30e6
