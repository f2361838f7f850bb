"""Tables recorded elsewhere, and what published ones say."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from moe_lens.errors import TraceError
from moe_lens.event import LayerEvent
from moe_lens.stats.concentration import concentration_table
from moe_lens.stats.transitions import Transitions
from moe_lens.stats.usage import Usage
from moe_lens.stats.weight_mass import WeightMass
from moe_lens.traces import read_trace, write_trace

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "published"
ROWS = {
    "document": [0, 0, 1, 0, 0, 1],
    "token": [0, 1, 0, 0, 1, 0],
    "layer": [1, 1, 1, 2, 2, 2],
    "expert_0": [0, 1, 2, 3, 3, 3],
    "expert_1": [1, 2, 3, 0, 0, 0],
    "weight_0": [0.25, 0.5, 0.5, 0.125, 0.5, 0.5],
    "weight_1": [0.5, 0.25, 0.25, 0.25, 0.25, 0.25],
}


def published(name: str) -> Path:
    path = PUBLISHED / name
    if not path.exists():
        pytest.skip(f"../shared/data/published/{name} is not beside the checkout")
    return path


def table(tmp_path: Path, **changes: list[object]) -> Path:
    path = tmp_path / "elsewhere.parquet"
    pl.DataFrame(ROWS | changes).write_parquet(path)
    return path


def read(path: Path, num_experts: int = 4) -> list[LayerEvent]:
    return list(read_trace(path, num_experts=num_experts).events())


def test_rows_and_slots_in_any_order(tmp_path: Path) -> None:
    trace = read_trace(table(tmp_path), num_experts=4)
    assert trace.manifest.layers == (1, 2)
    assert trace.manifest.top_k == 2
    assert trace.domains().rows() == [("all", 2, 3)]
    first, second = trace.events()
    assert first.tokens.document.tolist() == [0, 0, 1]
    assert first.routing.experts.tolist() == [[1, 0], [1, 2], [2, 3]]
    assert first.routing.weights.tolist() == [[0.5, 0.25], [0.5, 0.25], [0.5, 0.25]]
    assert second.routing.experts.tolist() == [[0, 3], [3, 0], [3, 0]]
    assert not trace.has_token_ids
    assert first.tokens.ids.tolist() == [-1, -1, -1]


def test_vocabulary_ids_where_there_are(tmp_path: Path) -> None:
    (first, _) = read(table(tmp_path, token_id=[7, 8, 9, 7, 8, 9]))
    assert first.tokens.ids.tolist() == [7, 8, 9]


def test_weights_where_there_are_none(tmp_path: Path) -> None:
    path = table(tmp_path)
    pl.read_parquet(path).drop("weight_0", "weight_1").write_parquet(path)
    mass = WeightMass()
    for event in read(path):
        mass.update(event)
    with pytest.raises(TraceError, match="weight mass needs weights, but 3 tokens"):
        mass.table()


def test_num_experts_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="how many experts a layer has; pass num_experts"):
        read_trace(table(tmp_path))


def test_too_few_experts(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="expert 3, but experts are 0 to 2; is num_experts"):
        read(table(tmp_path), num_experts=3)


def test_a_missing_column(tmp_path: Path) -> None:
    path = table(tmp_path)
    pl.read_parquet(path).drop("token").write_parquet(path)
    with pytest.raises(TraceError, match="column 'token' is missing; a table of routing has"):
        read_trace(path, num_experts=4)


def test_no_rows(tmp_path: Path) -> None:
    path = table(tmp_path)
    pl.read_parquet(path).clear().write_parquet(path)
    with pytest.raises(TraceError, match="the trace is empty"):
        read_trace(path, num_experts=4)


def test_a_token_that_is_there_twice(tmp_path: Path) -> None:
    path = table(tmp_path, token=[0, 0, 0, 0, 0, 0])
    with pytest.raises(TraceError, match=r"document 0, token 0: rows of layers \[1, 1, 2, 2\]"):
        read(path)


def test_a_document_in_two_domains(tmp_path: Path) -> None:
    path = table(tmp_path, domain=["a", "b", "a", "a", "b", "a"])
    with pytest.raises(TraceError, match="document 0 is in the domains 'a' and 'b'"):
        read_trace(path, num_experts=4)


@pytest.mark.parametrize(
    ("name", "rank1", "total", "half"),
    [("intent", 0.329, 0.395, 15.1), ("translation", 0.375, 0.380, 10.1)],
)
def test_published_routing_of_deepseek_v2_lite(
    tmp_path: Path, name: str, rank1: float, total: float, half: float
) -> None:
    trace = read_trace(published(f"deepseek_v2_lite_sft_routing_{name}.parquet"), num_experts=64)
    layers = trace.manifest.layers
    assert layers == tuple(range(1, 27))
    usage, mass, transitions = Usage(), WeightMass(), Transitions(layers)
    for event in trace.events(batch_tokens=3000):
        usage.update(event)
        mass.update(event)
        transitions.update(event)
    assert round(mass.table()["rank1_share_mean"].mean(), 3) == rank1
    assert round(mass.table()["weight_sum_mean"].mean(), 3) == total
    assert round(concentration_table(usage.table())["n50_experts"].mean(), 1) == half
    assert usage.table()["num_tokens"].min() > 0
    assert int(transitions.all_pairs(26).sum()) == 36 * trace.num_tokens

    copy, again = tmp_path / "copy.parquet", Usage()
    domains = dict(trace.documents().select("document", "domain").iter_rows())
    write_trace(copy, trace.events(), manifest=trace.manifest, domains=domains)
    for event in read_trace(copy).events(batch_tokens=777):
        again.update(event)
    assert again.table().equals(usage.table())


def test_published_counts_of_deepseek_moe() -> None:
    counts = pl.read_parquet(published("moe_lens_routing_counts_base.parquet"))
    tokens = pl.col("num_tokens").sum().over("domain", "layer") / pl.col("top_k")
    usage = counts.with_columns(specialization=pl.col("num_tokens") / tokens)
    by_layer = concentration_table(usage, by=("domain", "layer"))
    half = dict(by_layer.group_by("domain").agg(pl.col("n50_experts").mean().round(1)).rows())
    assert half == {
        "gsm8k": 14.7,
        "aime-math": 17.9,
        "arxiv": 19.5,
        "english": 20.1,
        "french-qa": 23.1,
        "github": 27.3,
        "chinese": 27.6,
    }
    gsm8k = by_layer.filter(domain="gsm8k")
    assert (gsm8k["n50_experts"].min(), gsm8k["n50_experts"].max()) == (8, 21)
    top = by_layer.sort("largest_specialization").row(-1, named=True)
    assert (top["domain"], round(top["largest_specialization"], 3)) == ("gsm8k", 0.728)
