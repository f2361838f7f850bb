"""Independent answers to the competition families: brute force or sympy, from the parameters."""

from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, pairwise, product
from math import comb, factorial, gcd, prod

import sympy  # type: ignore[import-untyped]

Params = dict[str, int]


def _indexed(p: Params, letter: str) -> list[int]:
    return [v for k, v in sorted(p.items()) if k[0] == letter and k[1:].isdigit()]


def _sum_mn(value: Fraction) -> int:
    return value.numerator + value.denominator


def _divisor_count(p: Params) -> int:
    divisors = sympy.divisors(p["n"])
    kinds = [lambda d: True, lambda d: d % 2 == 0, lambda d: sympy.integer_nthroot(d, 2)[1]]
    return sum(bool(kinds[p["kind"]](d)) for d in divisors)


def _chinese(p: Params) -> int:
    moduli, rests = _indexed(p, "m"), _indexed(p, "r")
    return next(
        x for x in range(1, 1001) if all(x % m == r for m, r in zip(moduli, rests, strict=True))
    )


def _digit_sums(p: Params) -> int:
    low = 10 ** (p["digits"] - 1)
    return sum(
        sum(map(int, str(n))) == p["total"] and n % p["multiple"] == 0 for n in range(low, 10 * low)
    )


def _coins(p: Params) -> int:
    a, b = p["a"], p["b"]
    reachable = {a * x + b * y for x in range(b + 1) for y in range(a + 1)}
    return max(n for n in range(a * b) if n not in reachable)


def _paths(p: Params) -> int:
    grid = {(0, 0): 1}
    for x, y in product(range(p["w"] + 1), range(p["h"] + 1)):
        if (x, y) == (p["x"], p["y"]):
            grid[x, y] = 0
        elif (x, y) != (0, 0):
            grid[x, y] = grid.get((x - 1, y), 0) + grid.get((x, y - 1), 0)
    return grid[p["w"], p["h"]] % 1000


def _bounded(p: Params) -> int:
    ways = [1] + [0] * p["total"]
    for _ in range(p["parts"]):
        ways = [sum(ways[t - v] for v in range(p["low"], t + 1)) for t in range(p["total"] + 1)]
    return ways[p["total"]] % 1000


def _committee(p: Params) -> int:
    people = [1] * p["a"] + [0] * p["b"]
    if comb(len(people), p["size"]) > 20_000:
        wrong = sum(comb(p["a"], i) * comb(p["b"], p["size"] - i) for i in range(p["least"]))
        return (comb(len(people), p["size"]) - wrong) % 1000
    return sum(sum(c) >= p["least"] for c in combinations(people, p["size"])) % 1000


def _letters(p: Params) -> int:
    counts = {k.removeprefix("count_"): v for k, v in p.items() if k.startswith("count_")}
    if p["first"]:
        counts[chr(p["first"])] -= 1
    left, ways = sum(counts.values()), 1
    for c in counts.values():
        ways *= comb(left, c)
        left -= c
    return ways % 1000


def _dice(p: Params) -> int:
    faces = range(1, p["sides"] + 1)
    good = sum(sum(f) == p["total"] for f in product(faces, repeat=p["dice"]))
    return _sum_mn(Fraction(good, p["sides"] ** p["dice"]))


def _colors(p: Params) -> int:
    balls = [i for i, c in enumerate(_indexed(p, "c")) for _ in range(c)]
    draws = [len(set(d)) == 1 for d in combinations(balls, p["drawn"])]
    return _sum_mn(Fraction(sum(draws), len(draws)))


def _gaps(p: Params) -> int:
    states = {0: 1}
    for _ in range(p["n"]):
        states = {0: sum(states.values())} | {
            k + 1: c for k, c in states.items() if k + 1 < p["run"]
        }
    return sum(states.values()) % 1000


def _onto(p: Params) -> int:
    stirling = int(sympy.functions.combinatorial.numbers.stirling(p["items"], p["boxes"]))
    return stirling * factorial(p["boxes"]) % 1000


def _maximum(p: Params) -> int:
    weighted = sum(m * comb(m - 1, p["k"] - 1) for m in range(p["k"], p["n"] + 1))
    return _sum_mn(Fraction(weighted, comb(p["n"], p["k"])))


def _quadratic(p: Params) -> int:
    x = sympy.Symbol("x")
    roots = sympy.roots(x**2 - p["s"] * x + p["p"], x)
    return int(sympy.expand(sum(m * r ** p["kind"] for r, m in roots.items())))


def _cubic(p: Params) -> int:
    at = -p["shift"]
    return -(at**3 - p["e1"] * at**2 + p["e2"] * at - p["e3"])


def _recurrence(p: Params) -> int:
    start = sympy.Matrix([p["b"], p["a"]])
    return int((sympy.Matrix([[p["p"], p["q"]], [1, 0]]) ** (p["n"] - 1) * start)[0] % p["m"])


def _logarithm(p: Params) -> int:
    total = Fraction(p["num"], p["den"])
    pairs = list(zip(_indexed(p, "w"), _indexed(p, "k"), strict=True))
    return next(
        int(p["base"] ** e)
        for e in range(1, 12)
        if sum(Fraction(w * e, k) for w, k in pairs) == total
    )


def _polynomial(p: Params) -> int:
    x = sympy.Symbol("x")
    return int(sympy.rem(sympy.Poly(_indexed(p, "c"), x), sympy.Poly(x - p["at"], x)).eval(0))


def _diophantine(p: Params) -> int:
    n = p["n"]
    return sum(p["a"] * x + p["b"] * y == n for x in range(1, n) for y in range(1, n // p["b"] + 1))


def _binomial(p: Params) -> int:
    x = sympy.Symbol("x")
    return (
        abs(int(sympy.Poly((p["a"] * x + p["b"]) ** p["n"], x).coeff_monomial(x ** p["k"]))) % 1000
    )


def _right(p: Params) -> int:
    a, b = p["a"], p["b"]
    c = sympy.sqrt(a * a + b * b)
    return int([sympy.Rational(a * b) / (a + b + c), c, a + b + c, b][p["kind"]])


def _triangle(p: Params) -> int:
    x, y, z = p["x"], p["y"], p["z"]
    cosine = sympy.Rational(x * x + y * y - z * z, 2 * x * y)
    return int(sympy.Rational(x * y, 2) * sympy.sqrt(1 - cosine**2))


def _twice_area(p: Params) -> int:
    points = [sympy.Point(x, y) for x, y in zip(_indexed(p, "x"), _indexed(p, "y"), strict=True)]
    first, *rest = points
    fan = [sympy.Matrix([b - first, c - first]).det() for b, c in pairwise(rest)]
    return abs(int(sum(fan)))


def _interior(p: Params) -> int:
    a, b = p["a"], p["b"]
    return sum(x * b + y * a < a * b for x in range(1, a) for y in range(1, b))


def _polygon(p: Params) -> int:
    n = p["n"]
    diagonals = sum(1 for i, j in combinations(range(n), 2) if (j - i) % n not in (1, n - 1))
    return [diagonals, n, 180 - 360 // n if 360 % n == 0 else -1][p["kind"]]


def _progression(p: Params) -> int:
    k = sympy.Symbol("k")
    return int(sympy.interpolate([(p["i"], p["x"]), (p["j"], p["y"])], k).subs(k, p["k"]))


def _numeral(p: Params) -> int:
    return int(str(p["numeral"]), p["base"])


ORACLES: dict[str, Callable[[Params], int]] = {
    "power_remainder": lambda p: pow(p["base"], p["exponent"], p["mod"]),
    "divisor_count": _divisor_count,
    "divisor_sum": lambda p: int(sympy.divisor_sigma(p["n"])),
    "chinese_remainder": _chinese,
    "gcd_lcm_pairs": lambda p: int(sympy.ilcm(p["x"], p["y"])),
    "trailing_zeros": lambda p: int(sympy.multiplicity(p["prime"], factorial(p["n"]))),
    "digit_sum_numbers": _digit_sums,
    "coin_problem": _coins,
    "modular_inverse": lambda p: next(x for x in range(1, p["m"]) if p["a"] * x % p["m"] == 1),
    "totient_count": lambda p: sum(gcd(k, p["n"]) == 1 for k in range(1, p["n"] + 1)),
    "floor_sum": lambda p: int(
        sum(sympy.floor(sympy.Rational(p["a"] * k, p["b"])) for k in range(1, p["n"] + 1))
    ),
    "multiples_union": lambda p: sum(
        (k % p["a"] == 0 or k % p["b"] == 0) and k % p["c"] != 0 for k in range(1, p["n"] + 1)
    ),
    "base_conversion": _numeral,
    "lattice_paths": _paths,
    "bounded_solutions": _bounded,
    "committee": _committee,
    "word_arrangements": _letters,
    "dice_sum": _dice,
    "same_color": _colors,
    "gap_sequences": _gaps,
    "onto_functions": _onto,
    "expected_maximum": _maximum,
    "quadratic_roots": _quadratic,
    "cubic_roots": _cubic,
    "arithmetic_progression": _progression,
    "geometric_sum": lambda p: sum(p["first"] * p["ratio"] ** k for k in range(p["n"])) % 1000,
    "linear_recurrence": _recurrence,
    "logarithm_equation": _logarithm,
    "telescoping_sum": lambda p: _sum_mn(
        sum((Fraction(1, k * (k + p["d"])) for k in range(p["start"], p["stop"] + 1)), Fraction())
    ),
    "polynomial_value": _polynomial,
    "linear_diophantine": _diophantine,
    "binomial_coefficient_of": _binomial,
    "triangle_area": _triangle,
    "right_triangle": _right,
    "polygon_area": _twice_area,
    "lattice_interior": _interior,
    "box_diagonal": lambda p: p["a"] ** 2 + p["b"] ** 2 + p["c"] ** 2,
    "circle_chord": lambda p: int(2 * sympy.sqrt(p["radius"] ** 2 - p["distance"] ** 2)),
    "similar_triangles": lambda p: int(sympy.Rational(p["part"] * p["base"], p["whole"])),
    "regular_polygon": _polygon,
}


def _filled_boxes(p: Params) -> int:
    whole = p["trays"] * p["per_tray"] - p["broken"]
    return sum(p["price"] for end in range(p["box"], whole + 1, p["box"]) if end <= whole)


def _tank(p: Params) -> int:
    liters = p["start"]
    for _ in range(p["minutes"]):
        liters += p["inflow"] - p["outflow"]
    return liters - 3 * p["bucket"]


def _bought(needed: int, size: int, price: int) -> int:
    paid = 0
    while needed > 0:
        needed, paid = needed - size, paid + price
    return paid


STORY_ORACLES: dict[str, Callable[[Params], int]] = {
    "bakery": _filled_boxes,
    "savings": lambda p: (
        p["goal"] + p["spent"] - p["gift"] - sum(p["weekly"] for _ in range(p["weeks"]))
    ),
    "trains": lambda p: (p["fast"] + 60) * p["first"] + (p["slow"] + 60) * p["second"] + p["stop"],
    "garden": lambda p: int(
        Fraction(prod([p["rows"], p["per_row"], p["each"], 100 - p["percent"]]), 100)
    ),
    "library": lambda p: p["pages"] - p["first"] * (p["days"] + p["factor"] * p["more"]),
    "ages": lambda p: p["child"] * (p["factor"] + 2) - p["younger"] + 3 * p["years"],
    "wages": lambda p: int(p["rate"] * (40 + Fraction(3, 2) * p["extra"]) - p["bus"] * p["days"]),
    "party": lambda p: _bought(p["guests"] * p["slices"], p["cut"], p["price"]) - p["coupon"],
    "tank": _tank,
    "collection": lambda p: int(
        Fraction(p["own"] * (1 + 2 * p["factor"]) - p["third"], p["people"])
    ),
    "school_trip": lambda p: _bought(
        p["classes"] * (p["pupils"] + p["adults"]), p["seats"], p["rent"]
    ),
    "discount": lambda p: int(
        Fraction(p["price"] * p["pairs"] * (100 - p["percent"]), 100) + p["shipping"]
    ),
    "farm": lambda p: (p["hens"] * p["eggs"] - p["eaten"]) * p["days"] // 12 * p["price"],
    "running": lambda p: (
        sum(p["laps"] + d * p["step"] for d in range(p["days"])) * p["length"] // 2
    ),
    "fence": lambda p: (2 * p["width"] * (1 + p["ratio"]) - p["gate"]) * p["price"] + p["helper"],
    "recipe": lambda p: _bought(
        p["people"] * p["grams"] * p["times"] - p["have"], p["pack"], p["cost"]
    ),
}
