"""Grade-school word problems of our own, in the layout of GSM8K."""

from collections.abc import Iterator
from random import Random

from demo.corpora.documents import Document, stable_hash
from demo.corpora.families import money_stories, stories
from demo.corpora.families.problem import Problem
from demo.corpora.families.story import STORIES

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

_TRAIN_SEEDS = range(0, 1500)
_HELD_OUT_SEEDS = range(1_000_000, 1_000_120)


def problem(name: str, seed: int) -> Problem:
    """Return one problem of a template, the same for the same seed everywhere.

    Raises:
        ValueError: No template has this name.
    """
    if name not in STORIES:
        raise ValueError(f"template {name!r} is not one of {', '.join(STORIES)}")
    return STORIES[name](Random(stable_hash("word-problems", name, str(seed))))


def text(made: Problem) -> str:
    """Write question, steps and `#### answer`."""
    steps = "\n".join(made.steps)
    return f"Question: {made.question}\nAnswer: {steps}\n#### {made.answer}"


def documents() -> Iterator[Document]:
    """Yield the problems of all templates; held-out templates use seeds of their own."""
    for name in STORIES:
        held_out = name in HELD_OUT_STORIES
        for seed in _HELD_OUT_SEEDS if held_out else _TRAIN_SEEDS:
            body = text(problem(name, seed))
            yield Document(f"word-problems/{name}/{seed:07}", body, "word-problems", held_out)
