"""How grade-school word problems are registered, and who is in them."""

from collections.abc import Callable
from random import Random

from demo.corpora.families.problem import Maker, Problem

STORIES: dict[str, Maker] = {}
"""Every template by name, in the order of definition."""

_NAME_LIST = (
    "Amina Bruno Chiara Daniel Elif Farah Goran Hanna Ivo Jonas Karim Lena Mateo Nadia Oskar "
    "Priya Quinn Rosa Samir Tomas Uma Viktor Wanda Xenia Yusuf Zora"
)
_NAMES = _NAME_LIST.split()


def story(maker: Callable[[Random, str, str], Problem]) -> Maker:
    """Register a template; it gets two different names from the same generator."""

    def made(rng: Random) -> Problem:
        one, two = rng.sample(_NAMES, 2)
        return maker(rng, one, two)

    made.__name__ = maker.__name__
    STORIES[maker.__name__] = made
    return made
