"""Word problems put together from events: an amount that grows and shrinks, then a question.

A plot is the world, the ordered kinds of events and the kind of question. Two problems of one
plot differ in numbers and in wording; the wording alone has thousands of forms.
"""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from demo.corpora.families.grammar import (
    CONTAINERS,
    DAYS,
    ITEMS,
    NAMES,
    PLACES,
    SHOPS,
    phrase,
    phrase_of,
)
from demo.corpora.families.problem import Problem


class Plotted(NamedTuple):
    """A problem and the plot that it follows, such as `chain/things/gain/halve/price`."""

    problem: Problem
    plot: str


PlotMaker = Callable[[Random], Plotted]
HELD_OUT_PER_MILLE = 80
"""Share of the plots that is never trained on."""

EVENTS = ("gain", "lose", "gain_groups", "lose_groups", "times", "part", "percent")
ENDINGS = ("now", "share", "price", "need", "full", "more", "multiple", "last")
WORLDS = ("things", "stock", "money")

_OPENING = {
    "things": (
        "{one} [has|owns|keeps|holds|counts] {n} {items}[| at home| in a {box}| in the {place}].",
        "[At first|In the beginning|In the morning|On {day}|Last week] {one} [had|owned|kept|"
        "counted] {n} {items}.",
        "[There are|There were] {n} {items} in {one}'s {box}.",
        "{one} [starts|begins] [the week|the day|the month|the game] with {n} {items}.",
        "{one} and {two} [collect|like|trade|sort] {items}, and {one} [has|begins with] {n}[| of "
        "them].",
        "{n} {items} [lie|are kept|are stored] in the {box} [of|that belongs to] {one}.",
    ),
    "stock": (
        "[A|The] {shop} has {n} {items}[| in stock| on its shelves].",
        "[In the morning|On {day}|At opening time|At first] [a|the] {shop} [has|holds|offers] {n} "
        "{items}.",
        "{one} [runs|manages|looks after] [a|the] {shop} with {n} {items}[| in it| on the "
        "shelves].",
        "[There are|There were] {n} {items} at the {shop} [where {one} works|of {one}|that {one} "
        "owns].",
    ),
    "money": (
        "{one} has [${n}|{n} dollars][| in a {box}| in the bank| at home].",
        "[At first|On {day}|In the beginning|Last month] {one} had [${n}|{n} dollars].",
        "{one} [starts|begins] [the week|the month|the trip|the holiday] with [${n}|{n} dollars].",
        "In {one}'s [purse|wallet|{box}|account] there [are|were] {n} dollars.",
    ),
}
_EVENT = {
    ("gain", "things"): (
        "[Then|Later|After that|On {day}|] {two} gives {one} {a} more[| {items}].",
        "{one} [finds|buys|gets|receives|wins|picks up] {a} [more|additional|other] {items} [in "
        "the {place}|on {day}|from {two}|the next day|].",
        "[A neighbor|An uncle|A friend|A cousin|{two}] [brings|adds|sends] {a} {items}[| as a "
        "gift].",
    ),
    ("gain", "stock"): (
        "[Then|Later|On {day}|At noon] {a} [more|new|further] {items} [arrive|are delivered|come "
        "in].",
        "{two} [delivers|brings|unloads] {a} [more|further|new] {items}.",
        "A customer [returns|brings back] {a} [of the|] {items}[| on {day}].",
    ),
    ("gain", "money"): (
        "[Then|Later|On {day}|After that|] {two} gives {one} {a} dollars[| as a present].",
        "{one} [earns|gets|finds|wins|receives] [${a}|{a} dollars] [for some work|from {two}|on "
        "{day}|in the {place}|for helping {two}].",
    ),
    ("lose", "things"): (
        "[Then|Later|After that|On {day}|] {one} gives {a} of [them|the {items}] to {two}.",
        "{a} [of them|of the {items}] [are lost|get lost|break|are thrown away|go missing][| in "
        "the "
        "{place}| on {day}].",
        "{one} [sells|loses|uses|drops|gives away|throws away] {a} [of them|of the {items}|{items}]"
        "[| on {day}| in the {place}].",
    ),
    ("lose", "stock"): (
        "[Then|Later|On {day}|By noon] {a} [of them|{items}|of the {items}] are [sold|given away|"
        "sent back|thrown away].",
        "{two} [buys|takes|orders|carries away] {a} [of them|of the {items}|{items}].",
    ),
    ("lose", "money"): (
        "[Then|Later|On {day}|After that|] {one} [spends|pays|loses|gives away] [${a}|{a} dollars]"
        "[| on a {box}| for a ticket| for lunch| for {two}].",
        "{one} [buys|orders] [a {box}|a book|a meal|a present] [for|that costs] [${a}|{a} "
        "dollars].",
    ),
    ("gain_groups", "things"): (
        "{one} [buys|gets|finds|receives] {b} [bags|packs|boxes|bundles|sets] [with|of] {a} "
        "{items} "
        "each[| from {two}| on {day}].",
        "[On each of the next {b} days|Every day for {b} days|For {b} days in a row] {one} [adds|"
        "gets|finds|makes] {a} more.",
        "{b} [friends|cousins|neighbors|visitors] [give|bring|send] {one} {a} {items} each.",
    ),
    ("gain_groups", "stock"): (
        "[Then|Later|On {day}] {b} [crates|boxes|pallets|cartons] [arrive|are delivered], [with "
        "{a} "
        "{items} in each|each with {a} {items}|each holding {a} {items}].",
        "[Every day|Each morning] for {b} days {two} [brings|delivers] {a} {items}.",
    ),
    ("gain_groups", "money"): (
        "{one} [works|helps {two}|walks dogs|mows lawns|delivers papers] for {b} [hours|days] and "
        "[earns|gets|is paid] [${a}|{a} dollars] [an hour|a day|each time].",
        "{one} [sells|makes and sells] {b} [cakes|drawings|scarves|baskets] for [${a}|{a} dollars] "
        "[each|apiece].",
    ),
    ("lose_groups", "things"): (
        "{one} gives {a} [{items}|of them] to each of {b} [friends|cousins|children|guests|"
        "classmates].",
        "[On each of the next {b} days|Every day for {b} days] {one} [uses|gives away|sells|loses] "
        "{a} of [them|the {items}].",
    ),
    ("lose_groups", "stock"): (
        "{b} [customers|visitors|schools|families] [buy|take|order] {a} {items} each.",
        "[Every day for {b} days|On each of {b} days] {a} [of them|{items}] are [sold|handed out].",
    ),
    ("lose_groups", "money"): (
        "{one} [buys|pays for|orders] {b} [tickets|books|pizzas|toys|plants] at [${a}|{a} dollars] "
        "[each|apiece].",
        "[Every day for {b} days|On each of {b} days] {one} spends [${a}|{a} dollars][| on the "
        "bus| "
        "on food].",
    ),
    ("times", "things"): (
        "[Then|Later|In the end|After a month|] {one} has {times} as many.",
        "[Over the year|With the help of {two}|In the next weeks] the number [of {items}|] [grows "
        "to {times} as many|becomes {times} as large].",
    ),
    ("times", "stock"): (
        "[Then|Later|The next week|Before the holidays] the {shop} has {times} as many.",
        "A delivery makes the number of {items} {times} as large.",
    ),
    ("times", "money"): (
        "[Then|Later|After some years|] {one} has {times} as much.",
        "[{two} promises|The parents agree] to make the amount {times} as large, and [does "
        "so|keeps "
        "the promise].",
    ),
    ("part", "things"): (
        "{one} [gives|hands|sends|lends] [one {nth}|a {nth}] of [them|the {items}] to {two}.",
        "[One {nth}|A {nth}] of [them|the {items}] [are|turn out to be] [broken|spoiled|lost|too "
        "old] and [are thrown away|cannot be kept].",
    ),
    ("part", "stock"): (
        "[One {nth}|A {nth}] of [them|the {items}] are [sold|damaged and sent back|given to {two}]"
        "[| on {day}].",
    ),
    ("part", "money"): (
        "{one} [spends|gives {two}|donates|puts aside] [one {nth}|a {nth}] of [it|the money][| on "
        "{day}].",
    ),
    ("percent", "things"): (
        "{one} [gives away|sells|loses|uses] {p}% of [them|the {items}][| on {day}].",
        "{p}% of [them|the {items}] go to {two}.",
    ),
    ("percent", "stock"): (
        "[On {day}|In the afternoon|During a sale|] {p}% of [them|the {items}] are sold.",
        "{two} [buys|orders] {p}% of [them|the {items}].",
    ),
    ("percent", "money"): (
        "{one} [spends|donates|saves and puts away|gives {two}] {p}% of [it|the money].",
    ),
}
_NEW = "[Now|Then|After this|So|Next,|This way|] [there are|this makes|that makes|we have|it is] "
_STEP = {
    "gain": (_NEW + "{x} + {a} = {y}[| {items}].", "Adding {a} gives {x} + {a} = {y}[| {items}]."),
    "lose": (
        _NEW + "{x} - {a} = {y}[| {items}][| left].",
        "[Without these|After that] {x} - {a} = {y} [{items}|] [remain|are left].",
    ),
    "gain_groups": (
        "[The|All the] [new ones|additions] are {b} * {a} = {g}[|, which makes {x} + {g} = {y}].",
        "{b} times {a} is {b} * {a} = {g}, [so there are|and this gives] {x} + {g} = {y}[| "
        "{items}].",
    ),
    "lose_groups": (
        "[This takes|This uses|That is] {b} * {a} = {g}, [so|and] {x} - {g} = {y} [{items}|] [are "
        "left|remain].",
        "{b} * {a} = {g} [{items}|] [go|are gone], and {x} - {g} = {y} [remain|are left|stay].",
    ),
    "times": (
        _NEW + "{x} * {k} = {y}[| {items}].",
        "{times} as many is {x} * {k} = {y}[| {items}].",
    ),
    "part": (
        "[One|A] {nth} of {x} is {x} / {k} = {g}, [so|and] {x} - {g} = {y} [{items}|] [are left|"
        "remain].",
        "[This takes|That is] {x} / {k} = {g}[| {items}], [which leaves|leaving] {x} - {g} = {y}.",
    ),
    "percent": (
        "{p}% of {x} is {x} * {p} / 100 = {g}, [so|and] {x} - {g} = {y} [{items}|] [are "
        "left|remain].",
        "[This takes|That is] {x} * {p} / 100 = {g}[| {items}], [which leaves|leaving] {x} - {g} = "
        "{y}.",
    ),
}
_ENDING = {
    "now": (
        "[How many {items}|What number of {items}] [does {who} have|are there] [now|in the end|at "
        "the end|after all this]?",
    ),
    "share": (
        "[In the end|Finally|At last] [they|the {items}] are [shared|split|divided] "
        "[equally|evenly] "
        "[among|between] {m} [people|children|groups|friends]. How many {items} does each [get|"
        "receive]?",
    ),
    "need": (
        "{One} [wants|needs|hopes for|aims at] {goal} {items}[| in all| altogether]. How many "
        "[more|"
        "more {items}] [are needed|are missing|are still needed]?",
    ),
    "price": (
        "[All of them|The {items}|All that are left] are then sold for [${q}|{q} dollars] [each|"
        "apiece]. How [many dollars|much money, in dollars,] [does this bring|is that]?",
    ),
    "full": (
        "[They|The {items}] are packed [in|into] [boxes|bags|packs|sets] of {m}. How many [full "
        "ones|full packs] does this [give|make]?",
    ),
    "more": (
        "{two} has {d} more {items} than {one}[| now]. How many [{items}|] do [the two|{one} and "
        "{two}] have [together|in all|altogether]?",
    ),
    "multiple": (
        "{two} has {times} as many {items} as {one}[| has now]. How many [{items}|] do [the two|"
        "{one} and {two}] have [together|in all|altogether]?",
    ),
    "last": (
        "[From then on|From now on|After that] {m} {items} are [used|needed|gone] [every day|each "
        "day|a day]. [How many days|For how many days] [will they last|do they last]?",
    ),
}
_END_STEP = {
    "now": ("[So there are|This means|In the end it is|The answer is] {x}[| {items}].",),
    "share": (
        "[Each gets|Everybody gets|Every one gets|One share is] {x} / {m} = {z}[| {items}].",
    ),
    "need": (
        "[Still missing are|What is missing is|The difference is] {goal} - {x} = {z}[| {items}].",
    ),
    "price": (
        "[The sale brings|They bring|Together they are worth|That is] {x} * {q} = {z} dollars.",
    ),
    "full": (
        "{m} * {z} = {zm} is the largest multiple of {m} up to {x}, so [it is|there are] {z}.",
        "[Dividing|If we divide] {x} by {m} [gives|we get] {z} and {rest} over, [so {z} are "
        "full|and "
        "the answer is {z}].",
    ),
    "more": ("{two} has {x} + {d} = {w}[| {items}], [so together|and both have] {x} + {w} = {z}.",),
    "multiple": (
        "{two} has {x} * {k} = {w}[| {items}], [so together|and both have] {x} + {w} = {z}.",
    ),
    "last": ("[They last|This is enough for|That lasts] {x} / {m} = {z} days.",),
}
_NTH = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 6: "sixth", 8: "eighth", 10: "tenth"}
_TIMES = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}
_SMALL = 2
_LARGE = 3000


def _divisors(x: int) -> list[int]:
    return [d for d in range(2, 13) if x % d == 0]


def _event(kind: str, x: int, rng: Random) -> dict[str, int] | None:
    """Numbers of one event on the amount x and the new amount y; None where it does not fit."""
    small, count = rng.randint(2, 60), rng.randint(2, 9)
    got: dict[str, int] | None = None
    if kind == "gain":
        got = {"a": small, "y": x + small}
    elif kind == "lose" and x > small + _SMALL:
        got = {"a": small, "y": x - small}
    elif kind == "gain_groups":
        a = rng.randint(2, 24)
        got = {"a": a, "b": count, "g": a * count, "y": x + a * count}
    elif kind == "lose_groups":
        a = rng.randint(2, 12)
        got = {"a": a, "b": count, "g": a * count, "y": x - a * count}
    elif kind == "times":
        k = rng.choice([2, 2, 3, 4, 5])
        got = {"k": k, "y": x * k}
    elif kind == "part":
        fits = [k for k in _NTH if x % k == 0]
        if fits:
            k = rng.choice(fits)
            got = {"k": k, "g": x // k, "y": x - x // k}
    elif kind == "percent":
        fits = [p for p in (10, 20, 25, 30, 40, 50, 60, 75, 80) if x * p % 100 == 0]
        if fits:
            p = rng.choice(fits)
            got = {"p": p, "g": x * p // 100, "y": x - x * p // 100}
    return got if got is not None and _SMALL < got["y"] < _LARGE else None


def _ending(kind: str, x: int, rng: Random) -> dict[str, int] | None:
    """Numbers of the question about the amount x and its answer z; None where it does not fit."""
    if kind == "now":
        return {"z": x}
    if kind in ("share", "last"):
        divisors = _divisors(x)
        m = rng.choice(divisors) if divisors else 0
        return {"m": m, "z": x // m} if m and x > m else None
    if kind == "need":
        goal = x + rng.randint(3, 200)
        return {"goal": goal, "z": goal - x}
    if kind == "price":
        q = rng.randint(2, 15)
        return {"q": q, "z": x * q}
    if kind == "full":
        m = rng.randint(3, 12)
        z = x // m
        return {"m": m, "z": z, "zm": z * m, "rest": x - z * m} if z else None
    if kind == "more":
        d = rng.randint(2, 90)
        return {"d": d, "w": x + d, "z": 2 * x + d}
    k = rng.choice(list(_TIMES))
    return {"k": k, "w": x * k, "z": x * (k + 1)}


def chain(rng: Random) -> Plotted:
    """An amount through two to four events, then a question."""
    world = rng.choice(WORLDS)
    endings = [e for e in ENDINGS if world != "money" or e not in ("price", "full")]
    ending = rng.choice(endings)
    kinds = [rng.choice(EVENTS) for _ in range(rng.randint(2, 4))]
    one, two = rng.sample(NAMES, 2)
    shop = rng.choice(SHOPS)
    items = "dollars" if world == "money" else rng.choice(ITEMS)
    names = {"one": one, "two": two, "items": items, "shop": shop, "box": rng.choice(CONTAINERS)}
    if world == "stock":
        names["who"], names["One"] = f"the {shop}", f"The {shop}"
    else:
        names["who"] = names["One"] = one
    n = x = rng.randint(8, 240)

    def fields(values: dict[str, int]) -> dict[str, object]:
        k = values.get("k", 2)
        extra = {"times": _TIMES.get(k, ""), "nth": _NTH.get(k, "")}
        here = {"day": rng.choice(DAYS), "place": rng.choice(PLACES)}
        return {**names, **extra, **here, "n": n, "x": x, **values}

    told = [phrase_of(_OPENING[world], rng, fields({}))]
    steps: list[str] = []
    params = {"start": n}
    for i, kind in enumerate(kinds):
        found = _event(kind, x, rng)
        if found is None:
            return chain(rng)
        told.append(phrase_of(_EVENT[kind, world], rng, fields(found)))
        step = phrase_of(_STEP[kind], rng, fields(found))
        if kind == "gain_groups" and str(found["y"]) not in step:
            step += " " + phrase(_STEP["gain"][0], rng, fields({**found, "a": found["g"]}))
        steps.append(step)
        params[f"event{i}"] = EVENTS.index(kind)
        params |= {f"{name}{i}": found[name] for name in ("a", "b", "k", "p") if name in found}
        x = found["y"]
    asked = _ending(ending, x, rng)
    if asked is None:
        return chain(rng)
    if world == "stock" and ending in ("more", "multiple"):
        names["one"] = names["who"]
    told.append(phrase_of(_ENDING[ending], rng, fields(asked)))
    steps.append(phrase_of(_END_STEP[ending], rng, fields(asked)))
    params["ending"] = ENDINGS.index(ending)
    params |= {f"{name}_end": asked[name] for name in ("m", "goal", "q", "d", "k") if name in asked}
    problem = Problem(" ".join(told), steps, asked["z"], params)
    return Plotted(problem, "/".join(["chain", world, *kinds, ending]))
