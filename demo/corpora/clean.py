"""Cleaning functions: text in, text out, no files."""

import re
import unicodedata
from collections.abc import Iterator

_INVISIBLE = re.compile("[\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd]")
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")
_LICENCE_WORDS = re.compile(r"copyright|licen[sc]e|all rights reserved|spdx", re.IGNORECASE)
_GLUED = re.compile(r"(?<=[a-z])(?=(?:TAB|FIG|SEC)REF\d)")
_REFERENCE = re.compile(r"(?:TABREF|FIGREF|SECREF)(?=\d)")
_CITATION_GROUP = re.compile(
    r"\s*[(\[]\s*(?:(?:e\.g\.|i\.e\.|see|cf\.)[,\s]*)?(?:BIBREF\d+(?:\s|,|;|and|&)*)+[)\]]"
)
_CITATION = re.compile(r"(?:(?:\s|,|;|\band\b)*BIBREF\d+)+")
_FORMULA_HOLE = re.compile(r"INLINEFORM|DISPLAYFORM|UID\d+|REFID|work is licensed under")
_LATEX_LAYOUT = re.compile(
    r"\\(?:begin|end|hline|centering|multicolumn|includegraphics|label|vspace|item)\b|\[RGB\]"
    r"|noitemsep|leftmargin|gbsn|nolistsep|topsep|\d+em\b"
)
_ANNOTATION = re.compile(r"<<.*?>>", re.DOTALL)
_ITALIC = re.compile(r"(?<![A-Za-z0-9])_([^_\n]+?)_(?![A-Za-z0-9])")


def normalise(text: str, *, max_empty_lines: int = 1) -> str:
    r"""Return NFC text with `\n` newlines, plain spaces, no control or invisible characters.

    Spaces at line ends go, and longer runs of empty lines are cut to `max_empty_lines`.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = unicodedata.normalize("NFC", text)
    text = _SPACES.sub(" ", _CONTROL.sub("", _INVISIBLE.sub("", text)))
    text = re.sub(r"[ \t]+\n", "\n", text)
    newlines = "\n" * (max_empty_lines + 1)
    return re.sub(rf"{newlines}\n+", newlines, text).strip("\n").rstrip()


def strip_licence_comment(source: str) -> str:
    """Drop the leading comment block of Python source when it speaks of copyright or licence."""
    lines = source.split("\n")
    end = 0
    while end < len(lines) and (lines[end].startswith("#") or not lines[end].strip()):
        end += 1
    if _LICENCE_WORDS.search("\n".join(lines[:end])):
        return "\n".join(lines[end:])
    return source


def strip_citations(paragraph: str) -> str:
    """Remove citation markers (`BIBREF3`) and turn `Table TABREF27` into `Table 27`."""
    paragraph = _CITATION_GROUP.sub("", paragraph)
    paragraph = _CITATION.sub("", paragraph)
    paragraph = _REFERENCE.sub("", _GLUED.sub(" ", paragraph))
    paragraph = re.sub(r"\(\s*\)|\[\s*\]", "", paragraph)
    paragraph = re.sub(r"\s+([.,;:)])", r"\1", paragraph)
    return re.sub(r" {2,}", " ", paragraph).strip()


def is_prose(paragraph: str) -> bool:
    """Say whether a paper's paragraph is prose: no formula holes, no layout code, not a stub."""
    if len(paragraph) < 60 or "@" in paragraph:
        return False
    if _FORMULA_HOLE.search(paragraph) or _LATEX_LAYOUT.search(paragraph):
        return False
    return sum(c.isalpha() or c == " " for c in paragraph) > 0.75 * len(paragraph)


def strip_annotations(text: str) -> str:
    """Remove calculator annotations of the form `<<3*4=12>>`."""
    return _ANNOTATION.sub("", text)


def strip_italics(text: str) -> str:
    """Turn `_word_` of plain-text books into `word`."""
    return _ITALIC.sub(r"\1", text)


def unwrap(text: str) -> str:
    """Join the hard-wrapped lines of each paragraph; empty lines part paragraphs."""
    blocks = re.split(r"\n\s*\n", text)
    return "\n\n".join(re.sub(r"\s+", " ", b).strip() for b in blocks if b.strip())


def strip_double_numbering(verse: str) -> str:
    """Remove the second verse numbering of French psalms, such as `(9:1)`."""
    return re.sub(r"\s*\(\d+:\d+\)\s*", " ", verse).strip()


def has_formula_gap(text: str) -> bool:
    """Say whether a formula was cut out of the text and left a hole behind."""
    return bool(re.search(r"[^\s] [.,](?:\s|$)|\S {2,}\S|\(\s*\)|\{\\|__|\\[a-z]", text))


def pieces(text: str, *, max_chars: int, separator: str = "\n\n") -> Iterator[str]:
    """Cut text at separators into even pieces of at most `max_chars` where blocks allow it.

    A single block longer than the limit stays whole.
    """
    blocks = text.split(separator)
    count = -(-len(text) // max_chars)
    target = -(-len(text) // count) if count else max_chars
    piece: list[str] = []
    size = 0
    for block in blocks:
        if piece and (size + len(block) > max_chars or size >= target):
            yield separator.join(piece)
            piece, size = [], 0
        piece.append(block)
        size += len(block) + len(separator)
    if piece:
        yield separator.join(piece)
