"""Counting, probability and recursion."""

from collections import Counter
from fractions import Fraction
from math import comb, factorial, prod
from random import Random

from demo.corpora.families.problem import Problem, family

_WORD_LIST = (
    "LEVEL BANANA PEPPER COMMITTEE BALLOON COFFEE SUCCESS ALGEBRA GEOMETRY PARABOLA ELLIPSE "
    "TRIANGLE SEQUENCE REMAINDER PERMUTE INTEGER NUMBER LATTICE TANGENT MATRIX VECTOR SCALAR "
    "POLYGON HEXAGON RADIUS SPHERE CIRCLE SECTOR SECANT DEGREE RADIAN FACTOR PRODUCT QUOTIENT "
    "DIVISOR MULTIPLE FRACTION DECIMAL TOTAL AVERAGE MEDIAN RANDOM SAMPLE COUNTER LETTERS ARRANGE"
)
_WORDS = _WORD_LIST.split()


def _mod_note(value: int) -> str:
    return f"The remainder of {value} when divided by 1000 is {value % 1000}."


@family
def lattice_paths(rng: Random) -> Problem:
    """Shortest grid paths that avoid one point."""
    w, h = rng.randint(4, 9), rng.randint(4, 9)
    x, y = rng.randint(1, w - 1), rng.randint(1, h - 1)
    total, before, after = comb(w + h, w), comb(x + y, x), comb(w - x + h - y, w - x)
    left = total - before * after
    who = rng.choice(["An ant", "A robot", "A token", "A taxi"])
    question = rng.choice(
        [
            f"{who} moves from (0, 0) to ({w}, {h}) by steps of one unit to the right or up, and "
            f"must not pass through ({x}, {y}). Let N be the number of possible paths. Find the "
            "remainder when N is divided by 1000.",
            f"Let N be the number of shortest lattice paths from (0, 0) to ({w}, {h}) that avoid "
            f"the point ({x}, {y}). Find N modulo 1000.",
        ]
    )
    steps = [
        f"Without the condition there are C({w + h}, {w}) = {total} paths.",
        f"Paths to ({x}, {y}) number C({x + y}, {x}) = {before}.",
        f"From there to the end there are C({w - x + h - y}, {w - x}) = {after} paths.",
        f"So {before} * {after} = {before * after} paths are forbidden.",
        f"N = {total} - {before * after} = {left}.",
        _mod_note(left),
    ]
    return Problem(question, steps, left % 1000, {"w": w, "h": h, "x": x, "y": y})


@family
def bounded_solutions(rng: Random) -> Problem:
    """Stars and bars with lower bounds."""
    parts, low, rest = rng.randint(3, 7), rng.randint(0, 6), rng.randint(5, 40)
    total = rest + parts * low
    count = comb(rest + parts - 1, parts - 1)
    thing = rng.choice(["apples", "marbles", "books", "coins", "pencils", "stickers"])
    who = rng.choice(["children", "boxes", "baskets", "friends"])
    question = rng.choice(
        [
            f"In how many ways can {total} identical {thing} be shared among {parts} different "
            f"{who} so that each gets at least {low}? Give the remainder modulo 1000.",
            f"Let N be the number of ordered {parts}-tuples of integers, each at least {low}, "
            f"with sum {total}. Find the remainder when N is divided by 1000.",
        ]
    )
    steps = [
        f"Give {low} to each first; this uses {parts * low} and leaves {rest}.",
        f"The remaining {rest} are placed freely: stars and bars with {parts - 1} bars.",
        f"The number of ways is C({rest + parts - 1}, {parts - 1}) = {count}.",
        _mod_note(count),
    ]
    return Problem(question, steps, count % 1000, {"parts": parts, "low": low, "total": total})


@family
def committee(rng: Random) -> Problem:
    """Committees with a least number from one group."""
    a, b = rng.randint(4, 12), rng.randint(4, 12)
    size = rng.randint(3, 6)
    least = rng.randint(1, min(size, a) - 1)
    terms = [(i, comb(a, i) * comb(b, size - i)) for i in range(least, size + 1)]
    terms = [(i, t) for i, t in terms if t]
    total = sum(t for _, t in terms)
    one, two = rng.choice(
        [("seniors", "juniors"), ("doctors", "nurses"), ("chemists", "physicists")]
    )
    question = rng.choice(
        [
            f"A club has {a} {one} and {b} {two}. Let N be the number of ways to choose a "
            f"committee of {size} with at least {least} {one}. Find N modulo 1000.",
            f"From {a} {one} and {b} {two}, a team of {size} is chosen that includes {least} or "
            f"more {one}. Find the remainder when the number of teams is divided by 1000.",
        ]
    )
    steps = [f"We add over the number i of {one} on the committee."]
    steps += [
        f"i = {i}: C({a}, {i}) * C({b}, {size - i}) = {comb(a, i)} * {comb(b, size - i)} = {t}."
        for i, t in terms
    ]
    steps += [f"The sum is {total}.", _mod_note(total)]
    params = {"a": a, "b": b, "size": size, "least": least}
    return Problem(question, steps, total % 1000, params)


@family
def word_arrangements(rng: Random) -> Problem:
    """Arrangements of letters, some equal, perhaps with one letter in a fixed end."""
    word = rng.choice(_WORDS)
    letters = list(word)
    if rng.random() < 0.8:
        letters = sorted(word + "".join(rng.choice(word) for _ in range(rng.randint(0, 3))))
    shown = "".join(letters)
    first = rng.choice(sorted(set(letters)))
    fixed = rng.random() < 0.5
    rest = list(letters)
    if fixed:
        rest.remove(first)
    counts = Counter(rest)
    repeated = [c for _, c in sorted(counts.items()) if c > 1]
    total = factorial(len(rest)) // prod(map(factorial, repeated))
    condition = f" that begin with the letter {first}" if fixed else ""
    question = rng.choice(
        [
            f"Let N be the number of distinct arrangements of the letters {shown}{condition}. "
            "Find the remainder when N is divided by 1000.",
            f"How many different strings{condition} can be formed by permuting all letters of "
            f"{shown}? Answer modulo 1000.",
        ]
    )
    divisor = " * ".join(f"{c}!" for c in repeated) or "1"
    steps = [
        f"There are {len(rest)} letters to place freely.",
        f"Letters that repeat give the divisor {divisor}.",
        f"N = {len(rest)}! / ({divisor}) = {total}.",
        _mod_note(total),
    ]
    params = {f"count_{x}": c for x, c in sorted(Counter(letters).items())}
    params["first"] = ord(first) if fixed else 0
    return Problem(question, steps, total % 1000, params)


@family
def dice_sum(rng: Random) -> Problem:
    """Probability of a sum of dice, as m + n."""
    dice, sides = rng.choice([(2, s) for s in range(6, 21)] + [(3, s) for s in range(4, 11)])
    total = rng.randint(dice + 1, dice * sides - 1)
    ways = {1: dict.fromkeys(range(1, sides + 1), 1)}
    for n in range(2, dice + 1):
        ways[n] = {}
        for s, c in ways[n - 1].items():
            for face in range(1, sides + 1):
                ways[n][s + face] = ways[n].get(s + face, 0) + c
    good, everything = ways[dice][total], sides**dice
    p = Fraction(good, everything)
    answer = p.numerator + p.denominator
    if answer > 999:
        return dice_sum(rng)
    question = rng.choice(
        [
            f"{dice} fair dice with faces 1 to {sides} are rolled. The probability that the faces "
            f"add up to {total} is m/n in lowest terms. Find m + n.",
            f"A fair {sides}-sided die is rolled {dice} times. Let m/n, in lowest terms, be the "
            f"probability of a total of {total}. What is m + n?",
        ]
    )
    steps = [f"There are {sides}^{dice} = {everything} equally likely outcomes."]
    if dice == 3:
        for first in range(1, sides + 1):
            two = ways[2].get(total - first, 0)
            if two:
                steps.append(f"First face {first}: the others sum to {total - first}, {two} ways.")
    else:
        low, high = max(1, total - sides), min(sides, total - 1)
        steps.append(f"The first face can be anything from {low} to {high}.")
    steps.append(f"So {good} outcomes are favorable, and the probability is {good}/{everything}.")
    steps.append(f"In lowest terms this is {p.numerator}/{p.denominator}, so m + n = {answer}.")
    return Problem(question, steps, answer, {"dice": dice, "sides": sides, "total": total})


@family
def same_color(rng: Random) -> Problem:
    """Probability that drawn balls share a colour."""
    colors = rng.sample(["red", "blue", "green", "white", "black", "yellow"], rng.randint(2, 4))
    counts = [rng.randint(2, 9) for _ in colors]
    drawn = rng.choice([2, 2, 3])
    good = [comb(c, drawn) for c in counts]
    everything = comb(sum(counts), drawn)
    p = Fraction(sum(good), everything)
    answer = p.numerator + p.denominator
    if answer > 999 or not p:
        return same_color(rng)
    listed = ", ".join(f"{c} {x}" for c, x in zip(counts, colors, strict=True))
    question = rng.choice(
        [
            f"A bag holds {listed} balls. {drawn} balls are drawn without replacement. The "
            "probability that all have the same color is m/n in lowest terms. Find m + n.",
            f"From a drawer with {listed} socks, {drawn} socks are taken at random. They match "
            "with probability m/n, where m and n are relatively prime. Find m + n.",
        ]
    )
    steps = [f"There are C({sum(counts)}, {drawn}) = {everything} equally likely draws."]
    steps += [
        f"All {x}: C({c}, {drawn}) = {g}." for x, c, g in zip(colors, counts, good, strict=True)
    ]
    steps.append(f"The probability is {sum(good)}/{everything} = {p.numerator}/{p.denominator}.")
    steps.append(f"So m + n = {p.numerator} + {p.denominator} = {answer}.")
    params = {f"c{i}": c for i, c in enumerate(counts)} | {"drawn": drawn}
    return Problem(question, steps, answer, params)


@family
def gap_sequences(rng: Random) -> Problem:
    """Binary strings or seatings without long runs, by recursion."""
    n, run = rng.randint(6, 40), rng.randint(2, 5)
    values = [2**i for i in range(run)]
    while len(values) <= n:
        values.append(sum(values[-run:]))
    answer = values[n] % 1000
    people = rng.choice(["lamps", "seats", "tiles", "doors", "beads"])
    question = rng.choice(
        [
            f"Find the number of binary strings of length {n} that do not contain {run} "
            "consecutive ones, modulo 1000.",
            f"Each of {n} {people} in a row is marked or left plain, and no {run} neighbors in "
            "a row may all be marked. Find the remainder when the number of ways is divided by "
            "1000.",
        ]
    )
    back = " + ".join(f"a(k-{i})" for i in range(1, run + 1))
    steps = [
        f"Let a(k) count the ways for length k. For k < {run} every choice works: a(k) = 2^k.",
        f"Looking at the position of the last plain one, a(k) = {back}.",
    ]
    steps += [f"a({k}) = {values[k] % 1000} (mod 1000)." for k in range(run, n + 1)]
    return Problem(question, steps, answer, {"n": n, "run": run})


@family
def onto_functions(rng: Random) -> Problem:
    """Distributions that leave no box empty, by inclusion and exclusion."""
    boxes = rng.randint(2, 6)
    items = rng.randint(boxes, 12)
    terms = [(-1) ** i * comb(boxes, i) * (boxes - i) ** items for i in range(boxes)]
    total = sum(terms)
    thing, place = rng.choice(
        [("letters", "mailboxes"), ("guests", "rooms"), ("toys", "children"), ("tasks", "workers")]
    )
    question = rng.choice(
        [
            f"In how many ways can {items} different {thing} be assigned to {boxes} different "
            f"{place} so that none of the {place} is left without? Answer modulo 1000.",
            f"Let N be the number of functions from a set with {items} elements onto a set with "
            f"{boxes} elements. Find the remainder when N is divided by 1000.",
        ]
    )
    steps = ["By inclusion and exclusion over the boxes that stay empty:"]
    steps += [
        f"{i} empty: {'-' if i % 2 else '+'} C({boxes}, {i}) * {boxes - i}^{items} = {t}."
        for i, t in enumerate(terms)
    ]
    steps += [f"The sum is {total}.", _mod_note(total)]
    return Problem(question, steps, total % 1000, {"items": items, "boxes": boxes})


@family
def expected_maximum(rng: Random) -> Problem:
    """Expected largest of several drawn numbers, as m + n."""
    n, k = rng.randint(5, 60), rng.randint(2, 7)
    if k >= n:
        return expected_maximum(rng)
    e = Fraction(k * (n + 1), k + 1)
    answer = e.numerator + e.denominator
    question = rng.choice(
        [
            f"{k} different numbers are drawn at random from 1, 2, ..., {n}. The expected value "
            "of the largest is m/n in lowest terms. Find m + n.",
            f"A random subset of {k} elements of the first {n} positive integers is chosen. Its "
            "greatest element has mean m/n in lowest terms. Find m + n.",
        ]
    )
    steps = [
        f"The {k} chosen numbers cut the remaining {n - k} into {k + 1} gaps.",
        f"By symmetry each gap has mean length ({n} - {k})/({k} + 1).",
        f"So the largest is on average {n} - {Fraction(n - k, k + 1)} = {e}.",
        f"Hence m + n = {e.numerator} + {e.denominator} = {answer}.",
    ]
    return Problem(question, steps, answer, {"n": n, "k": k})
