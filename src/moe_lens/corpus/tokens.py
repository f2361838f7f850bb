"""`tokenize`: documents to token ids, and what was done about BOS and about long documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int32
from torch import Tensor

from moe_lens.corpus.documents import Corpus
from moe_lens.errors import CorpusError

OnLong = Literal["split", "truncate", "error"]
ON_LONG: tuple[OnLong, ...] = ("split", "truncate", "error")

_CHUNK_DOCUMENTS = 256
_CHUNK_CHARACTERS = 1 << 22
_PROBE = "a"
_PROBE_CHARACTERS = 100


@runtime_checkable
class Tokenizer(Protocol):
    """What is asked of a tokenizer; every transformers tokenizer is one."""

    @property
    def bos_token_id(self) -> int | None:
        """Id of the token that begins a text, if the tokenizer has one."""
        ...

    def __call__(self, text: list[str], **options: Any) -> Mapping[str, Any]:
        """A mapping whose `input_ids` holds one list of ids per text."""
        ...


class Window(NamedTuple):
    """A run of tokens of one document that goes through the model as one sequence."""

    document: int
    start: int
    length: int


@dataclass(frozen=True, eq=False)
class TokenizedCorpus:
    """The token ids of every document, and how they came about.

    Attributes:
        corpus: Where they come from; documents have the same index in both.
        ids: The ids of each document, BOS included where there is one.
        has_bos: Whether position 0 of every document is a BOS that is not part of its text.
        count_bos: Whether that BOS is counted like any token.
        context_length: The longest sequence the model is given, in tokens.
        on_long: What was done about longer documents.
        vocab_size: Every id is below it.
        num_long: Documents longer than the context.
        num_cut: Tokens that `on_long="truncate"` left out.
    """

    corpus: Corpus
    ids: tuple[Int32[Tensor, " _"], ...]
    has_bos: bool
    count_bos: bool
    context_length: int
    on_long: OnLong
    vocab_size: int
    num_long: int
    num_cut: int

    @cached_property
    def num_tokens(self) -> int:
        """Tokens that the model will read, BOS included, padding not."""
        return sum(map(len, self.ids))

    @cached_property
    def num_counted(self) -> int:
        """Tokens that reach statistics."""
        left_out = self.has_bos and not self.count_bos
        return self.num_tokens - (sum(len(ids) > 0 for ids in self.ids) if left_out else 0)

    def windows(self) -> Iterator[Window]:
        """The sequences that make up the corpus, in its order; each token is in exactly one.

        A split document's windows follow one another without overlap. Only the first has the
        document's BOS: a later one starts in mid-text, with nothing put before it.
        """
        for document, ids in enumerate(self.ids):
            for start in range(0, len(ids), self.context_length):
                yield Window(document, start, min(self.context_length, len(ids) - start))

    def describe(self) -> dict[str, Any]:
        """What a manifest says about the text of a run; plain JSON values."""
        per_domain = dict.fromkeys(self.corpus.domains, 0)
        for document, ids in zip(self.corpus, self.ids, strict=True):
            per_domain[document.domain] += len(ids)
        described: dict[str, Any] = {
            "sha256": self.corpus.sha256,
            "domains": {
                name: {"num_documents": count, "num_tokens": per_domain[name]}
                for name, count in self.corpus.num_documents.items()
            },
            "num_tokens": self.num_tokens,
            "num_counted": self.num_counted,
            "num_blank_documents": self.corpus.num_blank,
            "sampling": self.corpus.sampling,
            "context_length": self.context_length,
            "on_long": self.on_long,
            "num_long_documents": self.num_long,
            "num_cut_tokens": self.num_cut,
            "bos": "first window only" if self.has_bos else "none",
            "bos_counted": self.count_bos and self.has_bos,
        }
        if self.corpus.hub:
            described["hub"] = [dict(source) for source in self.corpus.hub]
        return described


def tokenize(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    vocab_size: int,
    on_long: OnLong = "split",
    add_bos: bool | None = None,
    count_bos: bool = False,
) -> TokenizedCorpus:
    """Turn every document into token ids, as the tokenizer does for this text alone.

    Special tokens that the tokenizer adds elsewhere than at the start (an EOS) stay, and count.
    A special token spelled out in a text becomes that token, as the tokenizer has it.

    Args:
        corpus: The documents.
        tokenizer: The model's own tokenizer.
        context_length: The most tokens the model is given at once, BOS included.
        vocab_size: Rows of the model's embedding; no id may reach it.
        on_long: What to do with a longer document: "split" it into windows of
            `context_length` that do not overlap (the model sees none of the earlier windows),
            "truncate" it to the first window, or raise an "error".
        add_bos: Whether each document starts with BOS; None leaves it to the tokenizer.
        count_bos: Whether that BOS counts in statistics.

    Raises:
        CorpusError: A text or an option does not fit the tokenizer or the model.
    """
    _check_options(context_length, on_long)
    bos = _bos_plan(tokenizer, corpus, add_bos)
    kept: list[Tensor] = []
    num_long = num_cut = 0
    for name, ids in _encode(corpus, tokenizer, bos):
        _check_vocabulary(ids, vocab_size, name=name)
        over = len(ids) - context_length
        if over > 0:
            num_long += 1
            if on_long == "error":
                raise CorpusError(_too_long(name, len(ids), context_length))
            if on_long == "truncate":
                num_cut += over
                ids = ids[:context_length].clone()
        kept.append(ids)
    tokenized = TokenizedCorpus(
        corpus=corpus,
        ids=tuple(kept),
        has_bos=bos.present,
        count_bos=count_bos,
        context_length=context_length,
        on_long=on_long,
        vocab_size=vocab_size,
        num_long=num_long,
        num_cut=num_cut,
    )
    if tokenized.num_counted == 0:
        raise CorpusError(
            f"the tokenizer makes no tokens of the {len(corpus)} documents, so there is nothing "
            f"to count. Is it the model's own tokenizer, and is the text in its alphabet?"
        )
    return tokenized


def _check_options(context_length: int, on_long: str) -> None:
    if context_length < 1:
        raise CorpusError(f"context_length={context_length}: a sequence holds at least 1 token")
    if on_long not in ON_LONG:
        raise CorpusError(f"on_long={on_long!r} is unknown; choose one of {', '.join(ON_LONG)}")


class _BosPlan(NamedTuple):
    """What to do to the tokenizer's ids so that BOS is there, or is not."""

    present: bool
    prepend: int | None
    strip: bool


def _bos_plan(tokenizer: Tokenizer, corpus: Corpus, add_bos: bool | None) -> _BosPlan:
    bos = tokenizer.bos_token_id
    added = bos is not None and _adds(tokenizer, bos, corpus)
    wanted = added if add_bos is None else add_bos
    if wanted and bos is None:
        raise CorpusError(
            "add_bos=True, but the tokenizer has no BOS token (bos_token_id is None). Leave "
            "add_bos out to do as the tokenizer does"
        )
    return _BosPlan(
        present=wanted, prepend=bos if wanted and not added else None, strip=added and not wanted
    )


def _adds(tokenizer: Tokenizer, bos: int, corpus: Corpus) -> bool:
    """Whether the tokenizer itself puts BOS before a text.

    Told by a text whose own first token is another: where one token is both BOS and the unknown
    word, a text that begins with an unknown word tells nothing.
    """
    for text in chain([_PROBE], (document.text[:_PROBE_CHARACTERS] for document in corpus)):
        own = _ids(tokenizer, [text], add_special_tokens=False)[0]
        if own and own[0] != bos:
            return _ids(tokenizer, [text], add_special_tokens=True)[0][0] == bos
    return False


def _ids(tokenizer: Tokenizer, texts: list[str], *, add_special_tokens: bool) -> list[list[int]]:
    encoded = tokenizer(
        texts,
        add_special_tokens=add_special_tokens,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


class _Encoded(NamedTuple):
    name: str
    ids: Int32[Tensor, " pos"]


def _encode(corpus: Corpus, tokenizer: Tokenizer, bos: _BosPlan) -> Iterator[_Encoded]:
    first = [] if bos.prepend is None else [bos.prepend]
    for chunk in _chunks(corpus):
        texts = [corpus.documents[i].text for i in chunk]
        for i, ids in zip(chunk, _ids(tokenizer, texts, add_special_tokens=True), strict=True):
            whole = first + ids[1:] if bos.strip else first + ids
            yield _Encoded(corpus.documents[i].id, torch.tensor(whole, dtype=torch.int32))


def _chunks(corpus: Corpus) -> Iterator[range]:
    """Runs of documents short enough that the tokenizer's working memory stays small."""
    start = size = 0
    for i, document in enumerate(corpus):
        full = i - start >= _CHUNK_DOCUMENTS or size + len(document.text) > _CHUNK_CHARACTERS
        if i > start and full:
            yield range(start, i)
            start, size = i, 0
        size += len(document.text)
    if start < len(corpus):
        yield range(start, len(corpus))


def _check_vocabulary(ids: Int32[Tensor, " pos"], vocab_size: int, *, name: str) -> None:
    if len(ids) and int(ids.max()) >= vocab_size:
        raise CorpusError(
            f"document {name!r}: token id {int(ids.max())} is outside the model's vocabulary of "
            f"{vocab_size} (0 to {vocab_size - 1}). The tokenizer belongs to another model, or "
            f"has tokens that the embedding was not resized for: use the checkpoint's own"
        )


def _too_long(name: str, num_tokens: int, context_length: int) -> str:
    return (
        f"document {name!r} has {num_tokens} tokens, more than the context of {context_length}. "
        f'Shorten it, or pass on_long="split" (windows of {context_length}) or '
        f'on_long="truncate" (its first {context_length})'
    )
