"""Documents of a corpus: the value, its order, its files."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

DOMAINS = ("code", "english", "french", "chinese", "gsm", "aime", "science")
SPLITS = ("train", "heldout")


class Document(NamedTuple):
    """One unit of text: the unit that is held out and that intervals resample.

    Attributes:
        id: Stable name, unique in its domain: source, work, part.
        text: Clean text, NFC, newlines as line feeds.
        source: Name of the source, a key of `packages.SOURCES`.
        held_out: Whether the document is kept from training.
    """

    id: str
    text: str
    source: str
    held_out: bool


def stable_hash(*parts: str) -> int:
    """Return 64 bits that depend on the parts alone, the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def chosen(key: str, *, per_mille: int) -> bool:
    """Say whether a key falls into the held-out share, by hash: no state, no order."""
    return stable_hash("heldout", key) % 1000 < per_mille


def shuffled(documents: Iterable[Document]) -> list[Document]:
    """Order documents by the hash of their id, so that any prefix is a mixture of sources."""
    return sorted(documents, key=lambda d: (stable_hash("order", d.id), d.id))


def write_jsonl(path: Path, documents: Iterable[Document]) -> None:
    """Write one JSON object a line with `id`, `text`, `source`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for d in documents:
            row = {"id": d.id, "text": d.text, "source": d.source}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path, *, held_out: bool) -> Iterator[Document]:
    """Read documents that `write_jsonl` wrote; the split is known from the file's name."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield Document(row["id"], row["text"], row["source"], held_out)


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
