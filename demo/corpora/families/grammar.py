"""A small grammar for phrasing: `[one|another]` marks a free choice, `{field}` a value."""

import re
from collections.abc import Mapping
from random import Random

_CHOICE = re.compile(r"\[([^\[\]]*)\]")


def phrase(text: str, rng: Random, fields: Mapping[str, object]) -> str:
    """Choose among the alternatives, innermost first, and fill in the fields.

    The first letter is made a capital one. `[|very ]` is a part that may be absent.
    """
    while match := _CHOICE.search(text):
        chosen = rng.choice(match.group(1).split("|"))
        text = text[: match.start()] + chosen + text[match.end() :]
    filled = re.sub(r" {2,}", " ", text.format(**fields)).strip()
    filled = re.sub(r"\b([Aa]) (?=hour|eighth|eraser|attic|office)", r"\1n ", filled)
    return filled[:1].upper() + filled[1:]


def phrase_of(options: tuple[str, ...], rng: Random, fields: Mapping[str, object]) -> str:
    """Phrase one of several forms."""
    return phrase(rng.choice(options), rng, fields)


def _words(text: str, separator: str = " ") -> list[str]:
    return text.split(separator)


NAMES = _words(
    "Aaron Abena Adele Aiko Alma Amos Anders Anouk Aria Asha Boris Carla Cyrus Dalia Dario Delia "
    "Edith Emil Enzo Esther Fatima Felix Flora Frida Gita Gregor Hakim Hector Helga Hugo Ida Imran "
    "Ines Irene Isaac Jamal Janet Jasper Joanna Josef Kai Keiko Kofi Laila Leif Lorenzo Lucia "
    "Magda Malik Marta Mei Milan Mira Nils Noor Olga Omar Otis Paola Petra Rafael Ravi Renata Rita "
    "Roman Sara Selma Simon Sofia Stefan Tara Tariq Theo Tilda Ugo Vera Victor Yara Yoko Zane"
)

ITEMS = _words(
    "apples pears plums cherries lemons walnuts potatoes carrots onions pumpkins radishes melons "
    "eggs biscuits pancakes sandwiches pretzels candies chocolates jars bottles cups plates spoons "
    "candles buttons ribbons beads scarves gloves hats socks shirts blankets baskets boxes books "
    "notebooks pencils crayons brushes stickers stamps postcards letters envelopes photos posters "
    "coins marbles shells feathers pebbles leaves seeds tulips roses daisies bulbs seedlings trees "
    "fish birds rabbits pigeons goldfish puzzles dolls kites balls blocks cards dice tokens badges "
    "medals flags balloons lanterns tiles bricks boards nails screws bolts cables batteries bulbs "
    "magnets lenses wheels tickets magazines newspapers bags"
)

PLACES = _words(
    "attic garage kitchen cellar garden shed classroom library workshop tent studio barn office "
    "playground museum market station harbor square park"
)
CONTAINERS = _words("box drawer basket bag jar chest crate suitcase bucket tin album cupboard")
SHOPS = _words(
    "grocery|flower shop|toy shop|bookshop|bazaar|museum store|hardware store|kiosk|warehouse|"
    "market stall|gift shop|farm shop|supply room|club house|depot|school shop",
    separator="|",
)
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
TASKS = _words(
    "letters to fold|forms to check|cards to print|walls to paint|windows to wash|shirts to iron|"
    "photos to scan|boxes to label|plants to water|chairs to repair|pages to copy|parcels to sort",
    separator="|",
)
GOODS = _words(
    "notebook pencil ruler eraser folder lamp mug plate bowl towel pillow candle scarf hat belt "
    "wallet kite puzzle ball doll book comic map poster ticket plant vase frame clock brush hammer "
    "lock rope shovel bucket melon cabbage pineapple loaf cheese sausage"
)
