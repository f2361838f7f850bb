"""Other words for the same: phrases of problems and solutions, each chosen anew where it stands.

Without this every problem of a family says the same words, and a model of the corpus is paid for
knowing sentences by heart; with it the words vary as they do between writers.
"""

import re
from random import Random

from demo.corpora.families.grammar import phrase_of
from demo.corpora.families.problem import Problem

_RULES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(pattern), forms)
    for pattern, forms in [
        (
            r"Find the remainder when (.+?) is divided by (\d+)\.",
            (
                "[Find|Determine|Compute|Calculate] the remainder when {1} is divided by {2}.",
                "[Find|Determine|Compute] {1} modulo {2}.",
                "What [remainder|rest] does {1} leave [on division by|when divided by|modulo] {2}?",
                "What is {1} modulo {2}?",
            ),
        ),
        (
            r"The remainder of (\d+) when divided by 1000 is (\d+)\.",
            (
                "The remainder of {1} [when divided by|modulo|on division by] 1000 is {2}.",
                "[Modulo 1000 this is|Reduced modulo 1000 this is|Modulo 1000 we get] {2}.",
                "[Dividing|If we divide] {1} by 1000 [leaves|we are left with] {2}.",
            ),
        ),
        (r"\bFind the\b", ("[Find|Determine|Compute|Calculate|Work out|Give] the",)),
        (r"\b(?:Find|Compute) m \+ n\.", ("[Find|Compute|Determine] m + n.", "What is m + n?")),
        (
            r"\bm/n in lowest terms",
            ("m/n [in lowest terms|as a reduced fraction|in simplest form]",),
        ),
        (
            r"(?<![\w,:] )\b(?:So|Hence|Thus|Therefore) (?=[a-zA-Z(\d])",
            ("[So|Hence|Thus|Therefore|Consequently|It follows that|We conclude that] ",),
        ),
        (
            r"\bLet N be the number of\b",
            ("[Let N be|Let N denote|Write N for|Call N] the number of",),
        ),
        (r"\bpositive integers\b", ("[positive integers|natural numbers|positive whole numbers]",)),
        (r"\bHow many positive\b", ("[How many|What number of] positive",)),
        (r"\bThe sum is\b", ("[The sum is|The total is|They add up to|Adding up gives]",)),
        (r"\bIn total there are\b", ("[In total|Altogether|In all|Overall] there are",)),
        (r"(?m)^There are\b", ("[There are|There are|We have|We find|We count|One has]",)),
        (r"\bThe answer is\b", ("[The answer is|The result is|We obtain|This gives]",)),
        (r"\bTogether\b", ("[Together|In all|Altogether]",)),
        (r"\bAltogether\b", ("[Together|In all|Altogether]",)),
        (
            r"\bHow many dollars\b",
            ("[How many dollars|How much, in dollars,|What amount in dollars]",),
        ),
        (r"(?m)^They start with\b", ("[They start with|At first there are|They begin with]",)),
        (r"\bthis makes\b", ("[this makes|that is|this is|this gives]",)),
        (
            r"\bWithout the condition\b",
            ("[Without the condition|Ignoring the condition|At first]",),
        ),
        (r"\bmodulo\b", ("[modulo|modulo|mod]",)),
    ]
)
_LEADS = ("[|||||||Note that|Observe that|We see that|Now|Next,|Clearly,|Further,|Moreover,]",)
_MAY_FOLLOW = re.compile(r"^(?:The|There|We|Each|Every|All|From|In|By|With|Its|It|At|Of|Half) ")


def _swap(text: str, rng: Random) -> str:
    for pattern, forms in _RULES:

        def other(match: re.Match[str], forms: tuple[str, ...] = forms) -> str:
            groups = {str(i): g for i, g in enumerate(match.groups(), 1)}
            form = rng.choice(forms)
            for name in groups:
                form = form.replace(f"{{{name}}}", f"\x00{name}\x00")
            chosen = phrase_of((form,), rng, {})
            for name, value in groups.items():
                chosen = chosen.replace(f"\x00{name}\x00", value)
            if match.group()[:1].islower():
                chosen = chosen[:1].lower() + chosen[1:]
            return chosen + (" " if match.group().endswith(" ") else "")

        text = pattern.sub(other, text)
    return text


def reworded(made: Problem, rng: Random) -> Problem:
    """The same problem in other words: same numbers, same steps, same answer."""
    steps = []
    for i, step in enumerate(made.steps):
        text = _swap(step, rng)
        lead = phrase_of(_LEADS, rng, {})
        if lead and i and _MAY_FOLLOW.match(text):
            text = f"{lead} {text[:1].lower()}{text[1:]}"
        steps.append(text)
    return made._replace(question=_swap(made.question, rng), steps=steps)
