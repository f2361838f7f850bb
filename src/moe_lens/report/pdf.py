"""PDFs that are the same every time.

The converter numbers and writes a file's objects in the order of a hash table, another one each
time. Here they are numbered as a reader meets them, and the table of offsets is written again; what
the file shows is untouched.
"""

from __future__ import annotations

import re

_ENTRIES = re.compile(rb"(?:^ *\/[A-Za-z]+\d+ \d+ 0 R\n){2,}", re.MULTILINE)
_ROW = re.compile(rb"^(\d{10}) \d{5} n", re.MULTILINE)
_REFERENCE = re.compile(rb"\b(\d+) 0 R\b")


def in_order(pdf: bytes) -> bytes:
    """The same document with its resources by name and its objects in the order of reference."""
    table = int(pdf[pdf.rindex(b"startxref") :].split()[1])
    trailer = pdf[pdf.index(b"trailer", table) : pdf.rindex(b"startxref")]
    starts = sorted(int(offset) for offset in _ROW.findall(pdf[table:]))
    objects: dict[int, tuple[bytes, bytes]] = {}
    for start, end in zip(starts, [*starts[1:], table], strict=True):
        number, _, rest = pdf[start:end].partition(b" 0 obj")
        head, stream, content = rest.partition(b"stream\n")
        objects[int(number)] = (_by_name(head), stream + content)
    places = _as_met(trailer, objects)
    made = bytearray(pdf[: starts[0]])
    rows = [b"0000000000 65535 f\r\n"]
    for old, place in places.items():
        rows.append(f"{len(made):010d} 00000 n\r\n".encode())
        head, content = objects[old]
        made += f"{place} 0 obj".encode() + _renumbered(head, places) + content
    start = len(made)
    made += f"xref\n0 {len(rows)}\n".encode() + b"".join(rows) + _renumbered(trailer, places)
    return bytes(made) + f"startxref\n{start}\n%%EOF".encode()


def _as_met(trailer: bytes, objects: dict[int, tuple[bytes, bytes]]) -> dict[int, int]:
    """Old number to new, in the order in which a reader who starts at the end meets them."""
    places: dict[int, int] = {}
    waiting = _references(trailer)
    while waiting:
        number = waiting.pop(0)
        if number not in places:
            places[number] = len(places) + 1
            waiting += _references(objects[number][0])
    return places


def _references(head: bytes) -> list[int]:
    return [int(number) for number in _REFERENCE.findall(head)]


def _renumbered(head: bytes, places: dict[int, int]) -> bytes:
    return _REFERENCE.sub(lambda found: f"{places[int(found[1])]} 0 R".encode(), head)


def _by_name(head: bytes) -> bytes:
    """The entries of each dictionary of resources in the order of their names."""

    def ordered(found: re.Match[bytes]) -> bytes:
        lines: list[bytes] = found[0].splitlines(keepends=True)
        return b"".join(sorted(lines))

    return _ENTRIES.sub(ordered, head)
