"""Algebra: polynomials, sequences, logarithms, equations."""

from fractions import Fraction
from math import comb
from random import Random

from demo.corpora.families.problem import Problem, family


def _polynomial(coefficients: list[int]) -> str:
    """Write a polynomial from its leading coefficient on, signs included."""
    degree = len(coefficients) - 1
    text = ""
    for power, c in zip(range(degree, -1, -1), coefficients, strict=True):
        if c == 0:
            continue
        sign = "-" if c < 0 else "+"
        size = "" if abs(c) == 1 and power else str(abs(c))
        body = size + ("" if power == 0 else "x" if power == 1 else f"x^{power}")
        text += body if not text and c > 0 else f"-{body}" if not text else f" {sign} {body}"
    return text


@family
def quadratic_roots(rng: Random) -> Problem:
    """Symmetric functions of the roots of a quadratic."""
    s, p = rng.randint(3, 30), rng.randint(1, 60)
    kind = rng.choice([2, 2, 3])
    squares = s * s - 2 * p
    value = squares if kind == 2 else s**3 - 3 * s * p
    if not 0 <= value <= 999:
        return quadratic_roots(rng)
    equation = f"{_polynomial([1, -s, p])} = 0"
    question = rng.choice(
        [
            f"Let r and s be the roots of {equation}. Find r^{kind} + s^{kind}.",
            f"The equation {equation} has roots a and b, real or complex. Compute "
            f"a^{kind} + b^{kind}.",
            f"Two numbers have sum {s} and product {p}. What is the sum of their "
            f"{'squares' if kind == 2 else 'cubes'}?",
        ]
    )
    steps = [f"By Vieta's formulas the sum is {s} and the product is {p}."]
    steps.append(f"The sum of squares is {s}^2 - 2 * {p} = {squares}.")
    if kind == 3:
        steps.append(f"The sum of cubes is {s} * ({squares} - {p}) = {value}.")
    return Problem(question, steps, value, {"s": s, "p": p, "kind": kind})


@family
def cubic_roots(rng: Random) -> Problem:
    """Roots of a cubic: products of shifted roots."""
    roots = [rng.randint(1, 12) for _ in range(3)]
    shift = rng.randint(1, 6)
    a, b, c = roots
    e1, e2, e3 = a + b + c, a * b + b * c + c * a, a * b * c
    if rng.random() < 0.5:
        e2, e3 = e2 + rng.randint(-4, 4), max(e3 + rng.randint(-9, 9), 1)
    value = shift**3 + e1 * shift**2 + e2 * shift + e3
    if not 0 <= value <= 999:
        return cubic_roots(rng)
    text = _polynomial([1, -e1, e2, -e3])
    product = " * ".join(f"({x} + {shift})" for x in "abc")
    question = rng.choice(
        [
            f"Let a, b, c be the roots of {text}. Find {product}.",
            f"The polynomial P(x) = {text} has roots a, b and c. Evaluate the product {product}.",
        ]
    )
    steps = [
        f"Write P(x) = {text} = (x - a)(x - b)(x - c).",
        f"Putting x = -{shift} gives P(-{shift}) = -{product}.",
        f"P(-{shift}) = -{shift**3} - {e1 * shift**2} - {e2 * shift} - {e3} = {-value}.",
        f"So the product is {value}.",
    ]
    return Problem(question, steps, value, {"e1": e1, "e2": e2, "e3": e3, "shift": shift})


@family
def arithmetic_progression(rng: Random) -> Problem:
    """A term of an arithmetic progression from two others."""
    first, d = rng.randint(-40, 60), rng.randint(2, 23)
    i, j = sorted(rng.sample(range(2, 30), 2))
    k = rng.randint(j + 1, j + 25)
    value = first + (k - 1) * d
    if not 0 <= value <= 999:
        return arithmetic_progression(rng)
    x, y = first + (i - 1) * d, first + (j - 1) * d
    question = rng.choice(
        [
            f"Term number {i} of an arithmetic sequence is {x} and term number {j} is {y}. Find "
            f"term number {k}.",
            f"In an arithmetic progression a({i}) = {x} and a({j}) = {y}. Determine a({k}).",
            f"A plant grows by the same whole number of millimeters each day. On day {i} its mark "
            f"stands at {x} and on day {j} at {y}. Where does it stand on day {k}?",
        ]
    )
    steps = [
        f"The common difference is ({y} - {x}) / ({j} - {i}) = {d}.",
        f"From term {j} to term {k} there are {k - j} steps.",
        f"The term is {y} + {k - j} * {d} = {value}.",
    ]
    return Problem(question, steps, value, {"i": i, "x": x, "j": j, "y": y, "k": k})


@family
def geometric_sum(rng: Random) -> Problem:
    """Remainder of a geometric sum."""
    first, ratio, n = rng.randint(1, 20), rng.randint(2, 9), rng.randint(5, 14)
    total = first * (ratio**n - 1) // (ratio - 1)
    question = rng.choice(
        [
            f"Find the last three digits of {first} + {first * ratio} + {first * ratio**2} + ... "
            f"where the geometric series has {n} terms. Give them as an integer.",
            f"A geometric sequence starts with {first} and has ratio {ratio}. Find the remainder "
            f"when the sum of its first {n} terms is divided by 1000.",
        ]
    )
    steps = [f"We add the terms modulo 1000, each {ratio} times the one before."]
    running, term = 0, first
    for k in range(1, n + 1):
        running = (running + term) % 1000
        steps.append(f"Term {k} is {term} (mod 1000); the running sum is {running}.")
        term = term * ratio % 1000
    steps.append(f"The exact sum {total} indeed ends in {total % 1000}.")
    return Problem(question, steps, total % 1000, {"first": first, "ratio": ratio, "n": n})


@family
def linear_recurrence(rng: Random) -> Problem:
    """A term of a second-order recurrence, modulo a number."""
    a, b = rng.randint(0, 9), rng.randint(1, 9)
    p, q = rng.randint(1, 6), rng.randint(1, 6)
    n, m = rng.randint(8, 20), rng.choice([1000, 1000, 97, 101, 128, 365, 500, 729])
    question = rng.choice(
        [
            f"A sequence has a(0) = {a}, a(1) = {b} and a(k) = {p}a(k-1) + {q}a(k-2) for k >= 2. "
            f"Find the remainder when a({n}) is divided by {m}.",
            f"Let a(0) = {a}, a(1) = {b}, and let each later term be {p} times the previous term "
            f"plus {q} times the term before it. What is a({n}) modulo {m}?",
        ]
    )
    steps = [f"We compute the terms modulo {m}."]
    x, y = a % m, b % m
    for k in range(2, n + 1):
        x, y = y, (p * y + q * x) % m
        steps.append(f"a({k}) = {y}.")
    return Problem(question, steps, y, {"a": a, "b": b, "p": p, "q": q, "n": n, "m": m})


@family
def logarithm_equation(rng: Random) -> Problem:
    """An equation in logarithms to related bases."""
    base = rng.randint(2, 9)
    top = {2: 9, 3: 6, 4: 4, 5: 4, 6: 3, 7: 3, 8: 3, 9: 3}[base]
    power = rng.randint(1, top)
    value = base**power
    powers = sorted(rng.sample([1, 2, 3, 4, 5, 6], rng.randint(2, 4)))
    weights = [rng.randint(1, 7) for _ in powers]
    total = sum((Fraction(w * power, k) for w, k in zip(weights, powers, strict=True)), Fraction())
    terms = " + ".join(
        f"{'' if w == 1 else w}log_{base**k}(x)" for w, k in zip(weights, powers, strict=True)
    )
    if value > 999:
        return logarithm_equation(rng)
    question = rng.choice(
        [
            f"Find the positive number x such that {terms} = {total}.",
            f"Solve {terms} = {total} for x.",
        ]
    )
    factor = total / power
    steps = [f"Write every logarithm in base {base}: log_{{{base}^k}}(x) = log_{base}(x)/k."]
    steps += [
        f"The term with base {base**k} contributes ({w}/{k}) log_{base}(x)."
        for w, k in zip(weights, powers, strict=True)
    ]
    steps.append(f"Together they are {factor} log_{base}(x) = {total}, so log_{base}(x) = {power}.")
    steps.append(f"Thus x = {base}^{power} = {value}.")
    params = {"base": base, "num": total.numerator, "den": total.denominator}
    params |= {f"k{i}": k for i, k in enumerate(powers)}
    return Problem(question, steps, value, params | {f"w{i}": w for i, w in enumerate(weights)})


@family
def telescoping_sum(rng: Random) -> Problem:
    """A sum of 1/(k(k+d)) that telescopes, as m + n."""
    d, start = rng.randint(1, 4), rng.randint(1, 30)
    stop = start + rng.randint(4, 60)
    total = sum((Fraction(1, k * (k + d)) for k in range(start, stop + 1)), Fraction())
    answer = total.numerator + total.denominator
    if answer > 999:
        return telescoping_sum(rng)
    one, two = f"1/({start} * {start + d})", f"1/({start + 1} * {start + 1 + d})"
    question = rng.choice(
        [
            f"The sum {one} + {two} + ... + 1/({stop} * {stop + d}) equals m/n in lowest terms. "
            "Find m + n.",
            f"Let S be the sum of 1/(k(k + {d})) for k = {start} to {stop}. Write S = m/n in "
            "lowest terms and find m + n.",
        ]
    )
    first = sum((Fraction(1, k) for k in range(start, start + d)), Fraction())
    last = sum((Fraction(1, k) for k in range(stop + 1, stop + d + 1)), Fraction())
    steps = [
        f"Since 1/(k(k + {d})) = (1/{d})(1/k - 1/(k + {d})), almost all terms cancel.",
        f"The first {d} reciprocals that survive add up to {first}.",
        f"The last {d} that survive, with a minus sign, add up to {last}.",
        f"So the sum is ({first} - {last})/{d} = {total}.",
        f"Hence m + n = {total.numerator} + {total.denominator} = {answer}.",
    ]
    return Problem(question, steps, answer, {"d": d, "start": start, "stop": stop})


@family
def polynomial_value(rng: Random) -> Problem:
    """Remainder theorem, by Horner's scheme."""
    degree, at = rng.randint(3, 5), rng.choice([-4, -3, -2, 2, 3, 4, 5])
    coefficients = [rng.randint(1, 7)] + [rng.randint(-9, 9) for _ in range(degree)]
    running = 0
    steps = [f"By the remainder theorem we evaluate the polynomial at x = {at}, from the left."]
    for c in coefficients:
        steps.append(f"{running} * ({at}) + ({c}) = {running * at + c}.")
        running = running * at + c
    if not 0 <= running <= 999:
        return polynomial_value(rng)
    divisor = f"x - {at}" if at > 0 else f"x + {-at}"
    text = _polynomial(coefficients)
    question = rng.choice(
        [
            f"Find the remainder when {text} is divided by {divisor}.",
            f"Let P(x) = {text}. What remainder does P(x) leave on division by {divisor}?",
        ]
    )
    steps.append(f"The remainder is {running}.")
    params = {f"c{i}": c for i, c in enumerate(coefficients)} | {"at": at}
    return Problem(question, steps, running, params)


@family
def linear_diophantine(rng: Random) -> Problem:
    """Number of positive solutions of ax + by = n."""
    a, b = sorted(rng.sample(range(2, 20), 2))
    n = rng.randint(60, 900)
    pairs = [(x, (n - a * x) // b) for x in range(1, n // a + 1) if (n - a * x) % b == 0]
    pairs = [(x, y) for x, y in pairs if y > 0]
    if not 2 <= len(pairs) <= 40:
        return linear_diophantine(rng)
    thing = rng.choice([("pens", "notebooks"), ("adults", "children"), ("roses", "tulips")])
    question = rng.choice(
        [
            f"Find the number of ordered pairs (x, y) of positive integers with {a}x + {b}y = {n}.",
            f"Exactly {n} dollars are spent on {thing[0]} at {a} dollars and {thing[1]} at {b} "
            "dollars, with at least one of each. In how many ways can this be done?",
        ]
    )
    step = pairs[1][0] - pairs[0][0]
    steps = [
        f"The smallest positive x that makes {n} - {a}x a multiple of {b} is {pairs[0][0]}.",
        f"It gives (x, y) = ({pairs[0][0]}, {pairs[0][1]}).",
        f"Every other solution raises x by {step} and lowers y by {pairs[0][1] - pairs[1][1]}.",
        f"The last one with y > 0 is ({pairs[-1][0]}, {pairs[-1][1]}).",
        f"So there are ({pairs[-1][0]} - {pairs[0][0]})/{step} + 1 = {len(pairs)} pairs.",
    ]
    return Problem(question, steps, len(pairs), {"a": a, "b": b, "n": n})


@family
def binomial_coefficient_of(rng: Random) -> Problem:
    """A coefficient in the expansion of (ax + b)^n, modulo 1000."""
    a, b, n = rng.randint(1, 5), rng.choice([-3, -2, -1, 1, 2, 3, 4]), rng.randint(5, 14)
    k = rng.randint(2, n - 2)
    coefficient = comb(n, k) * a**k * b ** (n - k)
    answer = abs(coefficient) % 1000
    inner = _polynomial([a, b])
    question = rng.choice(
        [
            f"Let c be the coefficient of x^{k} in the expansion of ({inner})^{n}. Find the "
            "remainder when |c| is divided by 1000.",
            f"In ({inner})^{n}, what are the last three digits, as an integer, of the absolute "
            f"value of the coefficient of x^{k}?",
        ]
    )
    steps = [
        f"By the binomial theorem c = C({n}, {k}) * {a}^{k} * ({b})^{n - k}.",
        f"Here C({n}, {k}) = {comb(n, k)}, {a}^{k} = {a**k} and ({b})^{n - k} = {b ** (n - k)}.",
        f"So c = {coefficient}.",
        f"The remainder of {abs(coefficient)} modulo 1000 is {answer}.",
    ]
    return Problem(question, steps, answer, {"a": a, "b": b, "n": n, "k": k})
