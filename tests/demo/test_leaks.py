"""No shipped excerpt was trained on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from demo.corpora import competition, grade_school
from demo.corpora.build import MANIFEST, fingerprint
from demo.corpora.documents import DOMAINS, Document, read_jsonl
from demo.corpora.excerpts import MAX_CHARS, MIN_CHARS, UNSEEN_FAMILIES, long_lines
from demo.corpora.families.problem import FAMILIES
from demo.corpora.families.story import STORIES
from demo.corpora.packages import PACKAGES, SOURCES

_ROOT = Path(__file__).resolve().parents[2]
_SHIPPED = _ROOT / "src" / "moe_lens" / "demo"
_BUILT = _ROOT / "build" / "corpora"


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(MANIFEST.read_text(encoding="utf-8"))
    return loaded


def _excerpts(domain: str) -> list[Document]:
    return list(read_jsonl(_SHIPPED / "corpora" / f"{domain}.jsonl", held_out=True))


@pytest.mark.parametrize("domain", DOMAINS)
def test_shipped_documents_are_held_out(domain: str, manifest: dict[str, Any]) -> None:
    held_out = set(manifest["heldout"][domain])
    assert {fingerprint(d.id) for d in _excerpts(domain)} <= held_out


@pytest.mark.parametrize("domain", ["gsm", "aime"])
def test_templates_and_families_are_in_one_split(domain: str, manifest: dict[str, Any]) -> None:
    train = set(manifest["domains"][domain]["train"]["groups"])
    held_out = set(manifest["domains"][domain]["heldout"]["groups"])
    assert train
    assert held_out
    assert not train & held_out
    assert {d.source for d in _excerpts(domain)}.isdisjoint(UNSEEN_FAMILIES)


def test_manifest_trains_on_all_families_but_the_held_out(manifest: dict[str, Any]) -> None:
    def named(domain: str, split: str, source: str) -> set[str]:
        groups = (g.split("/") for g in manifest["domains"][domain][split]["groups"])
        return {name for prefix, name in groups if prefix == source}

    assert named("aime", "heldout", "competition") == competition.HELD_OUT_FAMILIES
    assert named("aime", "train", "competition") == set(FAMILIES) - competition.HELD_OUT_FAMILIES
    assert named("gsm", "heldout", "word-problems") == grade_school.HELD_OUT_STORIES
    assert named("gsm", "train", "word-problems") == set(STORIES) - grade_school.HELD_OUT_STORIES


@pytest.mark.parametrize("domain", DOMAINS)
def test_excerpts_have_the_promised_form(domain: str) -> None:
    found = _excerpts(domain)
    assert len({d.id for d in found}) == len(found) >= 40
    assert all(MIN_CHARS <= len(d.text) <= MAX_CHARS for d in found)
    assert 100_000 <= sum(len(d.text.encode()) for d in found) <= 150_000
    assert all(SOURCES[d.source].shipped for d in found)
    assert {SOURCES[d.source].domain for d in found} == {domain}


def test_notice_names_every_source_that_ships() -> None:
    notice = (_SHIPPED / "NOTICE.md").read_text(encoding="utf-8")
    used = {d.source for domain in DOMAINS for d in _excerpts(domain)}
    assert all(f"| {source} |" in notice for source in used)


def test_manifest_pins_what_the_code_pins(manifest: dict[str, Any]) -> None:
    assert set(manifest["sources"]) == set(SOURCES)
    for row in manifest["sources"].values():
        if "package" in row:
            assert row["sha256"] == PACKAGES[row["package"]].sha256


def _train(domain: str) -> Iterator[Document]:
    path = _BUILT / domain / "train.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is absent: build it with `python -m demo.corpora.build`")
    return read_jsonl(path, held_out=False)


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_id_or_long_line_of_an_excerpt_is_in_training(domain: str) -> None:
    ids: set[str] = set()
    lines: set[int] = set()
    for d in _train(domain):
        ids.add(d.id)
        lines |= long_lines(d.text)
    for d in _excerpts(domain):
        assert d.id not in ids
        assert not long_lines(d.text) & lines, d.id
