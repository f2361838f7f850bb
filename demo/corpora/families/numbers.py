"""Number theory."""

from math import gcd, prod
from random import Random

from demo.corpora.families.problem import Problem, factorisation, family, written


@family
def power_remainder(rng: Random) -> Problem:
    """Remainder of a power, by repeated squaring."""
    base, exponent, modulus = rng.randint(2, 60), rng.randint(20, 400), rng.randint(11, 997)
    question = rng.choice(
        [
            f"Find the remainder when {base}^{exponent} is divided by {modulus}.",
            f"What is the remainder when {base}^{{{exponent}}} is divided by {modulus}?",
            f"Let N = {base}^{exponent}. Determine the value of N modulo {modulus}.",
        ]
    )
    steps = [f"We use repeated squaring modulo {modulus}, reading {exponent} in binary."]
    square, result, power = base % modulus, 1, 1
    rest = exponent
    while rest:
        if rest % 2:
            new = result * square % modulus
            if result != 1:
                steps.append(f"Multiplying in {base}^{power}: {result} * {square} = {new}.")
            result = new
        rest //= 2
        if rest:
            new = square * square % modulus
            steps.append(f"{base}^{2 * power} = {square}^2 = {square * square}, which is {new}.")
            square, power = new, 2 * power
    steps.append(f"Hence {base}^{exponent} leaves the remainder {result}.")
    return Problem(question, steps, result, {"base": base, "exponent": exponent, "mod": modulus})


@family
def divisor_count(rng: Random) -> Problem:
    """Number of divisors, of all kinds or of one kind."""
    primes = sorted(rng.sample([2, 3, 5, 7, 11, 13], rng.randint(2, 4)))
    factors = {p: rng.randint(1, 6 if p < 5 else 3) for p in primes}
    n = prod(p**e for p, e in factors.items())
    kind = rng.choice(["all", "even", "square"])
    if kind == "even" and 2 not in factors:
        kind = "all"
    if kind == "square":
        choices = {p: e // 2 + 1 for p, e in factors.items()}
        what, rule = "perfect square divisors", "every exponent must be even"
    elif kind == "even":
        choices = {p: e if p == 2 else e + 1 for p, e in factors.items()}
        what, rule = "even divisors", "the exponent of 2 must be at least 1"
    else:
        choices = {p: e + 1 for p, e in factors.items()}
        what, rule = "positive divisors", "each exponent is chosen freely"
    answer = prod(choices.values())
    question = rng.choice(
        [
            f"How many {what} does {n} have?",
            f"Find the number of {what} of {n}.",
            f"Let n = {written(factors)}. Find the number of {what} of n.",
        ]
    )
    steps = [f"We factor {n} = {written(factors)}.", f"For {what}, {rule}."]
    steps += [f"The exponent of {p} can take {c} values." for p, c in choices.items()]
    steps.append(f"In total there are {' * '.join(map(str, choices.values()))} = {answer}.")
    code = ["all", "even", "square"].index(kind)
    return Problem(question, steps, answer, {"n": n, "kind": code})


@family
def divisor_sum(rng: Random) -> Problem:
    """Sum of the divisors, by the product formula."""
    n = rng.randint(60, 420)
    factors = factorisation(n)
    while len(factors) < 2 or prod((p ** (e + 1) - 1) // (p - 1) for p, e in factors.items()) > 999:
        n = rng.randint(60, 420)
        factors = factorisation(n)
    sums = {p: (p ** (e + 1) - 1) // (p - 1) for p, e in factors.items()}
    answer = prod(sums.values())
    question = rng.choice(
        [
            f"Find the sum of all positive divisors of {n}.",
            f"What is the sum of the positive integers that divide {n}?",
            f"Compute the sum of all positive integers d such that {n} is a multiple of d.",
        ]
    )
    steps = [f"Since {n} = {written(factors)}, the sum of divisors splits into a product."]
    for p, e in factors.items():
        terms = " + ".join(str(p**i) for i in range(e + 1))
        steps.append(f"For the prime {p} the factor is {terms} = {sums[p]}.")
    steps.append(f"The product is {' * '.join(map(str, sums.values()))} = {answer}.")
    return Problem(question, steps, answer, {"n": n})


@family
def chinese_remainder(rng: Random) -> Problem:
    """Two or three congruences with coprime moduli."""
    while True:
        moduli = sorted(rng.sample(range(3, 32), rng.choice([2, 2, 3])))
        coprime = all(gcd(a, b) == 1 for i, a in enumerate(moduli) for b in moduli[:i])
        if coprime and prod(moduli) <= 1000:
            break
    answer = rng.randrange(1, prod(moduli))
    rests = [answer % m for m in moduli]
    listed = ", ".join(f"{r} when divided by {m}" for r, m in zip(rests, moduli, strict=True))
    question = rng.choice(
        [
            f"Find the smallest positive integer that leaves a remainder of {listed}.",
            f"A positive integer leaves remainder {listed}. What is its least possible value?",
            "Find the least positive integer x with "
            + " and ".join(f"x = {r} (mod {m})" for r, m in zip(rests, moduli, strict=True))
            + ".",
        ]
    )
    steps = []
    value, period = rests[0], moduli[0]
    steps.append(f"From the first condition, x = {value} + {period}k.")
    for r, m in zip(rests[1:], moduli[1:], strict=True):
        k = next(k for k in range(m) if (value + period * k) % m == r)
        steps.append(
            f"Modulo {m} we need {value} + {period}k = {r}; trying k = 0, 1, 2, ... the first "
            f"that works is k = {k}, which gives {value + period * k}."
        )
        value, period = value + period * k, period * m
        steps.append(f"So x = {value} modulo {period}.")
    steps.append(f"The smallest positive solution is {value}.")
    params = {f"m{i}": m for i, m in enumerate(moduli)}
    return Problem(question, steps, value, params | {f"r{i}": r for i, r in enumerate(rests)})


@family
def gcd_lcm_pairs(rng: Random) -> Problem:
    """Product, gcd and lcm of two numbers."""
    g = rng.randint(2, 24)
    a, b = rng.sample(range(2, 18), 2)
    while gcd(a, b) != 1 or g * a * b > 999:
        g = rng.randint(2, 24)
        a, b = rng.sample(range(2, 18), 2)
    x, y = sorted((g * a, g * b))
    lcm = g * a * b
    question = rng.choice(
        [
            f"Two positive integers have product {x * y} and greatest common divisor {g}. "
            "Find their least common multiple.",
            f"The greatest common divisor of {x} and n is {g}, and n * {x} = {x * y}. "
            f"Find the least common multiple of n and {x}.",
            f"If gcd(m, n) = {g} and mn = {x * y}, what is lcm(m, n)?",
        ]
    )
    steps = [
        "For any two positive integers, gcd(m, n) * lcm(m, n) = mn.",
        f"Therefore the least common multiple is {x * y} / {g} = {lcm}.",
        f"This is attained, for example, by {x} = {g} * {x // g} and {y} = {g} * {y // g}.",
    ]
    return Problem(question, steps, lcm, {"x": x, "y": y})


@family
def trailing_zeros(rng: Random) -> Problem:
    """Exponent of a prime in a factorial."""
    prime = rng.choice([2, 3, 5, 5, 5, 7, 11])
    n = rng.randint(30, 900)
    terms = []
    power = prime
    while power <= n:
        terms.append((power, n // power))
        power *= prime
    answer = sum(t for _, t in terms)
    if prime == 5:
        question = rng.choice(
            [
                f"With how many zeros does the decimal form of {n}! end?",
                f"Find the number of trailing zeros of {n}!.",
            ]
        )
        first = "Each trailing zero needs one factor 5 and one factor 2, and fives are rarer."
    else:
        question = rng.choice(
            [
                f"Find the largest integer k such that {prime}^k divides {n}!.",
                f"What is the exponent of {prime} in the prime factorization of {n}!?",
            ]
        )
        first = f"We count the multiples of {prime} and of its powers among 1, 2, ..., {n}."
    steps = [first]
    steps += [f"There are floor({n}/{p}) = {t} multiples of {p}." for p, t in terms]
    steps.append(f"The total is {' + '.join(str(t) for _, t in terms)} = {answer}.")
    return Problem(question, steps, answer, {"n": n, "prime": prime})


@family
def digit_sum_numbers(rng: Random) -> Problem:
    """Count numbers below a power of ten with a given digit sum."""
    digits, total = rng.choice([(3, s) for s in range(2, 27)] + [(4, s) for s in range(2, 36)])
    multiple = rng.choice([1, 2, 5])
    low = 10 ** (digits - 1)
    counts = {}
    for last in range(10):
        if last % multiple == 0:
            counts[last] = sum(sum(map(int, str(n))) == total - last for n in range(low // 10, low))
    answer = sum(counts.values())
    kind = {1: "", 2: "even ", 5: "multiple-of-five "}[multiple]
    question = rng.choice(
        [
            f"How many {kind}{digits}-digit positive integers have digit sum {total}?",
            f"Find the number of {kind}integers from {low} to {10 * low - 1} whose digits add "
            f"up to {total}.",
        ]
    )
    steps = [f"We sort by the last digit d; the first {digits - 1} digits must sum to {total} - d."]
    steps += [f"For d = {d} there are {c} such numbers." for d, c in counts.items() if c]
    steps.append(f"Adding these counts gives {answer}.")
    params = {"digits": digits, "total": total, "multiple": multiple}
    return Problem(question, steps, answer, params)


@family
def coin_problem(rng: Random) -> Problem:
    """Largest amount two coprime coins cannot make."""
    a, b = sorted(rng.sample(range(3, 40), 2))
    while gcd(a, b) != 1 or a * b - a - b > 999:
        a, b = sorted(rng.sample(range(3, 40), 2))
    answer = a * b - a - b
    thing = rng.choice(["stamps", "coins", "tokens", "tickets", "weights"])
    question = rng.choice(
        [
            f"A shop sells {thing} only with the values {a} and {b}. Find the largest total value "
            f"that no collection of these {thing} has.",
            f"Find the largest integer that cannot be written as {a}x + {b}y with nonnegative "
            "integers x and y.",
            f"Points are scored {a} or {b} at a time. What is the highest score that can never "
            "be reached?",
        ]
    )
    steps = [
        f"The numbers {a} and {b} are relatively prime, so only finitely many totals are missed.",
        f"In each residue class modulo {a}, the smallest reachable total is a multiple of {b}.",
        f"The last class to be reached starts at {b} * {a - 1} = {b * (a - 1)}.",
        f"The largest missed total is {a} less: {b * (a - 1)} - {a} = {answer}.",
    ]
    return Problem(question, steps, answer, {"a": a, "b": b})


@family
def modular_inverse(rng: Random) -> Problem:
    """Inverse modulo a number, by the Euclidean algorithm."""
    m = rng.randint(30, 999)
    a = rng.randint(3, m - 1)
    while gcd(a, m) != 1:
        a = rng.randint(3, m - 1)
    answer = pow(a, -1, m)
    question = rng.choice(
        [
            f"Find the positive integer x < {m} such that {a}x leaves remainder 1 when divided "
            f"by {m}.",
            f"Determine the multiplicative inverse of {a} modulo {m}.",
            f"What is the smallest positive x for which {m} divides {a}x - 1?",
        ]
    )
    steps = ["We run the Euclidean algorithm."]
    x, y = m, a
    while y:
        steps.append(f"{x} = {x // y} * {y} + {x % y}.")
        x, y = y, x % y
    quotient = (a * answer - 1) // m
    steps.append(f"Substituting back gives {a} * {answer} - {m} * {quotient} = 1.")
    steps.append(f"So x = {answer}.")
    return Problem(question, steps, answer, {"a": a, "m": m})


@family
def totient_count(rng: Random) -> Problem:
    """Count integers coprime to n up to n."""
    n = rng.randint(40, 2400)
    factors = factorisation(n)
    answer = prod(p ** (e - 1) * (p - 1) for p, e in factors.items())
    while len(factors) < 2 or answer > 999:
        n = rng.randint(40, 2400)
        factors = factorisation(n)
        answer = prod(p ** (e - 1) * (p - 1) for p, e in factors.items())
    question = rng.choice(
        [
            f"How many positive integers not exceeding {n} are relatively prime to {n}?",
            f"How many fractions k/{n} with 0 < k < {n} are in lowest terms?",
            f"Find the number of integers k with 1 <= k <= {n} and gcd(k, {n}) = 1.",
        ]
    )
    steps = [f"We factor {n} = {written(factors)} and remove the multiples of each prime."]
    left = n
    for p in factors:
        steps.append(f"Keeping {p - 1} of every {p}: {left} * {p - 1}/{p} = {left // p * (p - 1)}.")
        left = left // p * (p - 1)
    steps.append(f"There are {answer} such integers.")
    return Problem(question, steps, answer, {"n": n})


@family
def floor_sum(rng: Random) -> Problem:
    """Sum of floors of a linear sequence."""
    a, b = rng.randint(2, 19), rng.randint(3, 23)
    n = rng.randint(8, 24)
    terms = [k * a // b for k in range(1, n + 1)]
    while gcd(a, b) != 1 or sum(terms) > 999:
        a, b = rng.randint(2, 19), rng.randint(3, 23)
        terms = [k * a // b for k in range(1, n + 1)]
    answer = sum(terms)
    question = rng.choice(
        [
            f"Let floor(x) be the greatest integer not exceeding x. Find the sum of "
            f"floor({a}k/{b}) for k = 1, 2, ..., {n}.",
            f"Evaluate floor({a}/{b}) + floor({2 * a}/{b}) + ... + floor({n * a}/{b}).",
        ]
    )
    steps = ["We list the terms in groups of equal value."]
    for value in sorted(set(terms)):
        ks = [k for k, t in enumerate(terms, start=1) if t == value]
        where = f"k = {ks[0]}" if len(ks) == 1 else f"k = {ks[0]} to {ks[-1]}"
        steps.append(f"The value {value} occurs for {where}, adding {value * len(ks)}.")
    steps.append(f"The sum is {answer}.")
    return Problem(question, steps, answer, {"a": a, "b": b, "n": n})


@family
def multiples_union(rng: Random) -> Problem:
    """Inclusion and exclusion over multiples of two or three numbers."""
    n = rng.randint(100, 1800)
    a, b, c = sorted(rng.sample(range(2, 16), 3))
    lcm = a * b // gcd(a, b)
    both = n // lcm
    either = n // a + n // b - both
    third = [c * a // gcd(a, c), c * b // gcd(b, c), c * lcm // gcd(c, lcm)]
    removed = n // third[0] + n // third[1] - n // third[2]
    answer = either - removed
    if answer > 999:
        return multiples_union(rng)
    question = rng.choice(
        [
            f"How many integers from 1 to {n} are divisible by {a} or {b} but not by {c}?",
            f"Find the number of positive integers not exceeding {n} that are multiples of {a} or "
            f"of {b}, and are not multiples of {c}.",
        ]
    )
    steps = [
        f"There are {n // a} multiples of {a}, {n // b} of {b} and {both} of both.",
        f"So {n // a} + {n // b} - {both} = {either} numbers are divisible by {a} or {b}.",
        f"Among them, those divisible by {c} are multiples of {third[0]} or {third[1]}.",
        f"Their number is {n // third[0]} + {n // third[1]} - {n // third[2]} = {removed}.",
        f"What remains is {either} - {removed} = {answer}.",
    ]
    return Problem(question, steps, answer, {"n": n, "a": a, "b": b, "c": c})


@family
def base_conversion(rng: Random) -> Problem:
    """Value of a numeral in another base."""
    base = rng.randint(3, 9)
    digits = [rng.randint(1, base - 1)] + [rng.randrange(base) for _ in range(rng.randint(2, 4))]
    value = 0
    for d in digits:
        value = value * base + d
    if value > 999:
        return base_conversion(rng)
    numeral = "".join(map(str, digits))
    question = rng.choice(
        [
            f"The number {numeral} is written in base {base}. Find its value in base ten.",
            f"Convert {numeral} from base {base} to base ten.",
            f"In a land that counts in base {base}, a flock has {numeral} sheep. How many sheep "
            "is that in base ten?",
        ]
    )
    steps = ["We evaluate from the left, multiplying by the base and adding the next digit."]
    running = 0
    for d in digits:
        steps.append(f"{running} * {base} + {d} = {running * base + d}.")
        running = running * base + d
    steps.append(f"The value is {value}.")
    return Problem(question, steps, value, {"base": base, "numeral": int(numeral)})
