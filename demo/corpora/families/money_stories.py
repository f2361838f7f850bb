"""Grade-school word problems about buying, selling and earning."""

from random import Random

from demo.corpora.families.problem import Problem
from demo.corpora.families.story import story


@story
def bakery(rng: Random, one: str, two: str) -> Problem:
    """Sales of full boxes after some loss."""
    trays, per_tray = rng.randint(4, 18), rng.choice([6, 8, 9, 12, 15, 24])
    broken, box = rng.randint(1, 11), rng.choice([4, 5, 6, 10])
    price = rng.randint(3, 14)
    total = trays * per_tray
    boxes = (total - broken) // box
    item = rng.choice(["muffins", "rolls", "cookies", "tarts", "scones"])
    question = (
        f"{one} bakes {trays} trays of {item} with {per_tray} {item} on each tray. "
        f"{broken} of them break, and the others are packed in boxes of {box}. Only full boxes "
        f"are sold, for ${price} each. {two} helps at the counter and every full box is sold. "
        "How many dollars do they take in?"
    )
    steps = [
        f"There are {trays} * {per_tray} = {total} {item} at first.",
        f"After {broken} break, {total} - {broken} = {total - broken} {item} are left.",
        f"They fill {boxes} boxes, since {boxes} * {box} = {boxes * box} and one more box would "
        f"need {boxes * box + box}.",
        f"The sales bring {boxes} * {price} = {boxes * price} dollars.",
    ]
    params = {"trays": trays, "per_tray": per_tray, "broken": broken, "box": box, "price": price}
    return Problem(question, steps, boxes * price, params)


@story
def savings(rng: Random, one: str, two: str) -> Problem:
    """What is still missing for a purchase."""
    weekly, weeks, gift = rng.randint(4, 30), rng.randint(5, 26), rng.randint(10, 60)
    spent = rng.randint(2, weekly * weeks // 2)
    left = weekly * weeks + gift - spent
    goal = left + rng.randint(10, 200)
    item = rng.choice(["bicycle", "guitar", "telescope", "camera", "pair of skates"])
    question = (
        f"{one} saves ${weekly} every week for a {item} that costs ${goal}. After {weeks} weeks "
        f"{one} gets ${gift} as a birthday present from {two}, and then spends ${spent} on a trip "
        f"to the museum. How many more dollars does {one} need for the {item}?"
    )
    steps = [
        f"In {weeks} weeks the savings are {weekly} * {weeks} = {weekly * weeks} dollars.",
        f"With the present there are {weekly * weeks} + {gift} = {weekly * weeks + gift} dollars.",
        f"After the trip {weekly * weeks + gift} - {spent} = {left} dollars are left.",
        f"The {item} costs {goal} dollars, so {goal} - {left} = {goal - left} are still needed.",
    ]
    params = {"weekly": weekly, "weeks": weeks, "gift": gift, "spent": spent, "goal": goal}
    return Problem(question, steps, goal - left, params)


@story
def wages(rng: Random, one: str, two: str) -> Problem:
    """Pay with overtime, less the fares."""
    rate, normal, extra = rng.choice([10, 12, 14, 16, 18, 20, 22, 24]), 40, rng.randint(2, 14)
    bus, days = rng.randint(2, 9), rng.randint(4, 6)
    basic, over = rate * normal, rate * 3 // 2 * extra
    answer = basic + over - bus * days
    job = rng.choice(["warehouse", "print shop", "greenhouse", "call center", "workshop"])
    question = (
        f"At a {job} {one} earns ${rate} an hour for the first {normal} hours of a week and one "
        f"and a half times as much for every hour beyond. This week {one} works {normal + extra} "
        f"hours on {days} days and pays ${bus} a day for the bus with {two}. How many dollars of "
        "the week's pay are left after the bus?"
    )
    steps = [
        f"The first {normal} hours give {rate} * {normal} = {basic} dollars.",
        f"There are {normal + extra} - {normal} = {extra} hours beyond.",
        f"Each of them gives {rate} * 1.5 = {rate * 3 // 2} dollars, together {rate * 3 // 2} * "
        f"{extra} = {over} dollars.",
        f"The bus costs {bus} * {days} = {bus * days} dollars.",
        f"What is left is {basic} + {over} - {bus * days} = {answer} dollars.",
    ]
    params = {"rate": rate, "extra": extra, "bus": bus, "days": days}
    return Problem(question, steps, answer, params)


@story
def party(rng: Random, one: str, two: str) -> Problem:
    """Whole units to order, less a coupon."""
    guests, slices, cut = rng.randint(8, 60), rng.randint(2, 5), rng.choice([6, 8, 10, 12])
    price, coupon = rng.randint(7, 19), rng.randint(2, 9)
    needed = guests * slices
    pizzas = -(-needed // cut)
    answer = pizzas * price - coupon
    food = rng.choice(["pizza", "cake", "quiche", "pie"])
    question = (
        f"{one} and {two} plan a party for {guests} guests, and each guest eats {slices} slices "
        f"of {food}. One {food} is cut into {cut} slices and costs ${price}. They have a coupon "
        f"that takes ${coupon} off the whole order. How many dollars do they pay if they order "
        "just enough?"
    )
    steps = [
        f"The guests eat {guests} * {slices} = {needed} slices.",
        f"{pizzas - 1} of them would give {(pizzas - 1) * cut} slices, which is too few, and "
        f"{pizzas} give {pizzas * cut}, so they order {pizzas}.",
        f"Without the coupon this costs {pizzas} * {price} = {pizzas * price} dollars.",
        f"They pay {pizzas * price} - {coupon} = {answer} dollars.",
    ]
    params = {"guests": guests, "slices": slices, "cut": cut, "price": price, "coupon": coupon}
    return Problem(question, steps, answer, params)


@story
def school_trip(rng: Random, one: str, two: str) -> Problem:
    """Whole buses to rent."""
    classes, pupils, adults = rng.randint(3, 9), rng.randint(17, 31), rng.randint(2, 4)
    seats, rent = rng.choice([25, 30, 40, 45, 50]), rng.randint(80, 320)
    people = classes * (pupils + adults)
    buses = -(-people // seats)
    question = (
        f"{one}'s school takes {classes} classes to the zoo. In each class there are {pupils} "
        f"pupils, and {adults} adults go along with each. {two} rents buses with {seats} seats "
        f"for ${rent} a bus, as few as possible. How many dollars do the buses cost?"
    )
    steps = [
        f"With each class travel {pupils} + {adults} = {pupils + adults} people.",
        f"All together there are {classes} * {pupils + adults} = {people} people.",
        f"{buses - 1} buses would have {(buses - 1) * seats} seats, not enough, while {buses} "
        f"buses have {buses * seats}.",
        f"The cost is {buses} * {rent} = {buses * rent} dollars.",
    ]
    params = {"classes": classes, "pupils": pupils, "adults": adults, "seats": seats, "rent": rent}
    return Problem(question, steps, buses * rent, params)


@story
def discount(rng: Random, one: str, two: str) -> Problem:
    """A percentage off, and delivery."""
    price, pairs = rng.randrange(20, 200, 10), rng.randint(2, 6)
    percent, shipping = rng.choice([10, 20, 30, 40, 50]), rng.randint(3, 15)
    reduced = price * (100 - percent) // 100
    answer = reduced * pairs + shipping
    item = rng.choice(["chairs", "lamps", "jackets", "backpacks", "tents", "clocks"])
    question = (
        f"An online shop sells {item} for ${price} apiece. On Friday it takes {percent}% off. "
        f"{one} orders {pairs} {item} on Friday together with {two}, and the delivery costs "
        f"${shipping} for the whole order, without any discount. How many dollars is the bill?"
    )
    steps = [
        f"The discount on one of the {item} is {price} * {percent} / 100 = {price - reduced}.",
        f"So each costs {price} - {price - reduced} = {reduced} dollars.",
        f"For {pairs} of them the price is {reduced} * {pairs} = {reduced * pairs} dollars.",
        f"With delivery the bill is {reduced * pairs} + {shipping} = {answer} dollars.",
    ]
    params = {"price": price, "pairs": pairs, "percent": percent, "shipping": shipping}
    return Problem(question, steps, answer, params)


@story
def farm(rng: Random, one: str, two: str) -> Problem:
    """Full cartons after own use."""
    hens, eggs, days = rng.randint(6, 40), rng.randint(4, 6), rng.randint(2, 6)
    eaten, price = rng.randint(2, 9), rng.randint(2, 6)
    total = hens * eggs * days
    left = total - eaten * days
    cartons = left // 12
    question = (
        f"{one} keeps {hens} hens, and each lays {eggs} eggs a week. Every week the family of "
        f"{two} eats {eaten} of the eggs. After {days} weeks {one} packs all the other eggs in "
        f"cartons of 12 and sells the full cartons for ${price} each. How many dollars does {one} "
        "get?"
    )
    steps = [
        f"The hens lay {hens} * {eggs} = {hens * eggs} eggs a week.",
        f"In {days} weeks these are {hens * eggs} * {days} = {total} eggs.",
        f"The family eats {eaten} * {days} = {eaten * days}, so {total} - {eaten * days} = {left} "
        "are left.",
        f"They fill {cartons} cartons, because {cartons} * 12 = {cartons * 12}.",
        f"The cartons bring {cartons} * {price} = {cartons * price} dollars.",
    ]
    params = {"hens": hens, "eggs": eggs, "days": days, "eaten": eaten, "price": price}
    return Problem(question, steps, cartons * price, params)


@story
def fence(rng: Random, one: str, two: str) -> Problem:
    """Perimeter without a gate, times a price."""
    width, ratio = rng.randint(6, 45), rng.randint(2, 4)
    gate, price, helper = rng.randint(2, 5), rng.randint(4, 18), rng.randint(20, 90)
    length = width * ratio
    around = 2 * (width + length)
    answer = (around - gate) * price + helper
    animal = rng.choice(["sheep", "goats", "ponies", "ducks", "alpacas"])
    question = (
        f"A rectangular meadow for {animal} is {width} meters wide and {ratio} times as long. "
        f"{one} puts a fence around it but leaves {gate} meters open for a gate. A meter of fence "
        f"costs ${price}, and {two} gets ${helper} for helping. How many dollars does {one} spend?"
    )
    steps = [
        f"The meadow is {width} * {ratio} = {length} meters long.",
        f"Its perimeter is 2 * ({width} + {length}) = {around} meters.",
        f"The fence is {around} - {gate} = {around - gate} meters long.",
        f"It costs {around - gate} * {price} = {(around - gate) * price} dollars.",
        f"With the helper {one} spends {(around - gate) * price} + {helper} = {answer} dollars.",
    ]
    params = {"width": width, "ratio": ratio, "gate": gate, "price": price, "helper": helper}
    return Problem(question, steps, answer, params)


@story
def recipe(rng: Random, one: str, two: str) -> Problem:
    """Whole packs to buy beside what is there."""
    people, grams = rng.choice([2, 4, 5, 6]), rng.randint(8, 30)
    times, have = rng.randint(3, 9), rng.randint(10, 100)
    pack, cost = rng.choice([100, 200, 250, 500]), rng.randint(2, 8)
    needed = grams * people * times
    missing = max(needed - have, 1)
    packs = -(-missing // pack)
    food = rng.choice(["rice", "flour", "oats", "lentils", "sugar"])
    have = needed - missing
    question = (
        f"A recipe for one person needs {grams} grams of {food}. {one} cooks it for {people} "
        f"people on {times} evenings. {two} finds {have} grams of {food} in the kitchen, and the "
        f"rest is bought in packs of {pack} grams for ${cost} a pack. How many dollars do they "
        "spend?"
    )
    steps = [
        f"One evening needs {grams} * {people} = {grams * people} grams.",
        f"All {times} evenings need {grams * people} * {times} = {needed} grams.",
        f"They must buy {needed} - {have} = {missing} grams.",
        f"That takes {packs} packs, as {packs} * {pack} = {packs * pack} and one pack less gives "
        f"{(packs - 1) * pack}.",
        f"They spend {packs} * {cost} = {packs * cost} dollars.",
    ]
    params = {"people": people, "grams": grams, "times": times, "have": have, "pack": pack}
    return Problem(question, steps, packs * cost, params | {"cost": cost})
