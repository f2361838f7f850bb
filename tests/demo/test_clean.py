"""Cleaning and de-duplication, on examples small enough to read."""

import pytest
from demo.corpora import clean
from demo.corpora.dedupe import drop_exact, drop_near
from demo.corpora.documents import Document, chosen, shuffled
from demo.corpora.sources.wiki import Lead, french_document, french_questions


def test_normalise() -> None:
    text = "\ufeffe\u0301te\u0301 \r\n\r\n\r\n\r\nun\u00a0: a\u200bb\x0c\n"
    assert clean.normalise(text) == "été\n\nun : ab"
    assert clean.normalise("a\n\n\n\nb", max_empty_lines=2) == "a\n\n\nb"


def test_licence_comment_goes_other_comments_stay() -> None:
    licensed = "# Copyright 2020 A\n# MIT License\n\nimport os\n# licence talk\n"
    assert clean.strip_licence_comment(licensed) == "import os\n# licence talk\n"
    assert clean.strip_licence_comment("# A note\nimport os") == "# A note\nimport os"


@pytest.mark.parametrize(
    ("dirty", "tidy"),
    [
        ("Ekman BIBREF0 says so BIBREF1, BIBREF2.", "Ekman says so."),
        ("As known (BIBREF3; BIBREF4), it is.", "As known, it is."),
        ("See Table TABREF27 and FigureFIGREF3.", "See Table 27 and Figure 3."),
        ("modelBIBREF0 (see Section SECREF5)", "model (see Section 5)"),
    ],
)
def test_strip_citations(dirty: str, tidy: str) -> None:
    assert clean.strip_citations(dirty) == tidy


def test_paper_paragraphs_that_are_not_prose() -> None:
    prose = "We train the model on two corpora and report the mean of five runs for each."
    assert clean.is_prose(prose)
    assert not clean.is_prose(prose + " INLINEFORM0")
    assert not clean.is_prose(prose + r" \begin{center}")
    assert not clean.is_prose("Jane Doe, University of Somewhere, jane@example.org, and others too")


def test_small_strippers() -> None:
    assert clean.strip_annotations("3*4=<<3*4=12>>12") == "3*4=12"
    assert clean.strip_italics("so _very_ good, snake_case_name") == "so very good, snake_case_name"
    assert clean.unwrap("a\nb\n\nc\n  d") == "a b\n\nc d"
    assert clean.strip_double_numbering("(9:1) Au chef. (9:2) Je louerai") == "Au chef. Je louerai"


def test_formula_gaps() -> None:
    assert clean.has_formula_gap("La bijection se note .")
    assert clean.has_formula_gap("d'une bijection  est")
    assert not clean.has_formula_gap("Il dit : « oui » ; puis non.")


def test_pieces_are_whole_blocks_and_lose_nothing() -> None:
    text = "\n\n".join("x" * n for n in (30, 30, 30, 5, 80))
    cut = list(clean.pieces(text, max_chars=70))
    assert "\n\n".join(cut) == text
    assert [len(c) for c in cut] == [62, 37, 80]


def _document(key: str, text: str, held_out: bool = False) -> Document:
    return Document(key, text, "s", held_out)


def test_exact_duplicates_ignore_white_space() -> None:
    found = drop_exact([_document("a", "one  two\n"), _document("b", "one two")])
    assert [d.id for d in found] == ["a"]


def test_near_duplicates_and_leaks_go() -> None:
    words = [f"word{i}" for i in range(400)]
    base = _document("base", " ".join(words))
    copy = _document("copy", " ".join([*words[:390], "changed"]))
    other = _document("other", " ".join(f"else{i}" for i in range(400)))
    mixed = [*words[:120], *(f"new{i}" for i in range(280))]
    train = _document("mixed", " ".join(mixed))
    leak = _document("leak", " ".join(mixed[::1]) + " end", held_out=True)
    assert [d.id for d in drop_near([base, copy, other, train])] == ["base", "other", "mixed"]
    assert [d.id for d in drop_near([base, other, leak])] == ["base", "other"]


def test_split_and_order_depend_on_ids_only() -> None:
    keys = [f"k{i}" for i in range(2000)]
    share = sum(chosen(k, per_mille=100) for k in keys) / len(keys)
    assert 0.07 < share < 0.13
    documents = [_document(k, k) for k in keys]
    assert shuffled(documents) == shuffled(reversed(documents))
    assert shuffled(documents) != documents


_JULIE = Lead(
    "Julie Andrews",
    "actrice britannique",
    "Julie Andrews est une actrice britannique, née le 1er octobre 1935 à Walton-on-Thames.",
    "Personnalités",
)


def test_french_questions_are_answered_by_the_text() -> None:
    first, second = french_questions(_JULIE)
    assert first == ("Qui est Julie Andrews ?", "Actrice britannique.")
    assert second in (
        ("Quand Julie Andrews est-elle née ?", "1er octobre 1935."),
        ("Où Julie Andrews est-elle née ?", "À Walton-on-Thames."),
    )
    assert _JULIE.extract in french_document(_JULIE)


def test_french_things_keep_the_article_of_the_text() -> None:
    rock = Lead("Gneiss", "roche", "Le gneiss est une roche métamorphique.", "Science")
    assert french_questions(rock) == [("Qu'est-ce que le gneiss ?", "Roche.")]
    city = Lead("Nantes", "ville", "Nantes est une commune.", "Géographie")
    assert french_questions(city) == [("Que désigne « Nantes » ?", "Ville.")]
