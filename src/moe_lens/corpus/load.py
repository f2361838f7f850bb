"""`load_corpus`: files, directories and data sets of the hub into a `Corpus`."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path, PurePath

from moe_lens.corpus.documents import Corpus, Document
from moe_lens.corpus.formats import READERS, SPLITS, ReadOptions, Split
from moe_lens.corpus.hub import Datasets, hub_corpus
from moe_lens.corpus.recipes import is_hub, recipes_of
from moe_lens.errors import CorpusError

DEMO = "demo"
_KINDS = ", ".join(READERS)


def load_corpus(
    path: str | os.PathLike[str],
    *,
    split: Split = "file",
    field: str = "text",
    id_field: str | None = "id",
    max_documents: int | None = None,
    seed: int = 0,
) -> Corpus:
    """Read text from files or from the hub, as documents that each belong to a domain.

    A file is one domain, named by its stem. A directory holds one domain per file, and one per
    sub-directory, whose files (at any depth) are then that domain's. Hidden files are passed
    over, and so are files of another kind, which `Corpus.ignored` lists. Domains come sorted by
    name, documents in file order. Documents of nothing but white space are left out and counted.

    From the hub come the first documents of each split, fetched as they are taken, and never code.

    Args:
        path: A `.txt`, `.jsonl` or `.parquet` file, a directory of them, or the string "demo"
            for the excerpts that come with the package (`./demo` is a local directory). Of the
            hub: "paper" for the paper's seven kinds of text, `hub:OWNER/NAME[:CONFIG]@SPLIT#FIELD`
            for one data set, or a `.toml` file of such (docs/corpora.md).
        split: What one document is in a `.txt` file: the whole "file", each "line", or each
            "paragraph" (lines up to a blank one).
        field: The JSON field or Parquet column that holds the text.
        id_field: The JSON field or Parquet column that names a document, where a file has it.
        max_documents: The most documents to take from one domain; None for all, but 50 of the hub.
        seed: Chooses which ones of a file: those whose hash of (seed, domain, id) is lowest, so
            that the choice depends neither on the machine nor on the other domains, and a larger
            `max_documents` takes the same ones and more.

    Raises:
        CorpusError: There is nothing to read at `path`, or what is there breaks a rule; the
            message names the file, the line and the way out.
    """
    _check_options(split, max_documents)
    if isinstance(path, str) and is_hub(path):
        return hub_corpus(recipes_of(path, field=field), Datasets(), max_documents=max_documents)
    options = ReadOptions(split=split, field=field, id_field=id_field)
    domains, ignored = _sources(path)
    documents: list[Document] = []
    num_blank = 0
    for domain in sorted(domains):
        found = _read_domain(domain, domains[domain], options)
        documents += _sample(found.documents, max_documents, seed=seed)
        num_blank += found.num_blank
    return Corpus(
        documents=tuple(documents),
        domains=tuple(sorted(domains)),
        num_blank=num_blank,
        ignored=ignored,
        sampling=None if max_documents is None else _sampling(max_documents, seed),
    )


def _check_options(split: str, max_documents: int | None) -> None:
    if split not in SPLITS:
        raise CorpusError(
            f"split={split!r} is unknown; a .txt file splits by one of {', '.join(SPLITS)}"
        )
    if max_documents is not None and max_documents < 1:
        raise CorpusError(
            f"max_documents={max_documents}: at least 1 document a domain is needed; None takes "
            f"them all"
        )


@dataclass(frozen=True)
class _Source:
    """A file of a domain; `prefix` keeps ids apart where a domain has several files."""

    file: Traversable
    prefix: str


_Sources = dict[str, list[_Source]]


def _sources(path: str | os.PathLike[str]) -> tuple[_Sources, tuple[str, ...]]:
    if path == DEMO:
        return _demo_sources(), ()
    place = Path(path).expanduser()
    if place.is_dir():
        return _directory_sources(place)
    if place.is_file():
        if _suffix(place.name) not in READERS:
            raise CorpusError(
                f"{place}: files of kind {place.suffix or 'no suffix'} cannot be read as text. "
                f"Kinds that can: {_KINDS}"
            )
        return {place.stem: [_Source(place, "")]}, ()
    raise CorpusError(
        f"{place} does not exist. Give a file ({_KINDS}), a directory of them, {DEMO!r} for the "
        f"excerpts that come with the package, or a data set of the hub (docs/corpora.md)"
    )


def _demo_sources() -> _Sources:
    folder = importlib.resources.files("moe_lens").joinpath("demo", "corpora")
    files = sorted(folder.iterdir(), key=lambda f: f.name) if folder.is_dir() else []
    found: _Sources = {
        PurePath(f.name).stem: [_Source(f, "")] for f in files if _suffix(f.name) == ".jsonl"
    }
    if not found:
        raise CorpusError(
            "the demo excerpts (moe_lens/demo/corpora/*.jsonl) are not in this installation. "
            "Install moe-lens again, or give a file or directory of your own text"
        )
    return found


def _directory_sources(directory: Path) -> tuple[_Sources, tuple[str, ...]]:
    found: _Sources = {}
    ignored: list[str] = []
    for entry in _visible(directory):
        domain = entry.name if entry.is_dir() else entry.stem
        members = list(_files_below(entry)) if entry.is_dir() else [entry]
        usable = [file for file in members if _suffix(file.name) in READERS]
        ignored += [str(f.relative_to(directory)) for f in members if f not in usable]
        if not usable:
            continue
        if domain in found:
            raise CorpusError(
                f"{directory}: two entries make the domain {domain!r}, the second is "
                f"{entry.name}. Rename one, or put both files in a sub-directory {domain!r}"
            )
        prefixes = [f"{f.relative_to(entry)}:" if entry.is_dir() else "" for f in usable]
        found[domain] = [_Source(f, p) for f, p in zip(usable, prefixes, strict=True)]
    if not found:
        raise CorpusError(
            f"{directory} holds no text that can be read. Kinds that can: {_KINDS}, one domain "
            f"per file or sub-directory"
            + (f"; found only {', '.join(sorted(ignored)[:5])}" if ignored else "; it is empty")
        )
    return found, tuple(ignored)


def _visible(directory: Path) -> list[Path]:
    return sorted(
        (e for e in directory.iterdir() if not e.name.startswith(".")), key=lambda e: e.name
    )


def _files_below(directory: Path) -> Iterator[Path]:
    for entry in _visible(directory):
        if entry.is_dir():
            yield from _files_below(entry)
        else:
            yield entry


def _suffix(name: str) -> str:
    return PurePath(name).suffix.lower()


@dataclass(frozen=True)
class _Domain:
    documents: list[Document]
    num_blank: int


def _read_domain(domain: str, sources: list[_Source], options: ReadOptions) -> _Domain:
    documents: list[Document] = []
    num_blank = 0
    for source in sources:
        reader = READERS[_suffix(source.file.name)]
        for row in reader(source.file, options):
            if not row.text or row.text.isspace():
                num_blank += 1
                continue
            name = f"{domain}/{source.prefix}{row.name}"
            documents.append(Document(text=row.text, domain=domain, id=name))
    if not documents:
        names = ", ".join(source.file.name for source in sources)
        raise CorpusError(
            f"domain {domain!r} ({names}) has no text: {num_blank} blank documents and no other. "
            f"Put text in it, or take it away"
        )
    return _Domain(documents, num_blank)


def _sample(documents: list[Document], most: int | None, *, seed: int) -> list[Document]:
    """The documents with the lowest hashes, in the order they came."""
    if most is None or len(documents) <= most:
        return documents
    order = sorted(range(len(documents)), key=lambda i: _rank(documents[i], seed))
    return [documents[i] for i in sorted(order[:most])]


def _rank(document: Document, seed: int) -> bytes:
    key = f"{seed}\0{document.domain}\0{document.id}"
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def _sampling(max_documents: int, seed: int) -> str:
    return f"at most {max_documents} documents a domain, of lowest blake2b(seed {seed}, domain, id)"
