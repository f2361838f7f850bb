"""`DocumentUsage` and `TokenVocabulary`, which count pairs of which few occur."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pytest
import torch
from hypothesis import given, settings

from moe_lens.errors import TraceError
from moe_lens.event import LayerEvent, Tokens
from moe_lens.stats.documents import DocumentUsage
from moe_lens.stats.usage import Usage
from moe_lens.stats.vocabulary import TokenVocabulary
from tests.stats.cases import batches, choices, event, random_batch, tokens


def test_documents_by_hand() -> None:
    usage = DocumentUsage()
    rows = tokens([7, 8, 9], document=[40, 2, 40])
    usage.update(
        event([[0, 2], [2, 1], [3, 0]], rows=rows, active=[[True, True]] * 2 + [[True, False]])
    )
    assert usage.table().columns == ["layer", "document", "expert", "num_tokens"]
    assert usage.table().rows() == [
        (1, 2, 1, 1),
        (1, 2, 2, 1),
        (1, 40, 0, 1),
        (1, 40, 2, 1),
        (1, 40, 3, 1),
    ]
    assert usage.tokens().rows() == [(1, 2, 1), (1, 40, 2)]


def test_vocabulary_by_hand() -> None:
    vocabulary = TokenVocabulary()
    rows = tokens([102_399, 5, 102_399, 5, 3])
    vocabulary.update(event([[0, 2], [0, 1], [0, 3], [1, 2], [0, 3]], rows=rows))
    top = vocabulary.top_tokens(2).filter(expert=0)
    assert top.columns == ["layer", "expert", "rank", "token_id", "num_tokens", "share"]
    assert top.rows() == [(1, 0, 1, 102_399, 2, 0.5), (1, 0, 2, 3, 1, 0.25)]
    assert len(vocabulary.top_tokens().filter(expert=0)) == 3


@settings(max_examples=12, deadline=None)
@given(groups=batches)
def test_against_counting_one_by_one(groups: list[list[LayerEvent]]) -> None:
    usage, vocabulary = DocumentUsage(), TokenVocabulary()
    by_document, by_id, sizes = Counter(), Counter(), Counter()
    for group in groups:
        for one in group:
            usage.update(one)
            vocabulary.update(one)
        for choice in choices(group):
            sizes[choice.layer, choice.document] += 1
            for expert, _ in choice.pairs:
                by_document[choice.layer, choice.document, expert] += 1
                by_id[choice.layer, choice.token_id, expert] += 1
    assert {row[:3]: row[3] for row in usage.table().rows()} == by_document
    assert {row[:2]: row[2] for row in usage.tokens().rows()} == sizes
    assert {row[:3]: row[3] for row in vocabulary.table().rows()} == by_id


def test_documents_add_up_to_usage() -> None:
    usage, documents = Usage(), DocumentUsage()
    for one in random_batch(4, 50):
        usage.update(one)
        documents.update(one)
    total = documents.table().group_by("layer", "expert").sum().sort("layer", "expert")
    expected = usage.table().filter(pl.col("num_tokens") > 0)
    assert total["num_tokens"].to_list() == expected["num_tokens"].to_list()


def test_a_large_vocabulary_takes_memory_for_what_occurred() -> None:
    vocabulary = TokenVocabulary()
    ids = torch.randint(102_400, (3000,), generator=torch.Generator().manual_seed(0))
    rows = Tokens(ids=ids, document=torch.zeros_like(ids), position=torch.arange(3000))
    experts = torch.arange(6).repeat(3000, 1).tolist()
    vocabulary.update(event(experts, num_experts=64, rows=rows))
    assert vocabulary.num_bytes <= 16 * 6 * 3000
    assert vocabulary.table()["num_tokens"].sum() == 6 * 3000


def test_unknown_vocabulary_ids_are_refused() -> None:
    with pytest.raises(TraceError, match="vocabulary ids of these tokens were not recorded"):
        TokenVocabulary().update(event([[0, 1]], rows=tokens([-1])))


def test_more_experts_than_a_key_can_name_are_refused() -> None:
    with pytest.raises(ValueError, match="70000 experts: at most 65536 can be counted"):
        DocumentUsage().update(event([[0, 1]], num_experts=70_000))


def test_empty_tables_have_their_columns() -> None:
    assert DocumentUsage().tokens().columns == ["layer", "document", "num_tokens"]
    assert TokenVocabulary().top_tokens().is_empty()
