"""Text with a domain, into token batches with a mask of what counts."""

from moe_lens.corpus.batches import TokenBatch, batches
from moe_lens.corpus.documents import Corpus, Document
from moe_lens.corpus.load import load_corpus
from moe_lens.corpus.tokens import TokenizedCorpus, Tokenizer, Window, tokenize

__all__ = [
    "Corpus",
    "Document",
    "TokenBatch",
    "TokenizedCorpus",
    "Tokenizer",
    "Window",
    "batches",
    "load_corpus",
    "tokenize",
]
