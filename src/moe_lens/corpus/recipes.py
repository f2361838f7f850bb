"""`Recipe`: where the documents of a domain come from, read from a TOML file or from one line."""

from __future__ import annotations

import importlib.resources
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from moe_lens.errors import CorpusError

SCHEME = "hub:"
PAPER = "paper"

_FORM = "hub:OWNER/NAME[:CONFIG]@SPLIT[#FIELD[+FIELD]]"
_WRITTEN = re.compile(
    r"hub:(?P<id>[^:@#]+)(?::(?P<config>[^:@#]+))?@(?P<split>[^:@#]+)(?:#(?P<fields>[^:@#]+))?"
)


@dataclass(frozen=True)
class Recipe:
    """Where the documents of one domain come from.

    Attributes:
        domain: The domain's name.
        id: The data set on the hub, "owner/name", or a local directory of one.
        split: Its split.
        fields: The fields that make up a document, joined by a line end.
        config: Its configuration, where it has several.
        revision: The commit to read; None for the newest, whose commit is then recorded.
        max_characters: Where a document is cut off; None for nowhere.
        licence: As its card states it.
    """

    domain: str
    id: str
    split: str
    fields: tuple[str, ...] = ("text",)
    config: str | None = None
    revision: str | None = None
    max_characters: int | None = None
    licence: str | None = None

    @property
    def place(self) -> str:
        """The data set and its configuration, for messages."""
        return self.id if self.config is None else f"{self.id}:{self.config}"

    def describe(self) -> dict[str, Any]:
        """What a manifest says of it; plain JSON values."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return values | {"fields": list(self.fields)}


def is_hub(corpus: str) -> bool:
    """Whether a corpus is named in a way that is read from the hub."""
    return corpus == PAPER or corpus.startswith(SCHEME) or corpus.lower().endswith(".toml")


def recipes_of(corpus: str, *, field: str = "text") -> tuple[Recipe, ...]:
    """The recipes that a corpus names.

    Args:
        corpus: "paper"; a `.toml` file with a table for each domain; or
            `hub:OWNER/NAME[:CONFIG]@SPLIT[#FIELD[+FIELD]]` for one domain, called NAME.
        field: The field that holds the text, where the corpus does not say.

    Raises:
        CorpusError: The name or the file breaks a rule.
    """
    if corpus == PAPER:
        text = (
            importlib.resources.files("moe_lens.corpus").joinpath("paper.toml").read_text("utf-8")
        )
        return _recipes(tomllib.loads(text), where="paper.toml", field=field)
    if corpus.startswith(SCHEME):
        return (_one(corpus, field=field),)
    try:
        tables = tomllib.loads(Path(corpus).expanduser().read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CorpusError(f"{corpus} does not exist; docs/corpora.md says what it holds") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CorpusError(f"{corpus} is not TOML ({error})") from None
    return _recipes(tables, where=corpus, field=field)


def _one(corpus: str, *, field: str) -> Recipe:
    found = _WRITTEN.fullmatch(corpus)
    if found is None:
        raise CorpusError(
            f"{corpus!r} is not of the form {_FORM}, as in "
            f"hub:openai/gsm8k:main@test#question+answer"
        )
    name = found["id"].rstrip("/").rpartition("/")[2]
    parts = found["fields"].split("+") if found["fields"] else [field]
    return Recipe(name, found["id"], found["split"], tuple(parts), found["config"])


def _recipes(tables: Mapping[str, Any], *, where: str, field: str) -> tuple[Recipe, ...]:
    known = [f.name for f in fields(Recipe) if f.name != "domain"]
    found = []
    for domain, table in tables.items():
        if not isinstance(table, Mapping):
            raise CorpusError(
                f"{where}: {domain!r} is no table; write [{domain}], then id and split"
            )
        unknown = sorted(set(table) - set(known))
        if unknown:
            raise CorpusError(
                f"{where}: [{domain}] has no {unknown[0]!r}; it has {', '.join(known)}"
            )
        for name in ("id", "split"):
            if name not in table:
                raise CorpusError(f"{where}: [{domain}] lacks {name!r}")
        given = table.get("fields", [field])
        if not isinstance(given, list) or not given or not all(isinstance(f, str) for f in given):
            raise CorpusError(f'{where}: [{domain}] fields = {given!r}: a list, as ["text"]')
        _check_kinds(table, where=f"{where}: [{domain}]")
        found.append(Recipe(**{**table, "domain": domain, "fields": tuple(given)}))
    if not found:
        raise CorpusError(f"{where} names no domain; docs/corpora.md shows one")
    return tuple(found)


def _check_kinds(table: Mapping[str, Any], *, where: str) -> None:
    for name in ("id", "split", "config", "revision", "licence"):
        if not isinstance(table.get(name, ""), str):
            raise CorpusError(f"{where} {name} = {table[name]!r}: write it in quotes")
    most = table.get("max_characters", 1)
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise CorpusError(f"{where} max_characters = {most!r}: a whole number from 1")
