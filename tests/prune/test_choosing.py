"""Known answers and laws of the choice: counts, groups, multiples, ties, protection, controls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_lens.errors import InputError
from moe_lens.prune.choosing import (
    check_budget,
    choose,
    least_kept,
    random_scores,
    same_counts,
)
from moe_lens.prune.plan import Budget, as_shape
from moe_lens.prune.shape import ModelShape
from tests.prune.cases import plan_of, scores_of, shape_of

TWO_LAYERS = shape_of(layers=(1, 2), num_experts=4, top_k=1)
NAN = float("nan")


def test_the_best_stay_in_rising_order() -> None:
    scores = scores_of(TWO_LAYERS, [0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, 1.0])
    assert choose(TWO_LAYERS, Budget(2), scores) == {1: (1, 3), 2: (0, 1)}


def test_of_equal_scores_the_lower_id_stays_and_the_unseen_go_first() -> None:
    scores = scores_of(TWO_LAYERS, [1.0, 1.0, 1.0, 1.0], [NAN, -5.0, NAN, 0.0])
    assert choose(TWO_LAYERS, Budget(2), scores) == {1: (0, 1), 2: (1, 3)}
    assert choose(TWO_LAYERS, Budget(3), scores) == {1: (0, 1, 2), 2: (0, 1, 3)}


def test_global_compares_layers_and_leaves_each_what_it_needs() -> None:
    scores = scores_of(TWO_LAYERS, [9.0, 8.0, 7.0, 6.0], [1.0, 2.0, 3.0, 4.0])
    assert choose(TWO_LAYERS, Budget(2, "global"), scores) == {1: (0, 1, 2), 2: (3,)}


def test_groups_stay_of_one_size() -> None:
    """Two groups of four: the best two of each, though group 0 holds the four best of all."""
    model = shape_of(layers=(0,), num_groups=2, num_groups_kept=1)
    scores = scores_of(model, [9.0, 8.0, 7.0, 6.0, 1.0, 4.0, 3.0, 2.0])
    assert choose(model, Budget(4), scores) == {0: (0, 1, 5, 6)}


def test_multiples_in_global_plans() -> None:
    scores = scores_of(TWO_LAYERS, [9.0, 1.0, 1.0, 1.0], [5.0, 5.0, 5.0, 5.0])
    assert choose(TWO_LAYERS, Budget(3, "global"), scores) == {1: (0, 1), 2: (0, 1, 2, 3)}
    even = choose(TWO_LAYERS, Budget(2, "global", 2), scores)
    assert even == {1: (0, 1), 2: (0, 1)}


def test_protected_experts_stay() -> None:
    scores = scores_of(TWO_LAYERS, [0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, NAN])
    budget = Budget(2, protected={1: (0,), 2: (3,)})
    assert choose(TWO_LAYERS, budget, scores) == {1: (0, 1), 2: (0, 3)}
    with pytest.raises(InputError, match=r"layer 1: 3 experts are protected, more than fit"):
        choose(TWO_LAYERS, Budget(2, protected={1: (0, 2, 3)}), scores)


@pytest.mark.parametrize(
    ("model", "budget", "message"),
    [
        (shape_of(), Budget(9), "has 8 experts in a layer; keep fewer"),
        (shape_of(), Budget(1), "too few experts for the 2 .* keep at least 2"),
        (shape_of(), Budget(5, multiple_of=4), "not a multiple of 4 .* keep 4 or 8"),
        (shape_of(num_groups=4, num_groups_kept=2), Budget(6), "4 groups .*; keep 4 or 8"),
        (shape_of(num_groups=2, num_groups_kept=1), Budget(2), "from 1 groups; keep at least 4"),
        (shape_of(), Budget(8, multiple_of=16), "a multiple of 16 .* but has 8"),
    ],
)
def test_budgets_that_cannot_be_kept(model: ModelShape, budget: Budget, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_budget(model, budget)


def test_fewer_active_experts_allow_fewer_experts() -> None:
    check_budget(shape_of(), Budget(1), top_k=1)
    assert least_kept(shape_of(top_k=3, num_groups=4, num_groups_kept=2), Budget(8), 3) == 8


def test_scores_of_another_model() -> None:
    with pytest.raises(InputError, match="layer 1: 3 scores for 4 experts"):
        choose(TWO_LAYERS, Budget(2), scores_of(TWO_LAYERS, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]))


@given(
    num_groups=st.sampled_from([1, 2, 4]),
    size=st.integers(2, 6),
    num_layers=st.integers(1, 4),
    multiple_of=st.sampled_from([1, 2]),
    shape=st.sampled_from(["uniform", "global"]),
    part=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_every_choice_obeys_every_rule_of_plans(
    num_groups: int,
    size: int,
    num_layers: int,
    multiple_of: int,
    shape: str,
    part: float,
    seed: int,
) -> None:
    """`Plan` checks counts, groups, multiples and top-k by code of its own."""
    draws = np.random.default_rng(seed)
    groups_kept = int(draws.integers(1, num_groups + 1))
    model = shape_of(
        layers=tuple(range(num_layers)),
        num_experts=num_groups * size,
        top_k=int(draws.integers(1, groups_kept * 2 + 1)),
        num_groups=num_groups,
        num_groups_kept=groups_kept,
    )
    scores = {layer: draws.normal(size=model.num_experts).round(1) for layer in model.layers}
    scores[0][draws.random(model.num_experts) < 0.3] = NAN
    step = int(np.lcm(num_groups, multiple_of))
    least = least_kept(model, Budget(1, as_shape(shape), multiple_of), model.top_k)
    possible = range(least, model.num_experts + 1, step)
    if not possible:
        return
    chosen = possible[int(part * (len(possible) - 1))]
    budget = Budget(chosen, as_shape(shape), multiple_of)
    keep = choose(model, budget, scores)
    plan_of(model, keep, budget=budget)
    assert sum(map(len, keep.values())) == budget.keep * len(model.layers)
    for layer, kept in keep.items():
        gone = sorted(set(range(model.num_experts)) - set(kept))
        value = np.where(np.isnan(scores[layer]), -np.inf, scores[layer])
        for start in range(0, model.num_experts, model.group_size):
            inside = range(start, start + model.group_size)
            best_gone = max((value[e] for e in gone if e in inside), default=-np.inf)
            worst_kept = min((value[e] for e in kept if e in inside), default=np.inf)
            assert worst_kept >= best_gone


@given(st.permutations(list(range(8))), st.integers(2, 8))
def test_renumbering_experts_renumbers_the_choice(order: list[int], keep: int) -> None:
    model = shape_of(layers=(0,))
    scores = np.array([0.3, 0.1, 0.7, 0.2, 0.9, 0.5, 0.4, 0.8])
    first = choose(model, Budget(keep), {0: scores})[0]
    again = choose(model, Budget(keep), {0: scores[order]})[0]
    assert {order[e] for e in again} == set(first)


def test_controls_have_the_plan_s_counts_by_layer_and_group() -> None:
    model = shape_of(layers=(0, 1), num_groups=2, num_groups_kept=2)
    keep = {0: (0, 1, 4, 5), 1: (0, 1, 2, 4, 5, 6)}
    scores = scores_of(model, [1, 2, 3, 4, 1, 2, 3, 4], [4, 3, 2, 1, 1, NAN, 3, 4])
    assert same_counts(model, keep, scores) == {0: (2, 3, 6, 7), 1: (0, 1, 2, 4, 6, 7)}


def test_random_scores_are_of_the_seed_and_the_layer() -> None:
    model = shape_of()
    first, again, other = (random_scores(model, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[layer], again[layer]) for layer in model.layers)
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0], first[1])
