"""`Document` and `Corpus`: text with a domain, in a fixed order, and the hash that names it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_HASH_CHUNK = 1 << 20
"""Characters encoded at a time, so that hashing never holds a second copy of a long document."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text: the unit that intervals resample and that tokens never cross.

    Attributes:
        text: The text as it was stored: nothing is trimmed or normalised.
        domain: The kind of text it belongs to.
        id: Stable name, unique in its corpus.
    """

    text: str
    domain: str
    id: str


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, grouped by domain.

    Attributes:
        documents: All documents; those of one domain stand together, in the order of `domains`.
        domains: Names of the domains, sorted.
        num_blank: Documents left out because they held nothing but white space.
        ignored: Names of files in a directory that are of no kind that can be read.
        sampling: How documents were chosen, in words; None where no limit was set.
        hub: Of each domain that came from the hub: data set, commit, fields, licence.
    """

    documents: tuple[Document, ...]
    domains: tuple[str, ...]
    num_blank: int = 0
    ignored: tuple[str, ...] = ()
    sampling: str | None = None
    hub: tuple[Mapping[str, Any], ...] = ()

    def __len__(self) -> int:
        return len(self.documents)

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    @cached_property
    def sha256(self) -> str:
        """Hash of every document's domain, id and text in order: the same text, the same hash.

        Where the files lay, and in what format, does not enter; neither does the machine.
        """
        digest = hashlib.sha256()
        for document in self.documents:
            for part in (document.domain, document.id, document.text):
                _add(digest, part)
        return digest.hexdigest()

    @cached_property
    def domain_indices(self) -> tuple[int, ...]:
        """Index in `domains` of each document's domain."""
        index = {name: i for i, name in enumerate(self.domains)}
        return tuple(index[document.domain] for document in self.documents)

    @cached_property
    def num_documents(self) -> dict[str, int]:
        """Documents of each domain."""
        counts = dict.fromkeys(self.domains, 0)
        for document in self.documents:
            counts[document.domain] += 1
        return counts


def _add(digest: Any, text: str) -> None:
    """Feed a text so that no two lists of texts give the same bytes: its length goes first."""
    digest.update(len(text).to_bytes(8, "big"))
    for start in range(0, len(text), _HASH_CHUNK):
        digest.update(text[start : start + _HASH_CHUNK].encode())
