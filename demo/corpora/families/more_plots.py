"""More word problems put together from parts: comparisons, purchases, work at a rate."""

from random import Random

from demo.corpora.families.grammar import (
    DAYS,
    GOODS,
    ITEMS,
    NAMES,
    PLACES,
    SHOPS,
    TASKS,
    phrase_of,
)
from demo.corpora.families.plots import Plotted
from demo.corpora.families.problem import Problem

_TIMES = {2: "twice", 3: "three times", 4: "four times", 5: "five times", 6: "six times"}
_NTH = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}

RELATIONS = ("more", "fewer", "times", "part")
_RELATION = {
    "more": (
        "{b} [has|{did}] {d} more {items} than {a}.",
        "[If we add {d} to the {items} of {a}, we get those of {b}|{b} is {d} {items} ahead of "
        "{a}].",
        "{b} [has|{did}] as many {items} as {a} and {d} [more|besides].",
    ),
    "fewer": (
        "{b} [has|{did}] {d} [fewer {items}|{items} fewer] than {a}.",
        "{a} [has|{did}] {d} more {items} than {b}.",
        "{b} is {d} {items} behind {a}.",
    ),
    "times": (
        "{b} [has|{did}] {times} as many {items} as {a}.",
        "The [number of {items}|{items}] of {b} [is|come to] {times} [that|the number] of {a}.",
    ),
    "part": (
        "{b} [has|{did}] [only|just|] {part} as many {items} as {a}.",
        "{a} [has|{did}] {times} as many {items} as {b}.",
    ),
}
_RELATION_STEP = {
    "more": ("[So|Then|Now|] {b} [has|{did}] {x} + {d} = {y}[| {items}].",),
    "fewer": ("[So|Then|Now|] {b} [has|{did}] {x} - {d} = {y}[| {items}].",),
    "times": (
        "[So|Then|Now|] {b} [has|{did}] {x} * {k} = {y}[| {items}].",
        "{times} {x} is {x} * {k} = {y}[|, which is the number of {b}].",
    ),
    "part": (
        "[So|Then|Now|] {b} [has|{did}] {x} / {k} = {y}[| {items}].",
        "{part} of {x} is {x} / {k} = {y}[|, which is the number of {b}].",
    ),
}
COMPARED = ("total", "difference", "average", "left")
_COMPARED = {
    "total": (
        "How many {items} [do they have|are there|is that] [in all|together|altogether]?",
        "[What is|Find] the total number of {items}[| of all of them].",
    ),
    "difference": ("[How many more {items} does {high} have than {low}|By how much do {high} and "
                   "{low} differ]?",),
    "average": (
        "How many {items} [is that on average|does each have on average]?",
        "[What is|Find] the average number of {items}.",
    ),
    "left": (
        "They need {goal} {items} [in all|altogether|together]. How many [more|] are missing?",
        "[Together|In all] they want {goal} {items}. How many more [must they find|do they need]?",
    ),
}  # fmt: skip
_COMPARED_STEP = {
    "total": ("[Together|In all|Altogether] [there are|they have] {sum} = {total}[| {items}].",),
    "difference": ("[The difference is|They differ by] {top} - {bottom} = {z}[| {items}].",),
    "average": (
        "[Together|In all] there are {sum} = {total}[| {items}]. The average is {total} / {count} "
        "= "
        "{z}.",
    ),
    "left": (
        "[Together|In all] there are {sum} = {total}[| {items}]. [Missing are|They still need] "
        "{goal} - {total} = {z}.",
    ),
}


def compared(rng: Random) -> Plotted:
    """Three or four people, each compared with an earlier one."""
    count = rng.randint(3, 4)
    people = rng.sample(NAMES, count)
    did = rng.choice(["collected", "sold", "picked", "counted", "gathered", "made"])
    names = {"items": rng.choice(ITEMS), "did": did}
    amounts = [rng.randint(6, 150)]
    ending = rng.choice(COMPARED)
    params = {"start": amounts[0]}
    told = [
        phrase_of(
            (
                "{a} [has|{did}] {n} {items}[| on {day}| in the {place}].",
                "[On {day}|Last week|In the {place}] {a} {did} {n} {items}.",
                "[Some|{count}] friends [like|look for|compare their|count their] {items}. {a} "
                "[has|{did}] {n}[| of them].",
            ),
            rng,
            {**names, "a": people[0], "n": amounts[0], "day": rng.choice(DAYS), "count": count,
             "place": rng.choice(PLACES)},
        )
    ]  # fmt: skip
    steps: list[str] = []
    plot = []
    for i in range(1, count):
        kind, of = rng.choice(RELATIONS), rng.randrange(i)
        x, d, k = amounts[of], rng.randint(2, 60), rng.choice(list(_NTH))
        if (kind == "part" and x % k) or (kind == "fewer" and d >= x):
            return compared(rng)
        y = {"more": x + d, "fewer": x - d, "times": x * k, "part": x // k}[kind]
        fields = {**names, "a": people[of], "b": people[i], "x": x, "y": y, "d": d, "k": k}
        fields |= {"times": _TIMES[k], "part": _NTH[k]}
        told.append(phrase_of(_RELATION[kind], rng, fields))
        steps.append(phrase_of(_RELATION_STEP[kind], rng, fields))
        params |= {f"kind{i}": RELATIONS.index(kind), f"of{i}": of, f"d{i}": d, f"k{i}": k}
        amounts.append(y)
        plot.append(f"{kind}{of}")
    total, goal = sum(amounts), sum(amounts) + rng.randint(5, 150)
    top, bottom = max(amounts), min(amounts)
    if (ending == "average" and total % count) or top == bottom or total > 3000:
        return compared(rng)
    z = {
        "total": total, "difference": top - bottom, "average": total // count, "left": goal - total
    }[ending]  # fmt: skip
    fields = {**names, "goal": goal, "total": total, "top": top, "bottom": bottom, "z": z}
    fields |= {"high": people[amounts.index(top)], "low": people[amounts.index(bottom)]}
    fields |= {"sum": " + ".join(map(str, amounts)), "count": count}
    told.append(phrase_of(_COMPARED[ending], rng, fields))
    steps.append(phrase_of(_COMPARED_STEP[ending], rng, fields))
    params |= {"ending": COMPARED.index(ending), "goal": goal, "count": count}
    return Plotted(Problem(" ".join(told), steps, z, params), "/".join(["compare", *plot, ending]))


CHANGES = ("none", "percent", "coupon", "fee")
PAID = ("total", "change", "split", "enough")
_BUY = (
    "{who} [buys|takes|orders|chooses] {q} {good} [at|for] ${p} [each|apiece].",
    "[Then|Next|Also|] {who} [buys|takes|orders] {q} {good}, [each of which costs|one for|each at] "
    "{p} dollars.",
    "{q} {good} at ${p} [each|apiece] [go|come] [into the basket|on the bill|too].",
    "A {single} costs [${p}|{p} dollars], and {who} [needs|takes|buys] {q}[| of them].",
)
_BUY_STEP = (
    "[The|All] {good} cost {q} * {p} = {g}[| dollars].",
    "[For|On] the {good} {who} [pays|spends] {q} * {p} = {g}[| dollars].",
    "{q} {good} [make|come to|are] {q} * {p} = {g} dollars.",
)
_CHANGE = {
    "none": ("",),
    "percent": (
        "[With a member card|On {day}|For students|Because of a sale] [the whole bill|everything] "
        "is {c}% cheaper.",
        "[The shop|The owner] takes {c}% off [the bill|the total].",
    ),
    "coupon": (
        "A coupon takes ${c} off [the bill|the total|the price].",
        "[The owner|{two}] [takes|knocks] {c} dollars off[| the bill].",
    ),
    "fee": (
        "[Delivery|Wrapping|Shipping] costs ${c}[| more| extra].",
        "[A bag|The wrapping paper|Parking] costs {c} dollars[| more].",
    ),
}
_CHANGE_STEP = {
    "none": ("",),
    "percent": (
        "The [discount|reduction] is {x} * {c} / 100 = {g}, [so|and] {x} - {g} = {y} [dollars|] "
        "[are to be paid|remain].",
    ),
    "coupon": ("[With the coupon|After that] it is {x} - {c} = {y}[| dollars].",
               "{x} less {c} is {x} - {c} = {y}[| dollars]."),
    "fee": ("With [this|the extra cost] it is {x} + {c} = {y}[| dollars].",),
}  # fmt: skip
_PAID = {
    "total": (
        "How [many dollars|much, in dollars,] does {who} [pay|spend][| in all| altogether]?",
    ),
    "change": (
        "{who} [pays with|hands over|gives the cashier] [${m}|{m} dollars]. How many dollars [does "
        "{who} get back|are given back|is the change]?",
    ),
    "split": (
        "[The bill|The cost] is [split|shared] [equally|evenly] [among|by] {m} [people|friends]. "
        "How "
        "many dollars does each pay?",
    ),
    "enough": (
        "{who} has only [${m}|{m} dollars]. How many [more dollars|dollars more] [are needed|does "
        "{who} need]?",
    ),
}
_PAID_STEP = {
    "total": ("[So|In all|Altogether] {who} [pays|spends] {x} dollars.",),
    "change": ("[The change is|{who} gets back] {m} - {x} = {z}[| dollars].",),
    "split": ("Each [pays|gives] {x} / {m} = {z}[| dollars].",),
    "enough": ("[Missing are|{who} still needs] {x} - {m} = {z}[| dollars].",),
}


def purchase(rng: Random) -> Plotted:
    """Two to four goods, perhaps a change of price, and a way to pay."""
    who, two = rng.sample(NAMES, 2)
    lines, change, paid = rng.randint(2, 4), rng.choice(CHANGES), rng.choice(PAID)
    base = {"who": who, "two": two, "shop": rng.choice(SHOPS), "day": rng.choice(DAYS)}
    told = [
        phrase_of(
            (
                "{who} [goes|walks|drives|cycles] to [a|the] {shop}[| with {two}| on {day}].",
                "[On {day}|At noon|After school|Before the holidays] {who} [visits|shops at|is at] "
                "[a|the] {shop}[| for {two}].",
                "{who} [buys presents|fills a basket|has a list] [for {two}|at the {shop}].",
            ),
            rng,
            base,
        )
    ]
    steps: list[str] = []
    params = {"lines": lines}
    parts = []
    for i, single in enumerate(rng.sample(GOODS, lines)):
        q, p = rng.randint(2, 12), rng.randint(2, 40)
        good = {"loaf": "loaves", "scarf": "scarves", "brush": "brushes"}.get(single, single + "s")
        fields = {**base, "q": q, "p": p, "g": q * p, "good": good, "single": single}
        told.append(phrase_of(_BUY, rng, fields))
        steps.append(phrase_of(_BUY_STEP, rng, fields))
        params |= {f"q{i}": q, f"p{i}": p}
        parts.append(q * p)
    x = sum(parts)
    joined = " + ".join(map(str, parts))
    steps.append(
        phrase_of(
            ("[Together this is|In all it is|Altogether it is|The sum is] {j} = {x}[| dollars].",),
            rng,
            {"j": joined, "x": x},
        )
    )
    c = rng.choice([5, 10, 20, 25, 50]) if change == "percent" else rng.randint(2, 25)
    if (change == "percent" and x * c % 100) or (change == "coupon" and c >= x):
        return purchase(rng)
    g = x * c // 100
    y = {"none": x, "percent": x - g, "coupon": x - c, "fee": x + c}[change]
    if change != "none":
        fields = {**base, "c": c, "g": g, "x": x, "y": y}
        told.append(phrase_of(_CHANGE[change], rng, fields))
        steps.append(phrase_of(_CHANGE_STEP[change], rng, fields))
    m = 0
    if paid == "change":
        m = (y // 50 + rng.randint(1, 3)) * 50
    elif paid == "split":
        fits = [k for k in range(2, 9) if y % k == 0]
        m = rng.choice(fits) if fits else 0
    elif paid == "enough":
        m = rng.randint(1, y - 1)
    if paid != "total" and not m:
        return purchase(rng)
    z = {"total": y, "change": m - y, "split": y // max(m, 1), "enough": y - m}[paid]
    fields = {**base, "m": m, "x": y, "z": z}
    told.append(phrase_of(_PAID[paid], rng, fields))
    steps.append(phrase_of(_PAID_STEP[paid], rng, fields))
    params |= {"change": CHANGES.index(change), "c": c, "paid": PAID.index(paid), "m": m}
    plot = "/".join(["purchase", str(lines), change, paid])
    return Plotted(Problem(" ".join(told), steps, z, params), plot)


LEGS = ("constant", "faster", "slower", "rising")
MEASURED = ("sum", "left", "scaled")
_KINDS = {
    "walk": ("kilometers", "hour", "[walks|hikes|cycles|rows]", "trail of {goal} kilometers"),
    "read": ("pages", "day", "reads", "book of {goal} pages"),
    "work": ("{task}", "hour", "[does|finishes|manages]", "pile of {goal} {task}"),
    "save": ("dollars", "week", "[saves|earns|puts aside]", "wish that costs {goal} dollars"),
    "swim": ("laps", "morning", "[swims|runs|skates]", "plan of {goal} laps"),
}
_LEG = {
    "constant": (
        "[For|During] {t} {time}s {who} {does} {r} {unit} [a|each|every] {time}.",
        "{who} {does} {r} {unit} [a|every|each] {time} for {t} {time}s.",
    ),
    "faster": (
        "[For|During] the next {t} {time}s [it is|{who} {does}] {d} {unit} more [a|every|each] "
        "{time}.",
        "[Then|After that] {who} [gets faster|has more time|speeds up] and {does} {d} {unit} more "
        "[a|every] {time}, for {t} {time}s.",
    ),
    "slower": (
        "[For|During] the next {t} {time}s [it is|{who} {does}] {d} {unit} [fewer|less] "
        "[a|every|each] "
        "{time}.",
        "[Then|After that] {who} [gets tired|has less time|slows down] and {does} {d} {unit} less "
        "[a|every] {time}, for {t} {time}s.",
    ),
    "rising": (
        "[Then|After that|Next] for {t} {time}s {who} {does} twice as [much|many] [a|every|each] "
        "{time} as [before|in the {time}s before].",
        "[In|Over] the {t} {time}s that follow {who} doubles [the|this] {time}ly [number|amount].",
    ),
}  # fmt: skip
_LEG_STEP = (
    "[In|Over|During] [these|the] {t} {time}s [this makes|it is|that is] {r} * {t} = {g} {unit}.",
    "{t} {time}s at {r} {unit} [a|every] {time} [give|make|are] {r} * {t} = {g}[| {unit}].",
)
_RATE_STEP = {
    "faster": ("[The new rate|Now it] is {old} + {d} = {r} {unit} a {time}.",),
    "slower": ("[The new rate|Now it] is {old} - {d} = {r} {unit} a {time}.",),
    "rising": ("[The new rate|Now it] is 2 * {old} = {r} {unit} a {time}.",),
}
_MEASURED = {
    "sum": ("How many {unit} is [this|that] [in all|altogether|together]?",
            "[What is|Find] the total number of {unit}."),
    "left": ("{who} has a {goal}. How many {unit} are [left|still missing|still to do]?",
             "The [whole|aim] is a {goal}. How many {unit} remain?"),
    "scaled": ("{two} does {times} as much [in all|altogether|in the same time]. How many {unit} "
               "does {two} [do|reach|manage]?",),
}  # fmt: skip
_MEASURED_STEP = {
    "sum": ("[So the|The] [total|whole] is {x} {unit}.",),
    "left": ("[There remain|What is left is|Left are] {goal_n} - {x} = {z}[| {unit}].",),
    "scaled": ("{two} [does|reaches|manages] {x} * {k} = {z}[| {unit}].",),
}


def rate(rng: Random) -> Plotted:
    """Work in two to four legs, each with its own rate."""
    who, two = rng.sample(NAMES, 2)
    kind, ending = rng.choice(list(_KINDS)), rng.choice(MEASURED)
    unit, time, does, goal_form = _KINDS[kind]
    task = rng.choice(TASKS)
    unit, goal_form = (
        unit.replace("{task}", task.split(" to ")[0]),
        goal_form.replace("{task}", task),
    )
    base = {"who": who, "two": two, "unit": unit, "time": time}
    told: list[str] = []
    steps: list[str] = []
    legs = ["constant"] + [rng.choice(LEGS[1:]) for _ in range(rng.randint(1, 3))]
    r, parts = rng.randint(3, 40), []
    params = {"r": r, "legs": len(legs)}
    for i, leg in enumerate(legs):
        t, d, old = rng.randint(2, 9), rng.randint(1, 12), r
        r = {"constant": r, "faster": r + d, "slower": r - d, "rising": 2 * r}[leg]
        if not 1 < r < 200:
            return rate(rng)
        verb = rng.choice(does.strip("[]").split("|"))
        daily = {"day": "dai", "hour": "hour", "week": "week", "morning": "morning"}[time]
        forms = [f.replace("{time}ly", f"{daily}ly").replace("{does}", verb) for f in _LEG[leg]]
        fields = {**base, "t": t, "d": d, "old": old, "r": r, "g": r * t}
        told.append(phrase_of(tuple(forms), rng, fields))
        if leg != "constant":
            steps.append(phrase_of(_RATE_STEP[leg], rng, fields))
        steps.append(phrase_of(_LEG_STEP, rng, fields))
        params |= {f"leg{i}": LEGS.index(leg), f"t{i}": t, f"d{i}": d}
        parts.append(r * t)
    x, k = sum(parts), rng.choice(list(_TIMES))
    goal = x + rng.randint(5, 300)
    z = {"sum": x, "left": goal - x, "scaled": x * k}[ending]
    joined = {"j": " + ".join(map(str, parts)), "x": x, **base}
    steps.append(
        phrase_of(
            ("[Together|In all|Altogether] [this is|it is] {j} = {x}[| {unit}].",), rng, joined
        )
    )
    fields = {**joined, "goal": goal_form.format(goal=goal), "goal_n": goal, "z": z, "k": k}
    told.append(phrase_of(_MEASURED[ending], rng, {**fields, "times": _TIMES[k]}))
    steps.append(phrase_of(_MEASURED_STEP[ending], rng, fields))
    params |= {"ending": MEASURED.index(ending), "goal": goal, "k": k}
    plot = "/".join(["rate", kind, *legs, ending])
    return Plotted(Problem(" ".join(told), steps, z, params), plot)
