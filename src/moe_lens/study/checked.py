"""Values of a file into a frozen dataclass: names and kinds are checked, mistakes are named."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from moe_lens.errors import InputError

Made = TypeVar("Made")


def made(kind: type[Made], values: Mapping[str, Any], *, where: str) -> Made:
    """An instance of a dataclass from plain values; lists become tuples.

    Args:
        kind: The dataclass.
        values: Its fields by name.
        where: What messages call the place that the values come from.

    Raises:
        InputError: A name is unknown, a required one is missing, or a value is of another kind.
    """
    parts = fields(kind)  # type: ignore[arg-type]
    names = [part.name for part in parts]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise InputError(f"{where} has no {unknown[0]!r}; it has {', '.join(names)}")
    for part in parts:
        needed = part.default is MISSING and part.default_factory is MISSING
        if needed and part.name not in values:
            raise InputError(f"{where} lacks {part.name!r}")
    hints = get_type_hints(kind)
    plain = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    for name, value in plain.items():
        if not _fits(value, hints[name]):
            shown = list(value) if isinstance(value, tuple) else value
            raise InputError(f"{where}: {name} = {shown!r}, but it is {_words(hints[name])}")
    return kind(**plain)


def _fits(value: object, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, parts[0]) for item in value)
    if hint is type(None):
        return value is None
    if hint in (int, float):
        kinds = (int,) if hint is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(part) for part in parts if part is not type(None))
    if origin is Literal:
        return f"one of {', '.join(parts)}"
    if origin is tuple:
        return f"a list of {_words(parts[0]).removeprefix('a ').removesuffix('s')}s"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
