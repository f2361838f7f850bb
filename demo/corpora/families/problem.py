"""The value every family makes, and how families are registered."""

from collections.abc import Callable
from random import Random
from typing import NamedTuple


class Problem(NamedTuple):
    """A problem with its worked solution.

    Attributes:
        question: The statement.
        steps: Sentences of the solution, in order.
        answer: An integer from 0 to 999.
        params: The numbers that define the problem: enough to solve it again independently.
    """

    question: str
    steps: list[str]
    answer: int
    params: dict[str, int]


Maker = Callable[[Random], Problem]
FAMILIES: dict[str, Maker] = {}
"""Every family by name, in the order of definition."""


def family(maker: Maker) -> Maker:
    """Register a maker under its function's name."""
    FAMILIES[maker.__name__] = maker
    return maker


def factorisation(n: int) -> dict[int, int]:
    """Return the exponents of the primes of n."""
    found: dict[int, int] = {}
    p = 2
    while p * p <= n:
        while n % p == 0:
            found[p] = found.get(p, 0) + 1
            n //= p
        p += 1
    if n > 1:
        found[n] = found.get(n, 0) + 1
    return found


def written(factors: dict[int, int]) -> str:
    """Write a factorisation as `2^3 * 5`."""
    return " * ".join(f"{p}^{e}" if e > 1 else f"{p}" for p, e in sorted(factors.items()))
