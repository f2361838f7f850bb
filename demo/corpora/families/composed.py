"""Competition problems put together from parts: sieved sets, chains of functions, pairs.

What is held out is a plot: which conditions in which order, which functions in which order, or
which two families joined how. Wording and numbers vary freely inside a plot.
"""

from collections.abc import Callable
from math import gcd, isqrt
from random import Random
from typing import NamedTuple

from demo.corpora.families.grammar import phrase_of
from demo.corpora.families.plots import Plotted
from demo.corpora.families.problem import Problem, factorisation


def digit_sum(n: int) -> int:
    """Sum of the decimal digits."""
    return sum(map(int, str(n)))


def num_divisors(n: int) -> int:
    """Number of positive divisors."""
    product = 1
    for exponent in factorisation(n).values():
        product *= exponent + 1
    return product


class Condition(NamedTuple):
    """A property of integers: forms of words, how its number is drawn, the test."""

    forms: tuple[str, ...]
    draw: Callable[[Random], int]
    holds: Callable[[int, int], bool]


CONDITIONS: dict[str, Condition] = {
    "multiple": Condition(
        ("[are|is] divisible by {v}", "[are multiples|is a multiple] of {v}"),
        lambda rng: rng.randint(2, 13),
        lambda n, v: n % v == 0,
    ),
    "not_multiple": Condition(
        ("[are|is] not divisible by {v}", "[leave|leaves] a nonzero remainder modulo {v}"),
        lambda rng: rng.randint(2, 11),
        lambda n, v: n % v != 0,
    ),
    "remainder_one": Condition(
        ("[leave|leaves] remainder 1 when divided by {v}", "[are|is] congruent to 1 modulo {v}"),
        lambda rng: rng.randint(3, 12),
        lambda n, v: n % v == 1,
    ),
    "last_digit": Condition(
        ("[end|ends] in the digit {v}", "[have|has] units digit {v}"),
        lambda rng: rng.randint(0, 9),
        lambda n, v: n % 10 == v,
    ),
    "contains": Condition(
        ("[contain|contains] the digit {v}", "[have|has] at least one digit equal to {v}"),
        lambda rng: rng.randint(0, 9),
        lambda n, v: str(v) in str(n),
    ),
    "digit_sum": Condition(
        (
            "[have|has] a digit sum divisible by {v}",
            "[have|has] digits whose sum is a multiple of {v}",
        ),
        lambda rng: rng.randint(2, 8),
        lambda n, v: digit_sum(n) % v == 0,
    ),
    "coprime": Condition(
        ("[are|is] relatively prime to {v}", "[share|shares] no prime factor with {v}"),
        lambda rng: rng.choice([6, 10, 12, 14, 15, 21, 22, 30, 35, 42]),
        lambda n, v: gcd(n, v) == 1,
    ),
    "square": Condition(
        ("[become|becomes] a perfect square when {v} is added", "[are|is] {v} less than a square"),
        lambda rng: rng.randint(0, 30),
        lambda n, v: isqrt(n + v) ** 2 == n + v,
    ),
    "few_divisors": Condition(
        ("[have|has] at most {v} positive divisors", "[have|has] no more than {v} divisors"),
        lambda rng: rng.choice([2, 3, 4, 6, 8]),
        lambda n, v: num_divisors(n) <= v,
    ),
    "above": Condition(
        ("[are|is] greater than {v}", "[exceed|exceeds] {v}"),
        lambda rng: rng.randint(20, 250),
        lambda n, v: n > v,
    ),
}
SET_QUESTIONS = ("count", "sum", "largest", "smallest", "range")
_SET = (
    "[Let S be|Denote by S|Consider] the [set of|] [positive integers|natural numbers] [not "
    "exceeding|"
    "up to|at most] {limit} that {conditions}.",
    "[Consider|Take|Look at] [all|the] integers from 1 to {limit} that {conditions}[| and call "
    "their "
    "set S].",
    "[A number|An integer] n from 1 to {limit} is called [good|nice|lucky|special] if it {single}.",
)
_SET_QUESTION = {
    "count": ("How many such numbers are there?", "[Find|Determine|Compute] the number of them."),
    "sum": (
        "[Find|Compute|Determine] the remainder when their sum is divided by 1000.",
        "What is the sum of all of them modulo 1000?",
    ),
    "largest": ("[Find|Determine] the largest of them.", "What is the [greatest|largest] one?"),
    "smallest": ("[Find|Determine] the smallest of them.", "What is the [least|smallest] one?"),
    "range": (
        "[Find|Compute] the difference between the largest and the smallest of them.",
        "By how much does the largest exceed the smallest?",
    ),
}


def _bare(form: str, rng: Random, value: int, *, single: bool) -> str:
    """A condition in words, for one number or for many."""
    head, rest = form[1:].split("]", 1)
    many, one = head.split("|")
    text = phrase_of((rest,), rng, {"v": value})
    text = text[:1].lower() + text[1:]
    return f"{one if single else many} {text}"


def sieve(rng: Random) -> Plotted:
    """Integers up to a limit under two or three conditions, and one thing to find about them."""
    names = rng.sample(list(CONDITIONS), rng.choice([2, 3, 3]))
    limit, asked = rng.randint(100, 990), rng.choice(SET_QUESTIONS)
    values = [CONDITIONS[name].draw(rng) for name in names]
    kept = list(range(1, limit + 1))
    steps, texts, singles = [], [], []
    params = {"limit": limit}
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        form = rng.choice(CONDITIONS[name].forms)
        texts.append(_bare(form, rng, value, single=False))
        singles.append(_bare(form, rng, value, single=True))
        before, kept = kept, [n for n in kept if CONDITIONS[name].holds(n, value)]
        if not kept or len(kept) == len(before):
            return sieve(rng)
        some = ", ".join(map(str, kept[:4]))
        where = f"Of the numbers 1 to {limit}" if i == 0 else f"Of these {len(before)} numbers"
        steps.append(
            phrase_of(
                (
                    "{where}, {c} {text}[|, namely {some} and so on].",
                    "[Exactly|Precisely] {c} [of them|numbers] {text}[|, beginning with {some}].",
                    "[There remain|This leaves] {c} [numbers|of them] that {text}[|, the first "
                    "ones "
                    "being {some}].",
                    "[The condition|The requirement] that [a number|it] {single} [leaves|keeps] "
                    "{c} "
                    "[numbers|of them].",
                ),
                rng,
                {"where": where, "c": len(kept), "text": texts[-1], "single": singles[-1],
                 "some": some},
            )
        )  # fmt: skip
        params |= {f"c{i}": list(CONDITIONS).index(name), f"v{i}": value}
    if len(kept) < 2:
        return sieve(rng)
    low, high, total = kept[0], kept[-1], sum(kept)
    answer = {
        "count": len(kept), "sum": total % 1000, "largest": high, "smallest": low,
        "range": high - low,
    }[asked]  # fmt: skip
    joined = {"conditions": _listed(texts), "single": _listed(singles), "limit": limit}
    question = phrase_of(_SET, rng, joined) + " " + phrase_of(_SET_QUESTION[asked], rng, {})
    ending = {
        "count": ("[So|Hence|Thus] there are {n} [of them|such numbers].",),
        "sum": ("[Their sum is|They add up to] {total}, which leaves {answer} modulo 1000.",),
        "largest": ("The [largest|greatest] [of them|] is {high}.",),
        "smallest": ("The [smallest|least] [of them|] is {low}.",),
        "range": ("The largest is {high}, the smallest {low}, and {high} - {low} = {answer}.",),
    }[asked]
    fields = {"n": len(kept), "total": total, "answer": answer, "high": high, "low": low}
    steps.append(phrase_of(ending, rng, fields))
    params["asked"] = SET_QUESTIONS.index(asked)
    plot = "/".join(["sieve", *names, asked])
    return Plotted(Problem(question, steps, answer, params), plot)


def _listed(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + (" and " if len(parts) < 3 else ", and ") + parts[-1]


class Function(NamedTuple):
    """A function of an integer with one number v: definitions in words, a step, the value."""

    forms: tuple[str, ...]
    step: str
    value: Callable[[int, int], int]
    low: int
    high: int


FUNCTIONS: dict[str, Function] = {
    "add": Function(
        ("{f}(n) = n + {v}", "{f} adds {v}"), "{x} + {v} = {y}", lambda n, v: n + v, 3, 400
    ),
    "times": Function(
        ("{f}(n) = {v}n", "{f} multiplies by {v}"), "{v} * {x} = {y}", lambda n, v: v * n, 2, 19
    ),
    "linear": Function(
        ("{f}(n) = {v}n + 1", "{f} multiplies by {v} and adds 1"), "{v} * {x} + 1 = {y}",
        lambda n, v: v * n + 1, 2, 12,
    ),
    "square": Function(
        ("{f}(n) = n^2 + {v}", "{f} squares the number and adds {v}"), "{x}^2 + {v} = {y}",
        lambda n, v: n * n + v, 1, 40,
    ),
    "remainder": Function(
        ("{f}(n) is the remainder of n modulo {v}", "{f} takes the remainder on division by {v}"),
        "{x} leaves {y} modulo {v}", lambda n, v: n % v, 50, 997,
    ),
    "floor": Function(
        ("{f}(n) = floor(n/{v})", "{f} divides by {v} and drops the fraction"),
        "floor({x}/{v}) = {y}", lambda n, v: n // v, 2, 9,
    ),
    "digits": Function(
        ("{f}(n) is {v} times the digit sum of n", "{f} multiplies the sum of the digits by {v}"),
        "{v} times the digit sum of {x} is {y}", lambda n, v: v * digit_sum(n), 1, 25,
    ),
    "gcd": Function(
        ("{f}(n) is the greatest common divisor of n and {v}", "{f} takes the gcd with {v}"),
        "gcd({x}, {v}) = {y}", lambda n, v: gcd(n, v), 12, 360,
    ),
    "distance": Function(
        ("{f}(n) = |n - {v}|", "{f} takes the distance to {v}"), "|{x} - {v}| = {y}",
        lambda n, v: abs(n - v), 100, 900,
    ),
}  # fmt: skip
CHAIN_QUESTIONS = ("value", "modulo", "double")
_LETTERS = ("f", "g", "h", "p", "q")


def functions(rng: Random) -> Plotted:
    """A number sent through three to five functions."""
    names = [rng.choice(list(FUNCTIONS)) for _ in range(rng.randint(3, 5))]
    asked = rng.choice(CHAIN_QUESTIONS)
    start = x = rng.randint(2, 300)
    told, steps = [], []
    params = {"start": start, "length": len(names)}
    letters = _LETTERS[: len(names)]
    for i, (name, letter) in enumerate(zip(names, letters, strict=True)):
        function = FUNCTIONS[name]
        v = rng.randint(function.low, function.high)
        y = function.value(x, v)
        if not 0 < y < 100_000:
            return functions(rng)
        fields = {"f": letter, "v": v, "x": x, "y": y}
        told.append(rng.choice(function.forms).format(**fields))
        inner = function.step.format(**fields)
        steps.append(
            phrase_of(
                (
                    "[Applying|Using|For] {f}, [we see that|we find that|] {inner}.",
                    "{f}({x}) = {y}, [since|because|as] {inner}.",
                    "[Then|Next|Now|First we see that] {inner}[|, which is {f}({x})].",
                ),
                rng,
                {**fields, "inner": inner},
            )
        )
        params |= {f"f{i}": list(FUNCTIONS).index(name), f"v{i}": v}
        x = y
    # a step may begin with a function's letter, which stays small
    steps = [s[0].lower() + s[1:] if s[1] == "(" else s for s in steps]
    m = rng.choice([7, 9, 11, 13, 100, 1000, 1000])
    answer = {"value": x, "modulo": x % m, "double": 2 * x}[asked]
    if not 0 <= answer <= 999:
        return functions(rng)
    nested = str(start)
    for letter in letters:
        nested = f"{letter}({nested})"
    fields = {"told": _listed(told), "start": start, "nested": nested, "m": m}
    question = phrase_of(
        (
            "[Suppose that|Define functions so that|Assume that|It is given that] {told}.",
            "[These rules are given|The following is known about positive integers n]: {told}.",
        ),
        rng,
        fields,
    )
    question += " " + phrase_of(
        {
            "value": (
                "[Find|Compute|Evaluate|Determine] {nested}.",
                "Starting from {start}, [apply them one after the other|use them in this order]. "
                "[What is the result?|Find the result.]",
            ),
            "modulo": (
                "[Find|Compute] the remainder when {nested} is divided by {m}.",
                "Starting from {start}, apply them in this order. What does the result leave "
                "modulo "
                "{m}?",
            ),
            "double": (
                "[Find|Compute] twice the value of {nested}.",
                "Starting from {start}, apply them in this order. What is twice the result?",
            ),
        }[asked],
        rng,
        fields,
    )
    steps += {
        "value": [f"The result is {x}."],
        "modulo": [f"The remainder of {x} modulo {m} is {answer}."],
        "double": [f"Twice the result is 2 * {x} = {answer}."],
    }[asked]
    params |= {"asked": CHAIN_QUESTIONS.index(asked), "m": m}
    plot = "/".join(["functions", *names, asked])
    return Plotted(Problem(question, steps, answer, params), plot)
