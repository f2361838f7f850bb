"""Competition problems of our own: integer answers from 0 to 999, worked solutions."""

from collections.abc import Iterator
from random import Random

from demo.corpora.documents import Document, chosen, stable_hash
from demo.corpora.families import algebra, composed, counting, geometry, numbers
from demo.corpora.families.plots import HELD_OUT_PER_MILLE, PlotMaker, Plotted
from demo.corpora.families.problem import FAMILIES, Problem
from demo.corpora.families.wording import reworded

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

PLOTS: dict[str, PlotMaker] = {"sieve": composed.sieve, "functions": composed.functions}
"""Makers of problems put together from parts, each with thousands of plots."""

_PLOT_SEEDS = {"sieve": range(8000), "functions": range(8000)}
_TRAIN_SEEDS = range(0, 250)
_HELD_OUT_SEEDS = range(1_000_000, 1_000_250)
_LAYOUTS = (
    "Problem: {question}\n\nSolution: {steps}\n\nAnswer: {answer}",
    "Problem. {question}\n\nSolution. {steps} The answer is {answer}.",
    "{question}\n\n{steps}\n\nThe final answer is {answer}.",
    "Question: {question}\nSolution: {steps}\nFinal answer: {answer}",
    "PROBLEM\n{question}\n\nSOLUTION\n{steps}\n\nANSWER\n{answer}",
    "{question} (Answer: {answer})\n\nWorked solution: {steps}",
    "Exercise: {question}\n\n{steps} Therefore the answer is {answer}.",
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


def plotted(name: str, seed: int) -> Plotted:
    """Return one problem put together from parts, the same for the same seed everywhere."""
    made = PLOTS[name](Random(stable_hash("competition-plots", name, str(seed))))
    assert 0 <= made.problem.answer <= 999, (name, seed, made.problem.answer)
    return made


def text(made: Problem, *, seed: int) -> str:
    """Write a problem, its solution and its answer; the layout depends on the seed."""
    layout = _LAYOUTS[seed % len(_LAYOUTS)]
    separator = "\n" if seed % 2 else " "
    steps = separator.join(made.steps)
    return layout.format(question=made.question, steps=steps, answer=made.answer)


def documents() -> Iterator[Document]:
    """Yield the problems of all families and plots, in varied wording and layouts.

    Held-out families use seeds of their own. Of the plots a share is held out by the hash of
    the plot: no problem of a held-out plot, however worded, is trained on.
    """
    for name in FAMILIES:
        held_out = name in HELD_OUT_FAMILIES
        for seed in _HELD_OUT_SEEDS if held_out else _TRAIN_SEEDS:
            rng = Random(stable_hash("wording", name, str(seed)))
            made = reworded(problem(name, seed), rng)
            body = text(made, seed=seed)
            yield Document(f"competition/{name}/{seed:07}", body, "competition", held_out)
    for name, seeds in _PLOT_SEEDS.items():
        for seed in seeds:
            found = plotted(name, seed)
            held_out = chosen(found.plot, per_mille=HELD_OUT_PER_MILLE)
            body = text(found.problem, seed=seed)
            key = f"competition-plots/{found.plot}/{seed:07}"
            yield Document(key, body, "competition-plots", held_out)
