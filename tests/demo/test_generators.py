"""Generated problems: right answers, right arithmetic on the way, the same bytes every time."""

import ast
import hashlib
import re
from fractions import Fraction

import pytest
from demo.corpora import competition, grade_school
from demo.corpora.families.problem import FAMILIES
from demo.corpora.families.story import STORIES

from tests.demo.oracles import ORACLES, STORY_ORACLES

_EQUATION = re.compile(r"(?<![\w^(/])(\d[\d .+*/()-]*?) = (-?\d+(?:\.\d+)?)(?![\d^(]|\s*[*/+(])")


def test_every_family_has_an_oracle() -> None:
    assert set(ORACLES) == set(FAMILIES)
    assert set(STORY_ORACLES) == set(STORIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_competition_answer_is_the_oracles(name: str) -> None:
    for seed in [*range(8), 1_000_000, 1_000_001]:
        made = competition.problem(name, seed)
        assert made.answer == ORACLES[name](made.params), (seed, made)
        assert 0 <= made.answer <= 999


@pytest.mark.parametrize("name", STORIES)
def test_story_answer_is_the_oracles(name: str) -> None:
    for seed in range(40):
        made = grade_school.problem(name, seed)
        assert made.answer == STORY_ORACLES[name](made.params), (seed, made)
        assert made.answer > 0


def equations(text: str) -> list[tuple[str, str]]:
    """Both sides of every equation between numbers."""
    return [(left.strip(), right) for left, right in _EQUATION.findall(text)]


def value_of(expression: str) -> Fraction:
    """Exact value of an arithmetic expression."""

    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant):
            return Fraction(str(node.value))
        if isinstance(node, ast.UnaryOp):
            return -walk(node.operand)
        assert isinstance(node, ast.BinOp), expression
        left, right = walk(node.left), walk(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        return left * right if isinstance(node.op, ast.Mult) else left / right

    return walk(ast.parse(expression, mode="eval").body)


@pytest.mark.parametrize("name", STORIES)
def test_every_equation_in_a_story_holds(name: str) -> None:
    for seed in range(20):
        found = equations("\n".join(grade_school.problem(name, seed).steps))
        assert len(found) >= 2
        for left, right in found:
            assert value_of(left) == Fraction(right), (name, seed, left, right)


@pytest.mark.parametrize("name", FAMILIES)
def test_question_states_the_answer_nowhere_and_solution_does(name: str) -> None:
    made = competition.problem(name, 3)
    numbers = re.findall(r"\d+", " ".join(made.steps))
    assert str(made.answer) in numbers
    assert competition.text(made, seed=3).count(made.question) == 1


def test_unknown_family_is_named() -> None:
    with pytest.raises(ValueError, match="family 'chess' is not one of quadratic_roots"):
        competition.problem("chess", 0)
    with pytest.raises(ValueError, match="template 'chess' is not one of bakery"):
        grade_school.problem("chess", 0)


def test_generators_are_deterministic() -> None:
    def digest() -> str:
        text = "".join(
            competition.text(competition.problem(n, s), seed=s) for n in FAMILIES for s in (0, 1)
        )
        text += "".join(str(competition.plotted(n, 5)) for n in competition.PLOTS)
        text += "".join(str(grade_school.plotted(n, 5)) for n in grade_school.PLOTS)
        text += "".join(grade_school.text(grade_school.problem(n, 5)) for n in STORIES)
        return hashlib.sha256(text.encode()).hexdigest()

    assert digest() == digest()


def test_one_problem_word_for_word() -> None:
    """Golden text: other bytes here mean another corpus, and a new manifest."""
    made = competition.problem("quadratic_roots", 7)
    assert competition.text(made, seed=1) == (
        "Problem. The equation x^2 - 27x + 2 = 0 has roots a and b, real or complex. Compute "
        "a^2 + b^2.\n\nSolution. By Vieta's formulas the sum is 27 and the product is 2.\n"
        "The sum of squares is 27^2 - 2 * 2 = 725. The answer is 725."
    )
