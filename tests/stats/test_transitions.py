from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings

from moe_lens.errors import TraceError
from moe_lens.event import LayerEvent
from moe_lens.stats.transitions import Transitions
from tests.stats.cases import Shape, batches, choices, event, tokens, without_weights


def pair() -> tuple[LayerEvent, LayerEvent]:
    rows = tokens([5, 6])
    before = event([[0, 2], [2, 1]], layer=1, rows=rows)
    return before, event([[3, 0], [3, 1]], layer=3, rows=rows)


def test_pairs_by_hand() -> None:
    transitions = Transitions([1, 3])
    for one in pair():
        transitions.update(one)
    assert transitions.all_pairs(3).tolist() == [
        [1, 0, 0, 1],
        [0, 1, 0, 1],
        [1, 1, 0, 2],
        [0, 0, 0, 0],
    ]
    assert transitions.rank1_pairs(3).nonzero().tolist() == [[0, 3], [2, 3]]
    row = transitions.table().filter(expert=2, next_expert=3).row(0, named=True)
    assert (row["layer"], row["next_layer"], row["num_pairs"], row["share"]) == (1, 3, 2, 0.5)


def test_inactive_slots_lead_nowhere() -> None:
    rows = tokens([5, 6])
    transitions = Transitions([1, 3])
    transitions.update(event([[0, 2], [2, 1]], rows=rows, active=[[True, True], [False, False]]))
    transitions.update(
        event([[3, 0], [3, 1]], layer=3, rows=rows, active=[[True, False], [True, True]])
    )
    assert transitions.all_pairs(3).nonzero().tolist() == [[0, 3], [2, 3]]
    assert transitions.rank1_pairs(3).nonzero().tolist() == [[0, 3]]


@settings(max_examples=12, deadline=None)
@given(groups=batches)
def test_against_counting_one_by_one(groups: list[list[LayerEvent]]) -> None:
    layers = Shape().layers
    transitions, every, first = Transitions(layers), Counter(), Counter()
    for group in groups:
        paths = defaultdict(dict)
        for one in group:
            transitions.update(one)
        for choice in choices(group):
            chosen = [expert for expert, _ in choice.pairs]
            paths[choice.document, choice.position][choice.layer] = chosen
        for path in paths.values():
            for before, after in pairwise(layers):
                every.update((after, e, f) for e in path[before] for f in path[after])
                if path[before] and path[after]:
                    first[after, path[before][0], path[after][0]] += 1
    for layer in layers[1:]:
        for e in range(7):
            for f in range(7):
                assert transitions.all_pairs(layer)[e, f] == every[layer, e, f]
                assert transitions.rank1_pairs(layer)[e, f] == first[layer, e, f]


def test_equal_rows_in_other_tensors_are_the_same_tokens() -> None:
    before, after = pair()
    transitions = Transitions([1, 3])
    transitions.update(before)
    transitions.update(LayerEvent(layer=3, tokens=tokens([5, 6]), routing=after.routing))
    assert int(transitions.all_pairs(3).sum()) == 8


def test_other_tokens_are_refused() -> None:
    before, after = pair()
    transitions = Transitions([1, 3])
    transitions.update(before)
    moved = LayerEvent(layer=3, tokens=tokens([5, 6], first=1), routing=after.routing)
    with pytest.raises(ValueError, match="layer 3: these 2 tokens were not seen at MoE layer 1"):
        transitions.update(moved)


def test_a_skipped_layer_is_refused() -> None:
    before, after = pair()
    transitions = Transitions([1, 2, 3])
    transitions.update(before)
    with pytest.raises(ValueError, match="were not seen at MoE layer 2"):
        transitions.update(after)


def test_a_layer_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer 3: not one of the MoE layers \[1, 2\]"):
        Transitions([1, 2]).update(pair()[1])


def test_nothing_is_read_halfway_through_a_batch() -> None:
    transitions = Transitions([1, 3])
    transitions.update(pair()[0])
    message = r"1 batches have not reached the last MoE layer 3 \(the oldest stands at 1\)"
    for read in (transitions.state, transitions.table, lambda: transitions.all_pairs(3)):
        with pytest.raises(ValueError, match=message):
            read()
    with pytest.raises(ValueError, match=message):
        Transitions([1, 3]).merge(transitions)


def test_other_layers_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match=r"\[1, 3\] cannot be merged with those between \[1, 2\]"):
        Transitions([1, 3]).merge(Transitions([1, 2]))


def test_layers_must_rise() -> None:
    with pytest.raises(ValueError, match=r"layers \[3, 1\]: list the model's MoE layers once"):
        Transitions([3, 1])


def test_rank_1_is_refused_without_weights() -> None:
    before, after = pair()
    transitions = Transitions([1, 3])
    transitions.update(without_weights(before))
    transitions.update(after)
    assert int(transitions.all_pairs(3).sum()) == 8
    with pytest.raises(TraceError, match="layer 3: transitions of rank 1 needs weights"):
        transitions.rank1_pairs(3)


def test_layers_with_other_numbers_of_experts() -> None:
    rows = tokens([5])
    transitions = Transitions([1, 3])
    transitions.update(event([[5, 2]], num_experts=6, rows=rows))
    transitions.update(event([[1, 0]], num_experts=3, layer=3, rows=rows))
    assert transitions.all_pairs(3).shape == (6, 3)
    assert transitions.all_pairs(3).nonzero().tolist() == [[2, 0], [2, 1], [5, 0], [5, 1]]
