"""Grade-school word problems about times, lengths, ages and amounts."""

from random import Random

from demo.corpora.families.problem import Problem
from demo.corpora.families.story import STORIES, story


@story
def trains(rng: Random, one: str, two: str) -> Problem:
    """Two legs of a journey, in distance and time."""
    fast, slow = rng.randint(60, 140), rng.randint(30, 59)
    first, second, stop = rng.randint(2, 6), rng.randint(1, 5), rng.randint(10, 55)
    distance = fast * first + slow * second
    minutes = 60 * (first + second) + stop
    question = (
        f"{one} takes an express train that runs {fast} kilometers an hour for {first} hours. "
        f"{one} waits {stop} minutes at a station, meets {two} there, and the two continue on a "
        f"local train at {slow} kilometers an hour for {second} hours. The ticket costs 1 cent a "
        f"kilometer, and the waiting room costs 1 cent a minute of the whole journey. How many "
        f"cents does {one} pay?"
    )
    steps = [
        f"The express covers {fast} * {first} = {fast * first} kilometers.",
        f"The local train covers {slow} * {second} = {slow * second} kilometers.",
        f"Together this is {fast * first} + {slow * second} = {distance} kilometers or cents.",
        f"The journey takes 60 * ({first} + {second}) + {stop} = {minutes} minutes or cents.",
        f"{one} pays {distance} + {minutes} = {distance + minutes} cents.",
    ]
    params = {"fast": fast, "slow": slow, "first": first, "second": second, "stop": stop}
    return Problem(question, steps, distance + minutes, params)


@story
def garden(rng: Random, one: str, two: str) -> Problem:
    """Plants left after a percentage is lost."""
    rows, per_row = rng.randint(5, 24), rng.randint(4, 19)
    percent = rng.choice([10, 20, 25, 50])
    while rows * per_row * percent % 100:
        rows, per_row = rng.randint(5, 24), rng.randint(4, 19)
    total = rows * per_row
    lost = total * percent // 100
    each = rng.randint(2, 9)
    answer = (total - lost) * each
    plant = rng.choice(["tomato", "pepper", "bean", "squash", "strawberry"])
    question = (
        f"In a school garden {one} plants {rows} rows of {plant} plants, {per_row} in a row. "
        f"Snails eat {percent}% of the plants before {two} builds a fence. Every plant that is "
        f"left gives {each} ripe fruits in July. How many fruits does the class pick in July?"
    )
    steps = [
        f"They start with {rows} * {per_row} = {total} plants.",
        f"The snails eat {percent}% of {total}, that is {total} * {percent} / 100 = {lost}.",
        f"There remain {total} - {lost} = {total - lost} plants.",
        f"They give {total - lost} * {each} = {answer} fruits.",
    ]
    params = {"rows": rows, "per_row": per_row, "percent": percent, "each": each}
    return Problem(question, steps, answer, params)


@story
def library(rng: Random, one: str, two: str) -> Problem:
    """Pages left after two reading speeds."""
    pages, first, factor = rng.randint(200, 900), rng.randint(8, 40), rng.randint(2, 4)
    days, more = rng.randint(2, 5), rng.randint(2, 4)
    read = first * days + first * factor * more
    if read >= pages:
        pages += read
    question = (
        f"{one} borrows a book of {pages} pages from {two}. On each of the first {days} days "
        f"{one} reads {first} pages. Then the story becomes exciting, and on each of the next "
        f"{more} days {one} reads {factor} times as many pages as before. How many pages are "
        "left to read after that?"
    )
    steps = [
        f"On the first {days} days {one} reads {first} * {days} = {first * days} pages.",
        f"Then the daily number is {first} * {factor} = {first * factor} pages.",
        f"In {more} days this makes {first * factor} * {more} = {first * factor * more} pages.",
        f"Altogether {first * days} + {first * factor * more} = {read} pages are read.",
        f"So {pages} - {read} = {pages - read} pages are left.",
    ]
    params = {"pages": pages, "first": first, "factor": factor, "days": days, "more": more}
    return Problem(question, steps, pages - read, params)


@story
def ages(rng: Random, one: str, two: str) -> Problem:
    """Sum of ages in some years."""
    child, factor, years = rng.randint(4, 15), rng.randint(3, 6), rng.randint(2, 20)
    younger = rng.randint(1, 3)
    parent = child * factor
    total = parent + years + child + years + child - younger + years
    kin = rng.choice(["aunt", "uncle", "grandmother", "coach", "teacher", "neighbor"])
    question = (
        f"{one} is {child} years old. {one}'s {kin} is {factor} times as old as {one}, and {two} "
        f"is {younger} years younger than {one}. What will be the sum of the ages of all three "
        f"people {years} years from now?"
    )
    steps = [
        f"The {kin} is {factor} * {child} = {parent} years old today.",
        f"{two} is {child} - {younger} = {child - younger} years old today.",
        f"Today the ages add up to {child} + {parent} + {child - younger} = {total - 3 * years}.",
        f"In {years} years each of the three is {years} years older, which adds 3 * {years} = "
        f"{3 * years}.",
        f"The sum is then {total - 3 * years} + {3 * years} = {total}.",
    ]
    params = {"child": child, "factor": factor, "years": years, "younger": younger}
    return Problem(question, steps, total, params)


@story
def tank(rng: Random, one: str, two: str) -> Problem:
    """Filling against a leak."""
    inflow, outflow = rng.randint(9, 40), rng.randint(1, 8)
    start, minutes, bucket = rng.randint(10, 200), rng.randint(5, 45), rng.randint(5, 9)
    filled = start + (inflow - outflow) * minutes
    answer = filled - 3 * bucket
    where = rng.choice(["rain barrel", "fish pond", "water tower", "swimming pool"])
    question = (
        f"A {where} holds {start} liters. {one} opens a tap that brings {inflow} liters a minute, "
        f"but a leak loses {outflow} liters a minute all the while. After {minutes} minutes {one} "
        f"closes the tap and {two} mends the leak. Then {two} takes out 3 buckets of {bucket} "
        f"liters each. How many liters are in the {where} now?"
    )
    steps = [
        f"Every minute the {where} gains {inflow} - {outflow} = {inflow - outflow} liters.",
        f"In {minutes} minutes it gains {inflow - outflow} * {minutes} = "
        f"{(inflow - outflow) * minutes} liters.",
        f"Then it holds {start} + {(inflow - outflow) * minutes} = {filled} liters.",
        f"The buckets take 3 * {bucket} = {3 * bucket} liters.",
        f"There are {filled} - {3 * bucket} = {answer} liters now.",
    ]
    params = {"inflow": inflow, "outflow": outflow, "start": start, "minutes": minutes}
    return Problem(question, steps, answer, params | {"bucket": bucket})


@story
def collection(rng: Random, one: str, two: str) -> Problem:
    """An even split of three collections."""
    own, factor, third = rng.randint(12, 90), rng.randint(2, 5), rng.randint(3, 11)
    other = own * factor
    fewer = other - third
    total = own + other + fewer
    people = rng.randint(2, 6)
    if total % people:
        return STORIES["collection"](rng)
    item = rng.choice(["stamps", "shells", "postcards", "marbles", "coins", "badges"])
    question = (
        f"{one} has {own} {item}. {two} has {factor} times as many {item} as {one}, and their "
        f"friend Leo has {third} fewer than {two}. They put all their {item} together and split "
        f"them evenly over {people} albums. How many {item} are in each album?"
    )
    steps = [
        f"{two} has {own} * {factor} = {other} {item}.",
        f"Leo has {other} - {third} = {fewer} {item}.",
        f"Together they have {own} + {other} + {fewer} = {total} {item}.",
        f"Each album gets {total} / {people} = {total // people} {item}.",
    ]
    params = {"own": own, "factor": factor, "third": third, "people": people}
    return Problem(question, steps, total // people, params)


@story
def running(rng: Random, one: str, two: str) -> Problem:
    """An arithmetic series of laps."""
    laps, length, step = rng.randint(3, 12), rng.choice([200, 250, 300, 400]), rng.randint(1, 4)
    days = rng.randint(3, 6)
    series = [laps + step * d for d in range(days)]
    total = sum(series)
    question = (
        f"{one} trains on a track where one lap is {length} meters. On the first day {one} runs "
        f"{laps} laps, and on every later day {step} more than on the day before. {two} runs "
        f"exactly half of the meters that {one} runs in {days} days. How many meters does {two} "
        "run?"
    )
    steps = [
        f"The daily laps of {one} are {', '.join(map(str, series))}.",
        f"Their sum is {' + '.join(map(str, series))} = {total} laps.",
        f"In meters this is {total} * {length} = {total * length}.",
        f"{two} runs half of it, {total * length} / 2 = {total * length // 2} meters.",
    ]
    params = {"laps": laps, "length": length, "step": step, "days": days}
    return Problem(question, steps, total * length // 2, params)
