"""Problems put together from parts: right answers, varied words, plots kept apart."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from demo.corpora import competition, grade_school
from demo.corpora.build import GENERATORS, MANIFEST, group_of, select
from demo.corpora.documents import Document, read_jsonl
from demo.corpora.families.grammar import phrase
from demo.corpora.families.plots import HELD_OUT_PER_MILLE, Plotted
from demo.corpora.families.problem import FAMILIES, Problem
from demo.corpora.families.story import STORIES
from demo.corpora.families.wording import reworded

from tests.demo.plot_oracles import PLOT_ORACLES
from tests.demo.test_generators import equations, value_of

ROOT = Path(__file__).resolve().parents[2]
PLOTS = {**grade_school.PLOTS, **competition.PLOTS}


def _made(name: str, seed: int) -> Plotted:
    module = grade_school if name in grade_school.PLOTS else competition
    return module.plotted(name, seed)


def test_every_kind_of_plot_has_an_oracle() -> None:
    assert set(PLOT_ORACLES) == set(PLOTS)


@pytest.mark.parametrize("name", PLOTS)
def test_answer_is_the_oracles_and_stands_in_the_last_step(name: str) -> None:
    for seed in range(60):
        made = _made(name, seed)
        assert made.problem.answer == PLOT_ORACLES[name](made.problem.params), (seed, made)
        assert made.problem.answer >= (name in grade_school.PLOTS)
        assert str(made.problem.answer) in re.findall(r"\d+", made.problem.steps[-1]), (seed, made)


@pytest.mark.parametrize("name", grade_school.PLOTS)
def test_every_equation_of_a_plot_holds(name: str) -> None:
    for seed in range(100):
        found = equations("\n".join(_made(name, seed).problem.steps))
        assert found
        for left, right in found:
            assert value_of(left) == value_of(right), (name, seed, left, right)


@pytest.mark.parametrize("name", PLOTS)
def test_no_form_is_left_open(name: str) -> None:
    for seed in range(200):
        made = _made(name, seed).problem
        for sentence in (made.question, *made.steps):
            assert not re.search(r"[{}\[\]]|  | [.,?]|\.\.(?!\.)", sentence), (seed, sentence)


def test_phrase_known_answers() -> None:
    assert phrase("[a|a] {x}[|] end", Random(0), {"x": 3}) == "A 3 end"
    seen = {phrase("[one [x|y]|two]", Random(s), {}) for s in range(40)}
    assert seen == {"One x", "One y", "Two"}
    assert phrase("a hour", Random(0), {}) == "An hour"


def _numbers(made: Problem) -> list[list[str]]:
    return [re.findall(r"\d+", part) for part in (made.question, *made.steps)]


@pytest.mark.parametrize("name", [*FAMILIES, *STORIES])
def test_rewording_keeps_numbers_steps_and_answer(name: str) -> None:
    module = competition if name in FAMILIES else grade_school
    for seed in range(12):
        made = module.problem(name, seed)
        other = reworded(made, Random(seed))
        assert other.answer == made.answer
        assert other.params == made.params
        assert len(other.steps) == len(made.steps)
        for before, after in zip(_numbers(made), _numbers(other), strict=True):
            # "Modulo 1000 this is 7" need not say once more what is reduced
            assert set(after) <= set(before), (seed, made, other)
            assert len(before) - len(after) <= any("1000" in n for n in before)


def test_rewording_varies() -> None:
    made = competition.problem("lattice_paths", 3)
    assert len({str(reworded(made, Random(s))) for s in range(50)}) > 40


class Split(NamedTuple):
    """Documents of a generated domain, as the builder selects them."""

    domain: str
    train: list[Document]
    held_out: list[Document]


@pytest.fixture(scope="module", params=["gsm", "aime"])
def split(request: pytest.FixtureRequest) -> Split:
    kept = select(request.param, GENERATORS[request.param]())
    return Split(
        request.param, [d for d in kept if not d.held_out], [d for d in kept if d.held_out]
    )


def test_no_plot_template_or_family_is_in_both_splits(split: Split) -> None:
    train, held_out = ({group_of(d.id) for d in part} for part in (split.train, split.held_out))
    assert len(train) > 1000
    assert len(held_out) > 100
    assert not train & held_out
    plotted = [g for g in train | held_out if "-plots/" in g]
    share = sum("-plots/" in g for g in held_out) / len(plotted)
    assert share == pytest.approx(HELD_OUT_PER_MILLE / 1000, abs=0.015)


def test_manifest_tells_the_plots_of_each_split(split: Split) -> None:
    """What was trained on is what the generators make today."""
    rows = json.loads(MANIFEST.read_text(encoding="utf-8"))["domains"][split.domain]
    for part, name in ((split.train, "train"), (split.held_out, "heldout")):
        plots = sorted({group_of(d.id) for d in part if "-plots/" in d.id})
        text = "".join(f"{plot}\n" for plot in plots)
        digest = hashlib.sha256(text.encode()).hexdigest()
        assert rows[name]["plots"] == {"count": len(plots), "sha256": digest}


def test_shipped_excerpts_are_held_out_word_for_word(split: Split) -> None:
    path = ROOT / "src" / "moe_lens" / "demo" / "corpora" / f"{split.domain}.jsonl"
    held_out = {d.id: d.text for d in split.held_out}
    train = {group_of(d.id) for d in split.train}
    shipped = list(read_jsonl(path, held_out=True))
    assert shipped
    for d in shipped:
        assert held_out[d.id] == d.text
        assert group_of(d.id) not in train


def test_held_out_plots_are_told_by_the_text_not_by_the_name(split: Split) -> None:
    """A held-out document with its numbers taken out equals no training document so treated."""
    train, held_out = (
        {re.sub(r"\d+", "#", d.text) for d in part} for part in (split.train, split.held_out)
    )
    assert not train & held_out


def _sentences(documents: list[Document]) -> Iterator[str]:
    for d in documents:
        for sentence in re.split(r"(?<=[.?!])\s+|\n", re.sub(r"\d+", "#", d.text)):
            if len(sentence.split()) >= 8:
                yield sentence


def test_held_out_families_share_no_sentence_with_training(split: Split) -> None:
    """Numbers taken out; but for the reduction modulo 1000, which is the same in every family."""
    seen = set(_sentences(split.train))
    whole = [d for d in split.held_out if "-plots/" not in d.id]
    shared = [s for s in _sentences(whole) if s in seen]
    assert whole
    assert all(re.search(r"[Rr]emainder of #|divide # by #|[Dd]ividing # by #", s) for s in shared)
