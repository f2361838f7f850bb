"""Cut the short held-out excerpts that ship: `python -m demo.corpora.excerpts`."""

import argparse
import logging
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from demo.corpora import notice
from demo.corpora.documents import (
    DOMAINS,
    Document,
    read_jsonl,
    sha256_file,
    stable_hash,
    write_jsonl,
)
from demo.corpora.packages import SOURCES

_log = logging.getLogger(__name__)
MIN_CHARS, MAX_CHARS, LONG_LINE = 400, 4000, 80
_TARGET_BYTES = 125_000
UNSEEN_FAMILIES = frozenset({"word-problems", "competition"})
"""Sources whose held-out documents are of families of which training has none.

Every domain's excerpts are new documents of what training has; these are measured apart.
"""
_ROOT = Path(__file__).resolve().parents[2]
_TOP_LEVEL = re.compile(r"\n(?=(?:@|def |class |async def |if __name__))")
_SIZES = {"chinese": (800, 1200)}
"""Characters wanted, and characters that stay whole, where they are not `_USUAL_SIZES`.

Chinese says in 1000 characters, 3000 bytes, what takes others three times the characters.
"""
_USUAL_SIZES = (2600, MAX_CHARS)
_WEIGHTS = {"wiki-fr": 3, "qasper": 2}
"""Bytes of a source beside those of another source of its domain, where they differ."""


def long_lines(text: str) -> set[int]:
    """Return hashes of the lines of at least 80 characters, white space at the ends left out."""
    lines = (line.strip() for line in text.split("\n"))
    return {stable_hash(line) for line in lines if len(line) >= LONG_LINE}


def cut(document: Document) -> str | None:
    """Return a natural part of a document with 400 to 4000 characters, or `None`.

    A document that is short enough stays whole. Of a longer one a run of whole blocks is taken,
    from a place chosen by hash: functions and classes in code, paragraphs elsewhere.
    """
    domain = SOURCES[document.source].domain
    preferred, whole = _SIZES.get(domain, _USUAL_SIZES)
    if len(document.text) <= whole:
        return document.text if len(document.text) >= MIN_CHARS else None
    is_code = domain == "code"
    if is_code:
        blocks = _TOP_LEVEL.split(document.text)
    else:
        blocks = re.split(r"\n\n+|\n(?=[^\n]{80})", document.text)
    joint = "\n" if is_code else "\n\n"
    starts = sorted(range(len(blocks)), key=lambda i: stable_hash("cut", document.id, str(i)))
    for start in starts:
        taken: list[str] = []
        size = 0
        for block in blocks[start:]:
            if size + len(block) > preferred and size >= MIN_CHARS:
                break
            taken.append(block)
            size += len(block) + len(joint)
        text = joint.join(taken).strip("\n").rstrip()
        if MIN_CHARS <= len(text) <= MAX_CHARS and len(text) >= min(preferred // 2, 1200):
            return text
    return None


def excerpts(held_out: Iterable[Document], seen: set[int]) -> Iterator[Document]:
    """Yield excerpts of one domain, one a document, until the size is reached.

    Sources take turns by bytes, their groups (books, authors, plots) by documents. Passed over are
    documents whose source may not ship, those of `UNSEEN_FAMILIES`, and excerpts that share a long
    line with training.

    Args:
        held_out: The domain's held-out documents.
        seen: `long_lines` of its train split.
    """
    queues: dict[str, list[Document]] = {}
    for d in take_turns(held_out):
        if SOURCES[d.source].shipped and d.source not in UNSEEN_FAMILIES:
            queues.setdefault(d.source, []).insert(0, d)
    sizes = dict.fromkeys(queues, 0)
    while queues and sum(sizes.values()) < _TARGET_BYTES:
        source = min(queues, key=lambda name: (sizes[name] / _WEIGHTS.get(name, 1), name))
        d = queues[source].pop()
        if not queues[source]:
            del queues[source]
        text = cut(d)
        if text is not None and not long_lines(text) & seen:
            sizes[source] += len(text.encode())
            yield d._replace(text=text)


def take_turns(documents: Iterable[Document]) -> list[Document]:
    """Order documents so that groups take turns: the first of each, the second of each, ..."""

    def group(d: Document) -> str:
        if d.source in ("word-plots", "competition-plots"):
            return d.id.rpartition("/")[0]
        flat = d.id.startswith(("wiki", "qasper"))
        return d.source if flat else "/".join(d.id.split("/")[:2])

    ordered = sorted(documents, key=lambda d: (group(d), stable_hash("turn", d.id)))
    ranked = [
        (rank, stable_hash("group", name), d)
        for name, members in groupby(ordered, key=group)
        for rank, d in enumerate(members)
    ]
    return [d for _, _, d in sorted(ranked, key=lambda item: item[:2])]


def main() -> None:
    """Write the excerpts of every domain and the notice beside them."""
    parser = argparse.ArgumentParser(description="Cut the excerpts that ship with the package.")
    parser.add_argument("--corpora", type=Path, default=_ROOT / "build" / "corpora")
    parser.add_argument("--out", type=Path, default=_ROOT / "src" / "moe_lens" / "demo")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    used: set[str] = set()
    for domain in DOMAINS:
        folder = arguments.corpora / domain
        seen: set[int] = set()
        for d in read_jsonl(folder / "train.jsonl", held_out=False):
            seen |= long_lines(d.text)
        held_out = read_jsonl(folder / "heldout.jsonl", held_out=True)
        chosen = sorted(excerpts(held_out, seen), key=lambda d: d.id)
        path = arguments.out / "corpora" / f"{domain}.jsonl"
        write_jsonl(path, chosen)
        used |= {d.source for d in chosen}
        size = sum(len(d.text.encode()) for d in chosen)
        _log.info("%s: %d excerpts, %d bytes, %s", domain, len(chosen), size, sha256_file(path))
    notice_path = arguments.out / "NOTICE.md"
    notice_path.write_text(notice.notice(sorted(used)), encoding="utf-8")


if __name__ == "__main__":
    main()
