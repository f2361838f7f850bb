"""Grade-school word problems of our own, in the layout of GSM8K."""

from collections.abc import Iterator
from random import Random

from demo.corpora.documents import Document, chosen, stable_hash
from demo.corpora.families import money_stories, more_plots, plots, stories
from demo.corpora.families.plots import HELD_OUT_PER_MILLE, PlotMaker, Plotted
from demo.corpora.families.problem import Problem
from demo.corpora.families.story import STORIES
from demo.corpora.families.wording import reworded

HELD_OUT_STORIES = frozenset(
    {
        money_stories.bakery.__name__,
        money_stories.fence.__name__,
        money_stories.school_trip.__name__,
        stories.running.__name__,
        stories.tank.__name__,
    }
)
"""Templates whose problems are never trained on."""

PLOTS: dict[str, PlotMaker] = {
    "chain": plots.chain,
    "compare": more_plots.compared,
    "purchase": more_plots.purchase,
    "rate": more_plots.rate,
}
"""Makers of problems put together from parts, each with thousands of plots."""

_PLOT_SEEDS = {
    "chain": range(9000),
    "compare": range(4000),
    "purchase": range(4000),
    "rate": range(5000),
}
_TRAIN_SEEDS = range(0, 200)
_HELD_OUT_SEEDS = range(1_000_000, 1_000_120)


def problem(name: str, seed: int) -> Problem:
    """Return one problem of a template, the same for the same seed everywhere.

    Raises:
        ValueError: No template has this name.
    """
    if name not in STORIES:
        raise ValueError(f"template {name!r} is not one of {', '.join(STORIES)}")
    return STORIES[name](Random(stable_hash("word-problems", name, str(seed))))


def plotted(name: str, seed: int) -> Plotted:
    """Return one problem put together from parts, the same for the same seed everywhere."""
    return PLOTS[name](Random(stable_hash("word-plots", name, str(seed))))


def text(made: Problem) -> str:
    """Write question, steps and `#### answer`."""
    steps = "\n".join(made.steps)
    return f"Question: {made.question}\nAnswer: {steps}\n#### {made.answer}"


def documents() -> Iterator[Document]:
    """Yield the problems of all templates and plots, in varied wording.

    Held-out templates use seeds of their own. Of the plots a share is held out by the hash of
    the plot: no problem of a held-out plot, however worded, is trained on.
    """
    for name in STORIES:
        held_out = name in HELD_OUT_STORIES
        for seed in _HELD_OUT_SEEDS if held_out else _TRAIN_SEEDS:
            rng = Random(stable_hash("wording", name, str(seed)))
            body = text(reworded(problem(name, seed), rng))
            yield Document(f"word-problems/{name}/{seed:07}", body, "word-problems", held_out)
    for name, seeds in _PLOT_SEEDS.items():
        for seed in seeds:
            made = plotted(name, seed)
            held_out = chosen(made.plot, per_mille=HELD_OUT_PER_MILLE)
            body = text(made.problem)
            yield Document(f"word-plots/{made.plot}/{seed:07}", body, "word-plots", held_out)
