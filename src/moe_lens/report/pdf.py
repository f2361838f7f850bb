"""PDFs that are the same every time.

The converter writes a page's resources and a file's objects in the order of a hash table. Here they
are put in order, and the table of offsets is written again; what the file shows is untouched.
"""

from __future__ import annotations

import re

_ENTRIES = re.compile(rb"(?:^ *\/[A-Za-z]+\d+ \d+ 0 R\n){2,}", re.MULTILINE)
_OFFSET = re.compile(rb"(\d{10}) \d{5} n")


def in_order(pdf: bytes) -> bytes:
    """The same document with its objects by number and its resources by name."""
    table = int(pdf[pdf.rindex(b"startxref") :].split()[1])
    trailer = pdf.index(b"trailer", table)
    numbers = _used(pdf[table:trailer])
    starts = sorted(numbers)
    ends = [*starts[1:], table]
    blocks = {
        numbers[start]: _sorted(pdf[start:end]) for start, end in zip(starts, ends, strict=True)
    }
    made = bytearray(pdf[: starts[0]])
    offsets: dict[int, int] = {}
    for number in sorted(blocks):
        offsets[number] = len(made)
        made += blocks[number]
    moved = {f"{start:010d}".encode(): offsets[number] for start, number in numbers.items()}
    rows = _OFFSET.sub(
        lambda row: f"{moved[row[1]]:010d}".encode() + row[0][10:], pdf[table:trailer]
    )
    end = pdf[trailer : pdf.rindex(b"startxref")]
    return bytes(made) + rows + end + f"startxref\n{len(made)}\n%%EOF".encode()


def _used(rows: bytes) -> dict[int, int]:
    """Offset to number, of the objects in a table of offsets that starts at object 0."""
    entries = rows.splitlines()[2:]
    found = {place: _OFFSET.match(entry) for place, entry in enumerate(entries)}
    return {int(entry[1]): place for place, entry in found.items() if entry}


def _sorted(block: bytes) -> bytes:
    """An object with its resources by name; its stream, where it has one, as it is."""
    head, stream, rest = block.partition(b"stream\n")
    ordered = _ENTRIES.sub(
        lambda lines: b"".join(sorted(lines[0].splitlines(keepends=True), key=_natural)), head
    )
    return ordered + stream + rest


def _natural(line: bytes) -> tuple[bytes, int]:
    name = line.split()[0]
    return name.rstrip(b"0123456789"), int(re.sub(rb"\D", b"", name))
