"""Exact and near-duplicate removal, across documents and across splits."""

import re
import zlib
from collections.abc import Iterable, Iterator

from demo.corpora.documents import Document, stable_hash

_WORDS = 13
_CHARACTERS = 24
_KEEP_ONE_IN = 4


def shingles(text: str) -> set[int]:
    """Return hashes of a fixed quarter of the text's 13-word runs.

    Text written without spaces gives runs of 24 characters instead. Only hashes divisible by
    four are kept, which is the same quarter in every document, so overlaps are comparable.
    """
    words = re.findall(r"\w+", text)
    if len(text) > 12 * max(len(words), 1) or _mostly_han(text):
        han = re.sub(r"\W+", "", text)
        runs: Iterable[str] = (han[i : i + _CHARACTERS] for i in range(len(han) - _CHARACTERS + 1))
    else:
        runs = (" ".join(words[i : i + _WORDS]) for i in range(len(words) - _WORDS + 1))
    hashes = (zlib.crc32(run.encode()) for run in runs)
    return {h for h in hashes if h % _KEEP_ONE_IN == 0}


def _mostly_han(text: str) -> bool:
    han = sum("\u4e00" <= c <= "\u9fff" for c in text[:400])
    return han > 0.4 * min(len(text), 400)


def drop_exact(documents: Iterable[Document]) -> Iterator[Document]:
    """Keep the first of documents whose text is the same up to white space."""
    seen: set[int] = set()
    for d in documents:
        key = stable_hash(" ".join(d.text.split()))
        if key not in seen:
            seen.add(key)
            yield d


def drop_near(
    documents: Iterable[Document], *, train_share: float = 0.5, held_out_share: float = 0.1
) -> Iterator[Document]:
    """Drop documents most of whose shingles were seen before; train documents go first.

    A held-out document is dropped much earlier than a train one, since what it shares with
    training would be measured as knowledge.

    Args:
        documents: Documents of one domain, train before held-out.
        train_share: Largest share of seen shingles that a train document may have.
        held_out_share: The same for a held-out document.
    """
    seen: set[int] = set()
    for d in documents:
        own = shingles(d.text)
        limit = held_out_share if d.held_out else train_share
        if own and len(own & seen) > limit * len(own):
            continue
        seen |= own
        yield d
