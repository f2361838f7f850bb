"""Python source files out of wheels."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from demo.corpora.clean import normalise, strip_licence_comment
from demo.corpora.documents import Document, chosen

HELD_OUT_PACKAGES = frozenset({"attrs", "httpx", "marshmallow", "starlette"})
_HELD_OUT_PER_MILLE = 15
_SIZES = range(600, 60_000)
_UNWANTED = re.compile(
    r"(^|/)(tests?|testing|test_[^/]*|conftest|locale|migrations|_vendor)(/|\.py)"
)
_GENERATED = re.compile(r"auto-?generated|do not edit", re.IGNORECASE)


def python_files(package: str, wheel: Path) -> Iterator[Document]:
    """Yield the hand-written modules of a wheel, whole, without licence headers.

    Tests, translations, vendored and generated files are left out, and so are tables of data:
    files with very long lines or with less than half letters.
    """
    with zipfile.ZipFile(wheel) as archive:
        for info in sorted(archive.infolist(), key=lambda i: i.filename):
            name = info.filename
            if not name.endswith(".py") or info.file_size not in _SIZES or _UNWANTED.search(name):
                continue
            source = normalise(archive.read(info).decode("utf-8"), max_empty_lines=2)
            text = strip_licence_comment(source).strip("\n")
            if len(text) < _SIZES.start or not _is_written_by_hand(text):
                continue
            key = f"{package}/{name}"
            held_out = package in HELD_OUT_PACKAGES or chosen(key, per_mille=_HELD_OUT_PER_MILLE)
            yield Document(key, text + "\n", package, held_out)


def _is_written_by_hand(text: str) -> bool:
    if _GENERATED.search(text[:500]) or max(map(len, text.split("\n"))) > 240:
        return False
    visible = re.sub(r"\s", "", text)
    return sum(c.isalpha() for c in visible) > 0.5 * len(visible)
