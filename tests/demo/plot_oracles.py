"""Independent answers to the problems put together from parts, from their parameters alone."""

from collections.abc import Callable
from fractions import Fraction
from math import gcd

import sympy  # type: ignore[import-untyped]

Params = dict[str, int]


def _chain(p: Params) -> int:
    """Count the amount up and down, in exact fractions."""
    amount = Fraction(p["start"])
    for i in range(8):
        if f"event{i}" not in p:
            break
        a, b, k, percent = (p.get(f"{name}{i}", 0) for name in "abkp")
        amount = [
            lambda x, a, b, k: x + a,
            lambda x, a, b, k: x - a,
            lambda x, a, b, k: x + sum(a for _ in range(b)),
            lambda x, a, b, k: x - sum(a for _ in range(b)),
            lambda x, a, b, k: x * k,
            lambda x, a, b, k: x - Fraction(x, k),
            lambda x, a, b, k: x * (1 - k),
        ][p[f"event{i}"]](amount, a, b, Fraction(percent, 100) if percent else k)
        assert amount > 0
        assert amount.denominator == 1
    m, q, d = (p.get(f"{name}_end", 1) for name in "mqd")
    answer = [
        amount,
        amount / m,
        amount * q,
        p.get("goal_end", 0) - amount,
        Fraction(int(amount) // m),
        amount + (amount + d),
        amount + amount * p.get("k_end", 0),
        amount / m,
    ][p["ending"]]
    assert answer.denominator == 1
    return int(answer)


def _compared(p: Params) -> int:
    """Solve the relations as linear equations."""
    people = sympy.symbols(f"x0:{p['count']}")
    equations = [people[0] - p["start"]]
    for i in range(1, p["count"]):
        one, other, d, k = people[i], people[p[f"of{i}"]], p[f"d{i}"], p[f"k{i}"]
        relations = [one - other - d, one + d - other, one - k * other, k * one - other]
        equations.append(relations[p[f"kind{i}"]])
    amounts = list(sympy.solve(equations, people).values())
    total = sum(amounts)
    results = [total, max(amounts) - min(amounts), total / p["count"], p["goal"] - total]
    assert results[p["ending"]].is_integer
    return int(results[p["ending"]])


def _purchase(p: Params) -> int:
    bill = sympy.Integer(sum(p[f"q{i}"] * p[f"p{i}"] for i in range(p["lines"])))
    bill = [bill, bill * sympy.Rational(100 - p["c"], 100), bill - p["c"], bill + p["c"]][
        p["change"]
    ]
    m = p["m"]
    results = [bill, m - bill, bill / m if m else bill, bill - m]
    assert results[p["paid"]].is_integer
    return int(results[p["paid"]])


def _rate(p: Params) -> int:
    """Add the amounts one unit of time after the other."""
    rate, done = p["r"], 0
    for i in range(p["legs"]):
        rate = [rate, rate + p[f"d{i}"], rate - p[f"d{i}"], rate + rate][p[f"leg{i}"]]
        for _ in range(p[f"t{i}"]):
            done += rate
    return [done, p["goal"] - done, p["k"] * done][p["ending"]]


def _sieve(p: Params) -> int:
    tests: list[Callable[[int, int], bool]] = [
        lambda n, v: sympy.Mod(n, v) == 0,
        lambda n, v: sympy.Mod(n, v) != 0,
        lambda n, v: (n - 1) % v == 0,
        lambda n, v: str(n)[-1] == str(v),
        lambda n, v: any(int(c) == v for c in str(n)),
        lambda n, v: sum(int(c) for c in str(n)) % v == 0,
        lambda n, v: sympy.igcd(n, v) == 1,
        lambda n, v: bool(sympy.integer_nthroot(n + v, 2)[1]),
        lambda n, v: sympy.divisor_count(n) <= v,
        lambda n, v: n - v > 0,
    ]
    conditions = [(tests[p[f"c{i}"]], p[f"v{i}"]) for i in range(3) if f"c{i}" in p]
    kept = [n for n in range(1, p["limit"] + 1) if all(t(n, v) for t, v in conditions)]
    return [len(kept), sum(kept) % 1000, kept[-1], kept[0], max(kept) - min(kept)][p["asked"]]


def _functions(p: Params) -> int:
    steps: list[Callable[[int, int], int]] = [
        lambda n, v: n + v,
        lambda n, v: n * v,
        lambda n, v: 1 + v * n,
        lambda n, v: v + n**2,
        lambda n, v: n - v * (n // v),
        lambda n, v: int(sympy.floor(sympy.Rational(n, v))),
        lambda n, v: v * sum(int(c) for c in str(n)),
        gcd,
        lambda n, v: max(n - v, v - n),
    ]
    x = p["start"]
    for i in range(p["length"]):
        x = steps[p[f"f{i}"]](x, p[f"v{i}"])
    return [x, x % p["m"], x + x][p["asked"]]


PLOT_ORACLES: dict[str, Callable[[Params], int]] = {
    "chain": _chain,
    "compare": _compared,
    "purchase": _purchase,
    "rate": _rate,
    "sieve": _sieve,
    "functions": _functions,
}
