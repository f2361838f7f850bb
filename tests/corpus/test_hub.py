"""Text of the hub: a made-up hub for the rules, the real library on local data sets."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moe_lens.corpus import load_corpus
from moe_lens.corpus.hub import Datasets, UnreachableError, hub_corpus
from moe_lens.corpus.recipes import Recipe, is_hub, recipes_of
from moe_lens.errors import CorpusError

PAPER_DOMAINS = ("aime", "arxiv", "chinese", "code", "english", "french", "gsm8k")


class MadeUp:
    """A hub of rows by data set, that counts what is fetched and can lose its connection."""

    def __init__(self, rows: Mapping[str, list[dict[str, Any]]], *, offline: str = "") -> None:
        self._rows = rows
        self._offline = offline
        self.fetched: dict[str, int] = {}
        self.asked: list[Recipe] = []

    def commit(self, recipe: Recipe) -> str | None:
        if recipe.id == self._offline:
            raise UnreachableError(f"{recipe.place}: the hub cannot be reached (no route)")
        return recipe.revision or "c0ffee"

    def rows(self, recipe: Recipe) -> Iterator[Mapping[str, Any]]:
        self.asked.append(recipe)
        for row in self._rows[recipe.id]:
            self.fetched[recipe.id] = self.fetched.get(recipe.id, 0) + 1
            yield row


def texts(*words: str) -> list[dict[str, Any]]:
    return [{"text": word} for word in words]


def test_the_first_documents_are_taken_and_no_more_is_fetched() -> None:
    hub = MadeUp({"a/x": texts("one", " ", "two", "three", "four"), "a/y": texts("five")})
    corpus = hub_corpus(
        (Recipe("z", "a/x", "train"), Recipe("b", "a/y", "test")), hub, max_documents=2
    )
    found = [(d.domain, d.id, d.text) for d in corpus]
    assert found == [("b", "b/1", "five"), ("z", "z/1", "one"), ("z", "z/3", "two")]
    assert corpus.domains == ("b", "z")
    assert corpus.num_blank == 1
    assert hub.fetched == {"a/x": 3, "a/y": 1}
    assert corpus.sampling == "the first 2 documents of each split"


def test_the_commit_is_looked_up_once_then_read_and_recorded() -> None:
    hub = MadeUp({"a/x": texts("one")})
    pinned = Recipe("p", "a/x", "train", revision="abc", licence="MIT", config="en")
    corpus = hub_corpus((Recipe("n", "a/x", "train"), pinned), hub)
    assert [recipe.revision for recipe in hub.asked] == ["c0ffee", "abc"]
    assert corpus.hub[0]["revision"] == "c0ffee"
    assert corpus.hub[1] == {
        "domain": "p", "id": "a/x", "split": "train", "fields": ["text"], "config": "en",
        "revision": "abc", "licence": "MIT",
    }  # fmt: skip


def test_fields_are_joined_and_long_texts_cut() -> None:
    hub = MadeUp({"a/x": [{"question": "how many?", "answer": "two"}]})
    both = Recipe("d", "a/x", "test", ("question", "answer"))
    assert hub_corpus((both,), hub).documents[0].text == "how many?\ntwo"
    cut = Recipe("d", "a/x", "test", ("question",), max_characters=3)
    assert hub_corpus((cut,), hub).documents[0].text == "how"


def test_fifty_documents_are_taken_where_no_number_is_given() -> None:
    hub = MadeUp({"a/x": texts(*(f"t{i}" for i in range(80)))})
    assert len(hub_corpus((Recipe("d", "a/x", "train"),), hub)) == 50


def test_what_is_missing_offline_is_said_in_one_message() -> None:
    hub = MadeUp({"a/x": texts("one")}, offline="a/y")
    recipes = (Recipe("a", "a/x", "s"), Recipe("b", "a/y", "s"), Recipe("c", "a/z", "s", (), "en"))
    with pytest.raises(
        CorpusError,
        match=r"cannot be reached \(no route\); without it there is no text for b \(a/y\), "
        r"c \(a/z:en\)\. Go online, or give files",
    ):
        hub_corpus(recipes, hub)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"body": "x", "id": 3}], r"a/x, split s, row 1 has no field 'text'; it has 'body', 'id'"),
        ([{"text": "x"}, {"text": 3}], r"row 2: field 'text' holds int, not text"),
        (texts(" ", "\n"), r"domain 'd': split 's' of a/x has no text"),
        ([], r"domain 'd': split 's' of a/x has no text"),
    ],
)
def test_rows_without_text_are_refused(rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(CorpusError, match=words):
        hub_corpus((Recipe("d", "a/x", "s"),), MadeUp({"a/x": rows}))


def test_a_line_names_one_data_set() -> None:
    line = "hub:openai/gsm8k:main@test#question+answer"
    assert recipes_of(line) == (
        Recipe("gsm8k", "openai/gsm8k", "test", ("question", "answer"), config="main"),
    )
    assert recipes_of("hub:a/x@train", field="body") == (Recipe("x", "a/x", "train", ("body",)),)


@pytest.mark.parametrize("line", ["hub:", "hub:a/x", "hub:a/x@", "hub:a/x@s#", "hub:a/x#t@s"])
def test_a_line_of_another_form_is_refused(line: str) -> None:
    with pytest.raises(CorpusError, match=r"is not of the form hub:OWNER/NAME\[:CONFIG\]@SPLIT"):
        recipes_of(line)


def test_the_paper_has_seven_recipes_with_licences() -> None:
    found = recipes_of("paper")
    assert tuple(recipe.domain for recipe in found) == PAPER_DOMAINS
    assert all(recipe.licence and recipe.id.count("/") == 1 for recipe in found)


def test_a_file_of_recipes_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[code]\nid = "a/x"\nsplit = "val"\nfields = ["content"]\nmax_characters = 9\n')
    assert is_hub(str(file))
    assert recipes_of(str(file)) == (Recipe("code", "a/x", "val", ("content",), max_characters=9),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id = 'a/x'", r"'id' is no table; write \[id\]"),
        ("[d]\nid = 'a/x'", r"\[d\] lacks 'split'"),
        ("[d]\nsplit = 's'", r"\[d\] lacks 'id'"),
        ("[d]\nid = 'a/x'\nsplit = 's'\nfield = 't'", r"\[d\] has no 'field'; it has id, split"),
        ("[d]\nid = 'a/x'\nsplit = 's'\nfields = 't'", r"fields = 't': a list"),
        ("[d]\nid = 1\nsplit = 's'", r"\[d\] id = 1: write it in quotes"),
        ("[d]\nid = 'a/x'\nsplit = 's'\nmax_characters = 0", r"a whole number from 1"),
        ("", r"names no domain"),
        ("[d", r"is not TOML"),
    ],
)
def test_a_broken_file_of_recipes_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(CorpusError, match=words):
        recipes_of(str(file))


def test_an_absent_file_of_recipes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"mine\.toml does not exist"):
        recipes_of(str(tmp_path / "mine.toml"))


def test_without_the_library_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r"pip install 'moe-lens\[hub\]'"):
        load_corpus("hub:a/x@train")


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A data set of two splits as the hub's library reads one from a directory."""
    pytest.importorskip("datasets")
    folder = tmp_path / "poems"
    folder.mkdir()
    for split, words in (("train", "t"), ("test", "e")):
        rows = {"text": [f"{words}{i} of a poem" for i in range(9)], "year": list(range(9))}
        pl.DataFrame(rows).write_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_a_local_data_set_is_read_by_the_library(local: Path) -> None:
    corpus = load_corpus(f"hub:{local}@test#text", max_documents=2)
    assert [(d.domain, d.text) for d in corpus] == [
        ("poems", "e0 of a poem"), ("poems", "e1 of a poem"),
    ]  # fmt: skip
    assert "revision" not in corpus.hub[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("@dev", r"split 'dev' cannot be read"),
        (":fr@test", r"split 'test' cannot be read"),
        ("@test#year", r"field 'year' holds int, not text"),
        ("@test#body", r"has no field 'body'; it has 'text', 'year'"),
    ],
)
def test_what_the_library_refuses_is_told_in_one_line(local: Path, line: str, words: str) -> None:
    with pytest.raises(CorpusError, match=words) as caught:
        load_corpus(f"hub:{local}{line}")
    assert "\n" not in str(caught.value)


def test_a_data_set_with_code_of_its_own_is_not_run(local: Path) -> None:
    marker = local.parent / "ran"
    (local / "poems.py").write_text(f"open({str(marker)!r}, 'w')")
    with pytest.raises(CorpusError, match="code of its own, which is never run"):
        load_corpus(f"hub:{local}@test#text")
    assert not marker.exists()


def test_without_a_connection_the_hub_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnreachableError, match="openai/gsm8k:main: the hub cannot be reached"):
        Datasets().commit(Recipe("d", "openai/gsm8k", "test", config="main"))


def test_terms_to_agree_to_are_named_with_where(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def gated(*names: object, **options: object) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'a/x' is a gated dataset.")

    monkeypatch.setattr(datasets, "load_dataset", gated)
    with pytest.raises(CorpusError, match=r"do so at https://huggingface.co/datasets/a/x, then"):
        list(Datasets().rows(Recipe("d", "a/x", "test")))
