"""Documents out of data sets of the hub, streamed: only the documents that are taken are fetched.

The library `datasets` is an extra (`pip install moe-lens[hub]`). No code of a data set is ever run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, final, runtime_checkable

from moe_lens.corpus.documents import Corpus, Document
from moe_lens.corpus.recipes import Recipe
from moe_lens.errors import CorpusError

DEFAULT_DOCUMENTS = 50
"""Documents of a domain where no number is given: what the paper took. Splits can be terabytes."""

_JOINT = "\n"


class Row(NamedTuple):
    """A document, named by its place in the split, from 1."""

    name: str
    text: str


@runtime_checkable
class Hub(Protocol):
    """What is asked of the hub; `Datasets` is the real one."""

    def commit(self, recipe: Recipe) -> str | None:
        """The commit that a recipe's revision means now; None where there is none to name."""
        ...

    def rows(self, recipe: Recipe) -> Iterator[Mapping[str, Any]]:
        """The rows of a recipe's split, in its order."""
        ...


class UnreachableError(CorpusError):
    """The hub cannot be reached from here."""


def hub_corpus(
    recipes: tuple[Recipe, ...], hub: Hub, *, max_documents: int | None = None
) -> Corpus:
    """The first documents of each recipe's split, and what each recipe and commit was.

    Raises:
        CorpusError: A data set cannot be had, lacks a field, or holds no text.
    """
    most = DEFAULT_DOCUMENTS if max_documents is None else max_documents
    documents: list[Document] = []
    num_blank = 0
    read: list[Recipe] = []
    ordered = sorted(recipes, key=lambda recipe: recipe.domain)
    for place, recipe in enumerate(ordered):
        try:
            pinned = replace(recipe, revision=hub.commit(recipe))
            rows = list(read_recipe(pinned, hub, most=most))
        except UnreachableError as error:
            missing = ", ".join(f"{r.domain} ({r.place})" for r in ordered[place:])
            raise CorpusError(
                f"{error}; without it there is no text for {missing}. Go online, or give files of "
                f"your own text (docs/corpora.md)"
            ) from error
        kept = [row for row in rows if row.text.strip()]
        if not kept:
            raise CorpusError(
                f"domain {recipe.domain!r}: split {recipe.split!r} of {recipe.place} has no text"
            )
        num_blank += len(rows) - len(kept)
        documents += [Document(r.text, recipe.domain, f"{recipe.domain}/{r.name}") for r in kept]
        read.append(pinned)
    return Corpus(
        documents=tuple(documents),
        domains=tuple(recipe.domain for recipe in ordered),
        num_blank=num_blank,
        sampling=f"the first {most} documents of each split",
        hub=tuple(recipe.describe() for recipe in read),
    )


def read_recipe(recipe: Recipe, hub: Hub, *, most: int) -> Iterator[Row]:
    """The first rows of a recipe's split that hold text: at most `most` of them.

    Raises:
        CorpusError: A field is missing or holds no text.
        UnreachableError: The hub cannot be reached.
    """
    taken = 0
    for number, row in enumerate(hub.rows(recipe), 1):
        text = _text_of(row, recipe, number)[: recipe.max_characters]
        yield Row(str(number), text)
        taken += bool(text.strip())
        if taken == most:
            return


def _text_of(row: Mapping[str, Any], recipe: Recipe, number: int) -> str:
    place = f"{recipe.place}, split {recipe.split}, row {number}"
    parts = []
    for field in recipe.fields:
        if field not in row:
            names = ", ".join(sorted(map(repr, row)))
            raise CorpusError(f"{place} has no field {field!r}; it has {names}")
        if not isinstance(row[field], str):
            kind = type(row[field]).__name__
            raise CorpusError(
                f"{place}: field {field!r} holds {kind}, not text; name one that does"
            )
        parts.append(row[field])
    return _JOINT.join(parts)


@final
class Datasets:
    """The hub through the library `datasets`.

    Raises:
        CorpusError: The library is not installed.
    """

    def __init__(self) -> None:
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise CorpusError(
                f"data sets of the hub need the library {error.name!r}: pip install 'moe-lens[hub]'"
            ) from error
        datasets.disable_progress_bars()
        self._load = datasets.load_dataset

    def commit(self, recipe: Recipe) -> str | None:
        """The commit; None for a local directory.

        Raises:
            UnreachableError: There is no connection.
            CorpusError: There is no such data set, or it is not to be had.
        """
        if Path(recipe.id).is_dir():
            return None
        from huggingface_hub import HfApi

        with _told(recipe):
            found = HfApi().dataset_info(recipe.id, revision=recipe.revision)
        return found.sha

    def rows(self, recipe: Recipe) -> Iterator[Mapping[str, Any]]:
        """The rows, fetched as they are asked for.

        Raises:
            UnreachableError: There is no connection.
            CorpusError: There is no such split, or the data set would have to run code.
        """
        with _told(recipe):
            yield from self._load(
                recipe.id,
                recipe.config,
                split=recipe.split,
                revision=recipe.revision,
                streaming=True,
            )


@contextmanager
def _told(recipe: Recipe) -> Iterator[None]:
    """What the library raises, in our words: which data set, what is wrong, the way out."""
    unreachable: tuple[type[Exception], ...]
    unreachable = (ConnectionError, TimeoutError, *_transport_errors())
    known: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, *unreachable)
    try:
        yield
    except CorpusError:
        raise
    except known as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, unreachable):
            raise UnreachableError(f"{recipe.place}: the hub cannot be reached ({said})") from error
        if "gated" in str(error).lower():
            way = (
                f"its owners ask you to agree to their terms: do so at "
                f"https://huggingface.co/datasets/{recipe.id}, then `hf auth login`"
            )
        elif "scripts are no longer supported" in said:
            way = (
                "it is made by code of its own, which is never run here; choose one of plain files"
            )
        else:
            way = f"split {recipe.split!r} cannot be read: {said}"
        raise CorpusError(f"{recipe.place}: {way}") from error


def _transport_errors() -> tuple[type[Exception], ...]:
    """What the hub's HTTP client, whichever it is, raises without a connection."""
    from huggingface_hub import errors

    ours = [kind for kind in errors.HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"]
    modules = {sys.modules[kind.__module__.partition(".")[0]] for kind in ours}
    found = (getattr(module, "TransportError", None) for module in modules)
    return tuple(kind for kind in found if kind is not None)
