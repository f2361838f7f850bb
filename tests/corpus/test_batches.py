"""Batches are the corpus, cut differently: nothing lost, nothing twice, little padding."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_lens.corpus import Corpus, Document, TokenizedCorpus, batches
from moe_lens.errors import CorpusError


def tokenized(
    *documents: list[int], context_length: int = 8, has_bos: bool = True, count_bos: bool = False
) -> TokenizedCorpus:
    corpus = Corpus(tuple(Document("", "d", f"d/{i}") for i in range(len(documents))), ("d",))
    return TokenizedCorpus(
        corpus=corpus,
        ids=tuple(torch.tensor(ids, dtype=torch.int32) for ids in documents),
        has_bos=has_bos,
        count_bos=count_bos,
        context_length=context_length,
        on_long="split",
        vocab_size=100,
        num_long=0,
        num_cut=0,
    )


def test_known_answer() -> None:
    corpus = tokenized([9, 1, 2, 3, 4], [9, 5, 6], [9, 7, 8], context_length=3)
    first, second = batches(corpus, batch_tokens=9)
    assert first.input_ids.tolist() == [[9, 1, 2], [9, 5, 6], [9, 7, 8]]
    assert first.document.tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert first.position.tolist() == [[0, 1, 2]] * 3
    assert first.counted.tolist() == [[False, True, True]] * 3
    assert second.input_ids.tolist() == [[3, 4]]
    assert second.position.tolist() == [[3, 4]]
    assert second.counted.tolist() == [[True, True]]
    assert (first.num_tokens, first.num_counted) == (9, 6)


def test_padding_is_on_the_right_and_never_counts() -> None:
    (batch,) = batches(tokenized([9, 1, 2, 3], [9, 5, 6], has_bos=False), batch_tokens=8)
    assert batch.input_ids.tolist() == [[9, 1, 2, 3], [9, 5, 6, 0]]
    assert batch.attention_mask.tolist() == [[True] * 4, [True, True, True, False]]
    assert batch.counted.tolist() == batch.attention_mask.tolist()
    assert batch.document.tolist() == [[0] * 4, [1] * 4]


def test_count_bos() -> None:
    (batch,) = batches(tokenized([9, 1], count_bos=True), batch_tokens=8)
    assert batch.counted.all()


def test_a_sequence_longer_than_a_batch_stands_alone() -> None:
    shapes = [
        tuple(b.input_ids.shape) for b in batches(tokenized([1] * 8, [1] * 3), batch_tokens=4)
    ]
    assert shapes == [(1, 8), (1, 3)]


def test_very_unequal_lengths_are_not_put_together() -> None:
    shapes = [
        tuple(b.input_ids.shape)
        for b in batches(tokenized([1] * 8, [1], [1], [1] * 7), batch_tokens=1000)
    ]
    assert shapes == [(2, 8), (2, 1)]


def test_batch_tokens_must_be_positive() -> None:
    with pytest.raises(CorpusError, match="batch_tokens=0: a batch holds at least 1 token"):
        batches(tokenized([1]), batch_tokens=0)


documents = st.lists(st.lists(st.integers(0, 99), max_size=20), min_size=1, max_size=12)
sizes = st.integers(1, 30)


@given(documents=documents, context_length=sizes, batch_tokens=sizes, has_bos=st.booleans())
def test_every_token_is_there_once(
    documents: list[list[int]], context_length: int, batch_tokens: int, has_bos: bool
) -> None:
    corpus = tokenized(*documents, context_length=context_length, has_bos=has_bos)
    found: dict[int, dict[int, int]] = defaultdict(dict)
    num_counted = 0
    for batch in batches(corpus, batch_tokens=batch_tokens):
        real = batch.attention_mask
        for token, document, position in zip(
            batch.input_ids[real].tolist(),
            batch.document[real].tolist(),
            batch.position[real].tolist(),
            strict=True,
        ):
            assert position not in found[document]
            found[document][position] = token
        num_counted += batch.num_counted
        assert not (batch.counted & ~real).any()
        if has_bos:
            assert torch.equal(batch.counted, real & (batch.position > 0))
    rebuilt = [[found[i][j] for j in range(len(found[i]))] for i in range(len(documents))]
    assert rebuilt == documents
    assert num_counted == corpus.num_counted
    assert corpus.num_tokens == sum(map(len, documents))


@given(documents=documents, context_length=sizes, batch_tokens=sizes)
def test_shapes_stay_within_their_limits(
    documents: list[list[int]], context_length: int, batch_tokens: int
) -> None:
    for batch in batches(
        tokenized(*documents, context_length=context_length), batch_tokens=batch_tokens
    ):
        num_rows, width = batch.input_ids.shape
        assert width <= context_length
        assert num_rows == 1 or num_rows * width <= batch_tokens
        lengths = batch.attention_mask.sum(dim=1)
        assert lengths.max() == width
        assert lengths.min() > 0
        assert torch.equal(batch.attention_mask, torch.arange(width) < lengths[:, None])
        assert batch.num_tokens >= 0.75 * num_rows * width


@given(documents=documents, context_length=sizes, batch_tokens=sizes)
def test_each_row_is_one_run_of_one_document(
    documents: list[list[int]], context_length: int, batch_tokens: int
) -> None:
    for batch in batches(
        tokenized(*documents, context_length=context_length), batch_tokens=batch_tokens
    ):
        assert torch.equal(batch.document, batch.document[:, :1].expand_as(batch.document))
        steps = batch.position - batch.position[:, :1]
        assert torch.equal(steps, torch.arange(steps.shape[1]).expand_as(steps))
        assert (batch.position[:, 0] % context_length == 0).all()


def test_little_padding_on_many_documents() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.randn(2000, generator=generator) * 0.8 + 5).exp().long().clamp(1, 5000)
    corpus = tokenized(*([1] * n for n in lengths.tolist()), context_length=1024)
    places = sum(b.input_ids.numel() for b in batches(corpus, batch_tokens=8192))
    assert 1 - corpus.num_tokens / places < 0.05


def digest() -> str:
    corpus = tokenized(*([i % 97] * (i * 37 % 29) for i in range(100)))
    rows = [batch.input_ids.tolist() for batch in batches(corpus, batch_tokens=40)]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def test_the_order_does_not_hang_on_hash_seeds() -> None:
    program = "from tests.corpus.test_batches import digest; print(digest())"
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == digest()
