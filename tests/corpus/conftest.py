"""Tiny tokenizers, made here: no network."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<s>", "</s>", "<unk>")
WORDS = tuple(f"w{i}" for i in range(20))


def make_tokenizer(*, adds_bos: bool, bos: bool = True) -> PreTrainedTokenizerFast:
    """One id a word: `<s>` 0, `</s>` 1, `<unk>` 2, `w0` 3, `w1` 4, ..."""
    vocab = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=4,
    )


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Adds BOS, as most models' do."""
    return make_tokenizer(adds_bos=True)


@pytest.fixture
def tokenizer_without_bos() -> PreTrainedTokenizerFast:
    """Has a BOS token, and does not add it."""
    return make_tokenizer(adds_bos=False)
