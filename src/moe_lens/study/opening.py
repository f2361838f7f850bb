"""From a spec to the model and the text that a run works on."""

from __future__ import annotations

from functools import partial

from moe_lens.corpus import Corpus, TokenizedCorpus, load_corpus
from moe_lens.loading import load_model
from moe_lens.models.model import MoEModel
from moe_lens.observing import tokens_of
from moe_lens.study.spec import ModelSpec, TextSpec


def open_corpus(text: TextSpec) -> Corpus:
    """The documents that a spec names."""
    return load_corpus(
        text.corpus, split=text.split, field=text.field, max_documents=text.max_documents
    )


def open_model(model: ModelSpec) -> MoEModel:
    """The model that a spec names, loaded and proven."""
    return load_model(
        model.model,
        dtype=model.dtype,
        device=model.device,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        engine=model.engine,
        memory=model.memory,
    )


def within_budget(model: MoEModel, corpus: Corpus, text: TextSpec) -> TokenizedCorpus:
    """The corpus in tokens, its documents cut off where a domain has its tokens.

    Documents are taken in the corpus's order; the one that reaches the budget is the last.
    """
    cut = partial(tokens_of, model, context_length=text.context_length, count_bos=text.count_bos)
    tokenized = cut(corpus)
    return tokenized if text.max_tokens is None else shortened(model, tokenized, text.max_tokens)


def shortened(
    model: MoEModel, tokenized: TokenizedCorpus, tokens_per_domain: int
) -> TokenizedCorpus:
    """The first documents of each domain that together have so many tokens."""
    corpus = tokenized.corpus
    have = dict.fromkeys(corpus.domains, 0)
    kept = []
    for document, ids in zip(corpus.documents, tokenized.ids, strict=True):
        if have[document.domain] < tokens_per_domain:
            have[document.domain] += len(ids)
            kept.append(document)
    how = f"documents in order until a domain has {tokens_per_domain} tokens"
    sampling = how if corpus.sampling is None else f"{corpus.sampling}; {how}"
    chosen = Corpus(
        documents=tuple(kept),
        domains=corpus.domains,
        num_blank=corpus.num_blank,
        ignored=corpus.ignored,
        sampling=sampling,
        hub=corpus.hub,
    )
    return tokens_of(
        model,
        chosen,
        context_length=tokenized.context_length,
        on_long=tokenized.on_long,
        count_bos=tokenized.count_bos,
    )
