"""Documents to ids: BOS, long documents, and tokenizers that do not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from moe_lens.corpus import Corpus, Document, TokenizedCorpus, Tokenizer, Window, tokenize
from moe_lens.corpus.tokens import _check_options
from moe_lens.errors import CorpusError
from tests.corpus.conftest import make_tokenizer

VOCAB = 23


def corpus_of(*texts: str) -> Corpus:
    documents = tuple(Document(text, "d", f"d/{i}") for i, text in enumerate(texts, 1))
    return Corpus(documents, ("d",))


def ids(tokenized: TokenizedCorpus) -> list[list[int]]:
    return [document.tolist() for document in tokenized.ids]


def test_as_the_tokenizer_does(
    tokenizer: PreTrainedTokenizerFast, tokenizer_without_bos: PreTrainedTokenizerFast
) -> None:
    corpus = corpus_of("w0 w1", "w2")
    assert isinstance(tokenizer, Tokenizer)
    with_bos = tokenize(corpus, tokenizer, context_length=9, vocab_size=VOCAB)
    assert ids(with_bos) == [[0, 3, 4], [0, 5]]
    assert with_bos.has_bos
    assert (with_bos.num_tokens, with_bos.num_counted) == (5, 3)
    without = tokenize(corpus, tokenizer_without_bos, context_length=9, vocab_size=VOCAB)
    assert ids(without) == [[3, 4], [5]]
    assert not without.has_bos
    assert (without.num_tokens, without.num_counted) == (3, 3)


def test_bos_can_be_added_or_taken_away(
    tokenizer: PreTrainedTokenizerFast, tokenizer_without_bos: PreTrainedTokenizerFast
) -> None:
    corpus = corpus_of("w0 w1")
    for either in (tokenizer, tokenizer_without_bos):
        added = tokenize(corpus, either, context_length=9, vocab_size=VOCAB, add_bos=True)
        assert (ids(added), added.has_bos) == ([[0, 3, 4]], True)
        bare = tokenize(corpus, either, context_length=9, vocab_size=VOCAB, add_bos=False)
        assert (ids(bare), bare.has_bos) == ([[3, 4]], False)


def test_a_bos_that_is_text_is_counted(tokenizer_without_bos: PreTrainedTokenizerFast) -> None:
    tokenized = tokenize(
        corpus_of("<s> w0"), tokenizer_without_bos, context_length=9, vocab_size=VOCAB
    )
    assert ids(tokenized) == [[0, 3]]
    assert not tokenized.has_bos
    assert tokenized.num_counted == 2


class OneSpecial:
    """BOS, EOS and unknown words are one token, as in GPT-2's vocabulary."""

    bos_token_id = 0

    def __init__(self, *, adds_bos: bool) -> None:
        self.first = [0] if adds_bos else []

    def __call__(
        self, text: list[str], *, add_special_tokens: bool, **options: Any
    ) -> dict[str, Any]:
        bare = [[int(w[1:]) if w[0] == "w" else 0 for w in t.split()] for t in text]
        return {"input_ids": [[*self.first, *i, 0] if add_special_tokens else i for i in bare]}


@pytest.mark.parametrize("adds_bos", [True, False])
def test_bos_that_is_also_the_unknown_word(adds_bos: bool) -> None:
    tokenized = tokenize(
        corpus_of("? w5", "w6"), OneSpecial(adds_bos=adds_bos), context_length=9, vocab_size=VOCAB
    )
    assert tokenized.has_bos == adds_bos
    assert ids(tokenized) == ([[0, 0, 5, 0], [0, 6, 0]] if adds_bos else [[0, 5, 0], [6, 0]])
    assert tokenized.num_counted == 5


def test_count_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenized = tokenize(
        corpus_of("w0", "w1"), tokenizer, context_length=9, vocab_size=VOCAB, count_bos=True
    )
    assert tokenized.num_counted == tokenized.num_tokens == 4


def test_no_bos_to_add() -> None:
    with pytest.raises(CorpusError, match=r"add_bos=True, but the tokenizer has no BOS token"):
        tokenize(
            corpus_of("w0"),
            make_tokenizer(adds_bos=False, bos=False),
            context_length=9,
            vocab_size=VOCAB,
            add_bos=True,
        )


def test_split_is_windows_of_which_the_first_has_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenized = tokenize(
        corpus_of("w0 w1 w2 w3 w4 w5", "w6"), tokenizer, context_length=3, vocab_size=VOCAB
    )
    assert ids(tokenized) == [[0, 3, 4, 5, 6, 7, 8], [0, 9]]
    assert list(tokenized.windows()) == [
        Window(0, 0, 3),
        Window(0, 3, 3),
        Window(0, 6, 1),
        Window(1, 0, 2),
    ]
    assert (tokenized.num_long, tokenized.num_cut, tokenized.num_counted) == (1, 0, 7)


def test_truncate_counts_what_it_cuts(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenized = tokenize(
        corpus_of("w0 w1 w2 w3", "w4 w5"),
        tokenizer,
        context_length=3,
        vocab_size=VOCAB,
        on_long="truncate",
    )
    assert ids(tokenized) == [[0, 3, 4], [0, 7, 8]]
    assert (tokenized.num_long, tokenized.num_cut) == (1, 2)


def test_error_on_long(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(
        CorpusError,
        match=r"document 'd/2' has 4 tokens, more than the context of 3\..*on_long=\"split\"",
    ):
        tokenize(
            corpus_of("w0 w1", "w0 w1 w2"),
            tokenizer,
            context_length=3,
            vocab_size=VOCAB,
            on_long="error",
        )


def test_a_document_as_long_as_the_context_is_not_long(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenized = tokenize(
        corpus_of("w0 w1"), tokenizer, context_length=3, vocab_size=VOCAB, on_long="error"
    )
    assert tokenized.num_long == 0


def test_another_models_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(
        CorpusError,
        match=r"document 'd/2': token id 22 is outside the model's vocabulary of 22 \(0 to 21\)\. "
        r"The tokenizer belongs to another model",
    ):
        tokenize(corpus_of("w0", "w19"), tokenizer, context_length=9, vocab_size=22)


@pytest.mark.parametrize(
    ("context_length", "on_long", "message"),
    [
        (0, "split", "context_length=0: a sequence holds at least 1 token"),
        (9, "wrap", "on_long='wrap' is unknown; choose one of split, truncate, error"),
    ],
)
def test_bad_options(context_length: int, on_long: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        _check_options(context_length, on_long)  # the run's type checker would stop tokenize


class Silent:
    """Makes no tokens of anything."""

    bos_token_id = None

    def __call__(self, text: list[str], **options: Any) -> dict[str, Any]:
        return {"input_ids": [[] for _ in text]}


def test_no_tokens_at_all() -> None:
    with pytest.raises(CorpusError, match="makes no tokens of the 2 documents"):
        tokenize(corpus_of("w0", "w1"), Silent(), context_length=9, vocab_size=VOCAB)


def test_many_documents_keep_their_order(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [" ".join(f"w{(i + j) % 20}" for j in range(i % 7 + 1)) for i in range(600)]
    tokenized = tokenize(corpus_of(*texts), tokenizer, context_length=9, vocab_size=VOCAB)
    assert ids(tokenized) == [[0, *(3 + int(w[1:]) for w in t.split())] for t in texts]


def test_describe(tokenizer: PreTrainedTokenizerFast) -> None:
    documents = (Document("w0 w1 w2", "b", "b/1"), Document("w3", "c", "c/1"))
    corpus = Corpus(documents, ("b", "c"), num_blank=3)
    tokenized = tokenize(corpus, tokenizer, context_length=3, vocab_size=VOCAB, on_long="truncate")
    described = tokenized.describe()
    assert json.loads(json.dumps(described)) == described
    assert described == {
        "sha256": corpus.sha256,
        "domains": {
            "b": {"num_documents": 1, "num_tokens": 3},
            "c": {"num_documents": 1, "num_tokens": 2},
        },
        "num_tokens": 5,
        "num_counted": 3,
        "num_blank_documents": 3,
        "sampling": None,
        "context_length": 3,
        "on_long": "truncate",
        "num_long_documents": 1,
        "num_cut_tokens": 1,
        "bos": "first window only",
        "bos_counted": False,
    }
