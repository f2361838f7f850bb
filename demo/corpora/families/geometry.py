"""Geometry with integer answers."""

from fractions import Fraction
from math import gcd, isqrt
from random import Random

from demo.corpora.families.problem import Problem, family


def _triple(rng: Random, limit: int) -> tuple[int, int, int]:
    """Return the sides of a right triangle with integer sides, hypotenuse up to the limit."""
    while True:
        m = rng.randint(2, 12)
        n = rng.randint(1, m - 1)
        k = rng.randint(1, 8)
        a, b, c = k * (m * m - n * n), k * 2 * m * n, k * (m * m + n * n)
        if c <= limit:
            return (a, b, c) if rng.random() < 0.5 else (b, a, c)


@family
def triangle_area(rng: Random) -> Problem:
    """Area of a triangle with integer sides, by Heron's formula."""
    a, h, c = _triple(rng, 60)
    b, h2, d = _triple(rng, 60)
    while h != h2:
        a, h, c = _triple(rng, 60)
        b, h2, d = _triple(rng, 60)
    base = a + b
    area = base * h // 2
    if area > 999 or base * h % 2:
        return triangle_area(rng)
    sides = [c, d, base]
    rng.shuffle(sides)
    x, y, z = sides
    half = Fraction(x + y + z, 2)
    question = rng.choice(
        [
            f"Find the area of a triangle with side lengths {x}, {y} and {z}.",
            f"In triangle ABC, AB = {x}, BC = {y} and CA = {z}. Find its area.",
            f"A triangular field has sides of {x}, {y} and {z} meters. How many square meters is "
            "its area?",
        ]
    )
    product = half * (half - x) * (half - y) * (half - z)
    steps = [
        f"The semiperimeter is ({x} + {y} + {z})/2 = {half}.",
        f"By Heron's formula the square of the area is {half} * {half - x} * {half - y} * "
        f"{half - z} = {product}.",
        f"The area is {isqrt(int(product))}.",
    ]
    return Problem(question, steps, area, {"x": x, "y": y, "z": z})


@family
def right_triangle(rng: Random) -> Problem:
    """A length or area in a right triangle with integer sides."""
    a, b, c = _triple(rng, 400)
    kind = rng.choice(["inradius", "hypotenuse", "perimeter", "leg"])
    answer = {"inradius": (a + b - c) // 2, "hypotenuse": c, "perimeter": a + b + c, "leg": b}[kind]
    if answer > 999:
        return right_triangle(rng)
    legs = f"legs {a} and {b}"
    asked = {
        "inradius": f"A right triangle has {legs}. Find the radius of its inscribed circle.",
        "hypotenuse": f"A right triangle has {legs}. Find the length of its hypotenuse.",
        "perimeter": f"Find the perimeter of the right triangle with {legs}.",
        "leg": f"A ladder of length {c} leans against a wall with its foot {a} from the wall. "
        "How high does it reach?",
    }[kind]
    steps = [f"The hypotenuse satisfies c^2 = {a}^2 + {b}^2 = {a * a + b * b}, so c = {c}."]
    if kind == "leg":
        steps = [f"The height satisfies h^2 = {c}^2 - {a}^2 = {b * b}, so h = {b}."]
    if kind == "inradius":
        steps.append(f"In a right triangle r = (a + b - c)/2 = ({a} + {b} - {c})/2 = {answer}.")
    if kind == "perimeter":
        steps.append(f"The perimeter is {a} + {b} + {c} = {answer}.")
    number = ["inradius", "hypotenuse", "perimeter", "leg"].index(kind)
    return Problem(asked, steps, answer, {"a": a, "b": b, "c": c, "kind": number})


@family
def polygon_area(rng: Random) -> Problem:
    """Shoelace formula for a lattice triangle or quadrilateral."""
    corners = rng.choice([3, 4])
    if corners == 3:
        points = [(rng.randint(-20, 20), rng.randint(-20, 20)) for _ in range(3)]
    else:
        x, y = rng.randint(3, 20), rng.randint(3, 20)
        points = [
            (-x, rng.randint(-3, 3)),
            (rng.randint(-3, 3), -y),
            (rng.randint(4, 20), rng.randint(-3, 3)),
            (rng.randint(-3, 3), rng.randint(4, 20)),
        ]
    following = points[1:] + points[:1]
    crosses = [p[0] * q[1] - q[0] * p[1] for p, q in zip(points, following, strict=True)]
    twice = abs(sum(crosses))
    if not 0 < twice <= 999:
        return polygon_area(rng)
    listed = ", ".join(f"({x}, {y})" for x, y in points)
    question = rng.choice(
        [
            f"A polygon has vertices {listed}, in this order. Find twice its area.",
            f"Let K be the area of the polygon with consecutive vertices {listed}. Find 2K.",
        ]
    )
    steps = ["By the shoelace formula twice the area is |sum of x_i y_(i+1) - x_(i+1) y_i|."]
    for p, q, cross in zip(points, following, crosses, strict=True):
        steps.append(f"({p[0]})({q[1]}) - ({q[0]})({p[1]}) = {cross}.")
    steps.append(f"The sum is {sum(crosses)}, so twice the area is {twice}.")
    params = {f"x{i}": p[0] for i, p in enumerate(points)}
    return Problem(question, steps, twice, params | {f"y{i}": p[1] for i, p in enumerate(points)})


@family
def lattice_interior(rng: Random) -> Problem:
    """Interior lattice points of a triangle, by Pick's theorem."""
    a, b = rng.randint(3, 45), rng.randint(3, 45)
    boundary = a + b + gcd(a, b)
    interior = (a * b - boundary + 2) // 2
    if interior > 999:
        return lattice_interior(rng)
    question = rng.choice(
        [
            f"How many points with integer coordinates lie strictly inside the triangle with "
            f"vertices (0, 0), ({a}, 0) and (0, {b})?",
            f"Find the number of pairs (x, y) of positive integers with x/{a} + y/{b} < 1.",
        ]
    )
    steps = [
        f"The triangle with corners (0, 0), ({a}, 0), (0, {b}) has area {Fraction(a * b, 2)}.",
        f"Its boundary holds {a} + {b} + gcd({a}, {b}) = {boundary} lattice points.",
        "By Pick's theorem, area = interior + boundary/2 - 1.",
        f"So interior = {Fraction(a * b, 2)} - {Fraction(boundary, 2)} + 1 = {interior}.",
    ]
    return Problem(question, steps, interior, {"a": a, "b": b})


@family
def box_diagonal(rng: Random) -> Problem:
    """Surface and diagonal of a box from its edges' sum."""
    a, b, c = (rng.randint(2, 16) for _ in range(3))
    edges, surface = 4 * (a + b + c), 2 * (a * b + b * c + c * a)
    square = a * a + b * b + c * c
    question = rng.choice(
        [
            f"The edges of a rectangular box have total length {edges} and its surface area is "
            f"{surface}. Find the square of the length of its space diagonal.",
            f"A box with edges x, y, z satisfies 4(x + y + z) = {edges} and "
            f"2(xy + yz + zx) = {surface}. Find x^2 + y^2 + z^2.",
        ]
    )
    steps = [
        f"The three edges at a corner add up to {edges}/4 = {a + b + c}.",
        f"The square of the sum is {(a + b + c) ** 2} and contains the surface area {surface}.",
        f"So the square of the diagonal is {(a + b + c) ** 2} - {surface} = {square}.",
    ]
    return Problem(question, steps, square, {"a": a, "b": b, "c": c})


@family
def circle_chord(rng: Random) -> Problem:
    """Length of a chord from radius and distance."""
    a, b, c = _triple(rng, 480)
    if 2 * b > 999:
        return circle_chord(rng)
    question = rng.choice(
        [
            f"A chord of a circle of radius {c} lies at distance {a} from the center. Find the "
            "length of the chord.",
            f"A plane at distance {a} from the center of a sphere of radius {c} cuts it in a "
            "circle. Find the diameter of this circle.",
            f"A circular pond has radius {c}. A straight rope across it passes {a} from the "
            "center. How long is the part of the rope above the water?",
        ]
    )
    steps = [
        "The radius to the midpoint of the chord is perpendicular to it.",
        f"Half the chord is the square root of {c}^2 - {a}^2 = {c * c - a * a}, which is {b}.",
        f"The whole length is 2 * {b} = {2 * b}.",
    ]
    return Problem(question, steps, 2 * b, {"radius": c, "distance": a})


@family
def similar_triangles(rng: Random) -> Problem:
    """A length cut by a parallel line."""
    ratio = Fraction(rng.randint(1, 11), rng.randint(2, 12))
    whole, base = rng.randint(12, 300), rng.randint(12, 600)
    if ratio >= 1 or (whole * ratio).denominator != 1 or (base * ratio).denominator != 1:
        return similar_triangles(rng)
    part, answer = int(whole * ratio), int(base * ratio)
    question = rng.choice(
        [
            f"In triangle ABC, point D lies on AB with AD = {part} and AB = {whole}. The line "
            f"through D parallel to BC meets AC at E. If BC = {base}, find DE.",
            f"A tower of height {whole} casts a shadow of length {base}. How long is the shadow of "
            f"a post of height {part} beside it at the same moment?",
        ]
    )
    steps = [
        "The two triangles are similar, as corresponding angles are equal.",
        f"The ratio of the small one to the large one is {part}/{whole} = {ratio}.",
        f"The wanted length is {base} * {ratio} = {answer}.",
    ]
    return Problem(question, steps, answer, {"part": part, "whole": whole, "base": base})


@family
def regular_polygon(rng: Random) -> Problem:
    """Diagonals and angles of polygons."""
    n = rng.randint(5, 44)
    diagonals = n * (n - 3) // 2
    angle = Fraction(180 * (n - 2), n)
    kind = rng.choice(["diagonals", "sides", "angle"])
    if kind == "angle" and angle.denominator != 1:
        kind = "diagonals"
    where = rng.choice(["A convex polygon", "A regular polygon", "A fence in convex position"])
    if kind == "sides":
        question = f"{where} has {diagonals} diagonals. How many sides does it have?"
        steps = [
            f"A polygon with n sides has n(n - 3)/2 diagonals, so n(n - 3) = {2 * diagonals}.",
            f"Since {n} * {n - 3} = {2 * diagonals}, there are {n} sides.",
        ]
        answer = n
    elif kind == "diagonals":
        question = f"{where} has {n} sides. How many diagonals does it have?"
        steps = [
            f"Each of the {n} vertices is joined by diagonals to {n - 3} others.",
            f"Every diagonal is counted twice: {n} * {n - 3} / 2 = {diagonals}.",
        ]
        answer = diagonals
    else:
        question = f"Find, in degrees, each interior angle of a regular polygon with {n} sides."
        steps = [
            f"The angles add up to 180 * ({n} - 2) = {180 * (n - 2)} degrees.",
            f"Each is {180 * (n - 2)} / {n} = {angle} degrees.",
        ]
        answer = int(angle)
    code = ["diagonals", "sides", "angle"].index(kind)
    return Problem(question, steps, answer, {"n": n, "kind": code})
