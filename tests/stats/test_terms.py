"""Docstrings point at terms that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
REFERENCE = re.compile(r"terms\.md#([\w-]+)")


def anchors(markdown: str) -> list[str]:
    """Anchors of headings, as code hosts make them."""
    headings = re.findall(r"^#+ +(.+?) *$", markdown, flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return [heading.replace(" ", "-") for heading in plain]


def test_anchors_by_hand() -> None:
    assert anchors("# Terms\n\n### weight mass\ntext # no\n## A, b-c\n") == [
        "terms",
        "weight-mass",
        "a-b-c",
    ]


def test_every_reference_has_its_heading() -> None:
    known = set(anchors((ROOT / "docs" / "terms.md").read_text()))
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]
    found = {
        (path.relative_to(ROOT).as_posix(), anchor)
        for path in files
        for anchor in REFERENCE.findall(path.read_text())
    }
    assert found, "no docstring refers to docs/terms.md: the pattern is wrong"
    assert sorted(pair for pair in found if pair[1] not in known) == []


def test_links_within_the_page_have_their_heading() -> None:
    text = (ROOT / "docs" / "terms.md").read_text()
    known = anchors(text)
    assert [link for link in re.findall(r"\]\(#([\w-]+)\)", text) if link not in known] == []
    assert len(known) == len(set(known)), "a term is defined twice"
