"""Competition problems of our own: integer answers from 0 to 999, worked solutions."""

from collections.abc import Iterator
from random import Random

from demo.corpora.documents import Document, stable_hash
from demo.corpora.families import algebra, counting, geometry, numbers
from demo.corpora.families.problem import FAMILIES, Problem

HELD_OUT_FAMILIES = frozenset(
    {
        numbers.coin_problem.__name__,
        numbers.digit_sum_numbers.__name__,
        numbers.modular_inverse.__name__,
        counting.committee.__name__,
        algebra.linear_diophantine.__name__,
        geometry.lattice_interior.__name__,
    }
)
"""Families whose problems are never trained on."""

_TRAIN_SEEDS = range(0, 800)
_HELD_OUT_SEEDS = range(1_000_000, 1_000_250)
_LAYOUTS = (
    "Problem: {question}\n\nSolution: {steps}\n\nAnswer: {answer}",
    "Problem. {question}\n\nSolution. {steps} The answer is {answer}.",
    "{question}\n\n{steps}\n\nThe final answer is {answer}.",
)


def problem(name: str, seed: int) -> Problem:
    """Return one problem of a family, the same for the same seed everywhere.

    Raises:
        ValueError: No family has this name.
    """
    if name not in FAMILIES:
        raise ValueError(f"family {name!r} is not one of {', '.join(FAMILIES)}")
    made = FAMILIES[name](Random(stable_hash("competition", name, str(seed))))
    assert 0 <= made.answer <= 999, (name, seed, made.answer)
    return made


def text(made: Problem, *, seed: int) -> str:
    """Write a problem, its solution and its answer; the layout depends on the seed."""
    layout = _LAYOUTS[seed % len(_LAYOUTS)]
    separator = "\n" if seed % 2 else " "
    steps = separator.join(made.steps)
    return layout.format(question=made.question, steps=steps, answer=made.answer)


def documents() -> Iterator[Document]:
    """Yield the problems of all families; held-out families use seeds of their own."""
    for name in FAMILIES:
        held_out = name in HELD_OUT_FAMILIES
        for seed in _HELD_OUT_SEEDS if held_out else _TRAIN_SEEDS:
            body = text(problem(name, seed), seed=seed)
            yield Document(f"competition/{name}/{seed:07}", body, "competition", held_out)
