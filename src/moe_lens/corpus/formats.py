"""Reading documents out of one file: text, JSON lines, Parquet.

A reader yields `(name, text)` with the name unique in its file. Text is kept as stored; a byte
order mark is not text. Every complaint names the file and the line or row.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Literal, NamedTuple

import polars as pl

from moe_lens.errors import CorpusError

Split = Literal["file", "line", "paragraph"]
SPLITS: tuple[Split, ...] = ("file", "line", "paragraph")


class Row(NamedTuple):
    """A document as its file has it; blank ones included."""

    name: str
    text: str


@dataclass(frozen=True)
class ReadOptions:
    """What the readers have to know beyond the file.

    Attributes:
        split: What one document is in a `.txt` file.
        field: The JSON field or Parquet column that holds the text.
        id_field: The JSON field or Parquet column that names a document, where a file has it;
            without one, documents are named by their line or row, from 1.
    """

    split: Split
    field: str
    id_field: str | None


Reader = Callable[[Traversable, ReadOptions], Iterator[Row]]


def _read_text(source: Traversable, options: ReadOptions) -> Iterator[Row]:
    if options.split == "file":
        yield Row("1", _whole(source))
    elif options.split == "line":
        for number, line in _lines(source):
            yield Row(str(number), line)
    else:
        yield from _paragraphs(source)


def _whole(source: Traversable) -> str:
    try:
        return source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(source, f"byte {error.start} ({error.object[error.start]:#04x})") from None


def _lines(source: Traversable) -> Iterator[tuple[int, str]]:
    with source.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                yield number, line.rstrip(b"\r\n").decode()
            except UnicodeDecodeError as error:
                where = f"line {number}, byte {error.start} ({line[error.start]:#04x})"
                raise _not_utf8(source, where) from None


def _paragraphs(source: Traversable) -> Iterator[Row]:
    """Runs of lines between blank lines, named by their first line."""
    held: list[str] = []
    first = 1
    for number, line in _lines(source):
        if line.strip():
            first = first if held else number
            held.append(line)
        elif held:
            yield Row(str(first), "\n".join(held))
            held = []
    if held:
        yield Row(str(first), "\n".join(held))


def _not_utf8(source: Traversable, where: str) -> CorpusError:
    return CorpusError(
        f"{source.name}: {where} is not UTF-8. Text must be UTF-8: convert the file first, for "
        f"example with `iconv -f LATIN1 -t UTF-8`"
    )


def _read_jsonl(source: Traversable, options: ReadOptions) -> Iterator[Row]:
    seen: dict[str, str] = {}
    for number, line in _lines(source):
        if not line.strip():
            continue
        place = f"{source.name}: line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(
                f"{place} is not JSON ({error.msg} at column {error.colno}). A .jsonl file holds "
                f"one object a line; rename a text file to .txt"
            ) from None
        if not isinstance(row, dict):
            raise CorpusError(
                f"{place} is a JSON {type(row).__name__}, not an object. A .jsonl file holds one "
                f'object a line, such as {{"{options.field}": "..."}}'
            )
        text = _text_of(row, options.field, place)
        name = _name_of(row.get(options.id_field) if options.id_field else None, number)
        _claim(seen, name, place, id_field=options.id_field)
        yield Row(name, text)


def _text_of(row: dict[str, object], field: str, place: str) -> str:
    if field not in row:
        raise CorpusError(
            f"{place} has no field {field!r}; it has {_listed(row)}. Name the field that holds "
            f"the text"
        )
    text = row[field]
    if not isinstance(text, str):
        raise CorpusError(
            f"{place}: field {field!r} is {json.dumps(text)[:40]}, not a string. Every document "
            f"needs text"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CorpusError(
            f"{place}: field {field!r} holds half of a surrogate pair, which is no character. "
            f"Write the text again from its source"
        ) from None
    return text


def _read_parquet(source: Traversable, options: ReadOptions) -> Iterator[Row]:
    with source.open("rb") as file:
        try:
            schema = pl.read_parquet_schema(file)
        except pl.exceptions.PolarsError as error:
            raise CorpusError(
                f"{source.name} is not a Parquet file, or was cut short ({error}). Write it again"
            ) from None
        kind = schema.get(options.field)
        if kind is None:
            raise CorpusError(
                f"{source.name} has no column {options.field!r}; it has {_listed(schema)}. Name "
                f"the column that holds the text"
            )
        if kind != pl.String:
            raise CorpusError(
                f"{source.name}: column {options.field!r} is of type {kind}, not String. Name "
                f"the column that holds the text"
            )
        ids = options.id_field if options.id_field in schema else None
        file.seek(0)
        try:
            table = pl.read_parquet(file, columns=[options.field, *([ids] if ids else [])])
        except pl.exceptions.PolarsError as error:
            raise CorpusError(f"{source.name} is damaged ({error}). Write it again") from None
    seen: dict[str, str] = {}
    names: pl.Series | list[None] = table[ids] if ids else [None] * len(table)
    for number, (text, given) in enumerate(zip(table[options.field], names, strict=True), 1):
        place = f"{source.name}: row {number}"
        if text is None:
            raise CorpusError(
                f"{place}: column {options.field!r} is null. Every document needs text"
            )
        name = _name_of(given, number)
        _claim(seen, name, place, id_field=options.id_field)
        yield Row(name, text)


def _name_of(given: object, number: int) -> str:
    usable = isinstance(given, str | int) and not isinstance(given, bool) and given != ""
    return str(given) if usable else str(number)


def _claim(seen: dict[str, str], name: str, place: str, *, id_field: str | None) -> None:
    earlier = seen.setdefault(name, place)
    if earlier != place:
        raise CorpusError(
            f"{place} has the id {name!r}, as {earlier} has. Ids must be unique in a file: mend "
            f"them, or pass id_field=None (now {id_field!r}) to number the documents"
        )


def _listed(names: object) -> str:
    return ", ".join(sorted(map(repr, names))) or "none"  # type: ignore[call-overload]


READERS: dict[str, Reader] = {
    ".txt": _read_text,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
"""What reads a file, by suffix in lower case."""
