"""What holds for every accumulator: splits, order, merges and saved states change nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from moe_lens.event import LayerEvent
from moe_lens.stats import pair_counts
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.coactivation import Coactivation
from moe_lens.stats.documents import DocumentUsage
from moe_lens.stats.transitions import Transitions
from moe_lens.stats.usage import Usage
from moe_lens.stats.vocabulary import TokenVocabulary
from moe_lens.stats.weight_mass import WeightMass
from tests.stats.cases import Shape, batches, random_batch, split

Make = Callable[[], Accumulator]
MAKERS: list[Make] = [
    Usage,
    WeightMass,
    Coactivation,
    lambda: Transitions(Shape().layers),
    DocumentUsage,
    TokenVocabulary,
]
every = pytest.mark.parametrize("make", MAKERS, ids=lambda make: type(make()).__name__)


def feed(accumulator: Accumulator, *groups: list[LayerEvent]) -> Accumulator:
    for group in groups:
        for one in group:
            accumulator.update(one)
    return accumulator


def fed(make: Make, *groups: list[LayerEvent]) -> Accumulator:
    return feed(make(), *groups)


def assert_equal(left: Accumulator, right: Accumulator) -> None:
    mine, theirs = left.state(), right.state()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert tensor.dtype in (torch.int64, torch.float64)
        if tensor.dtype == torch.int64:
            assert torch.equal(tensor, theirs[name]), name
        else:
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-12, atol=0)


@every
@settings(max_examples=10, deadline=None)
@given(groups=batches, data=st.data())
def test_splitting_and_merging_in_any_order_changes_nothing(
    make: Make, groups: list[list[LayerEvent]], data: st.DataObject
) -> None:
    whole = fed(make, *groups)
    pieces = []
    for group in groups:
        cut = data.draw(st.integers(0, group[0].routing.num_tokens))
        pieces += [fed(make, part) for part in split(group, cut)]
    random.Random(data.draw(st.integers(0, 99))).shuffle(pieces)
    merged = make()
    for piece in pieces:
        merged.merge(piece)
    assert_equal(merged, whole)


@every
def test_layer_by_layer_engines_give_the_same(make: Make) -> None:
    groups = [random_batch(seed, 9, start=100 * seed) for seed in range(3)]
    by_layer = [[group[place] for group in groups] for place in range(3)]
    assert_equal(fed(make, *by_layer), fed(make, *groups))


@every
def test_a_saved_state_goes_on_counting(make: Make, tmp_path: Path) -> None:
    first, second = random_batch(1, 20), random_batch(2, 20, start=100)
    before = fed(make, first)
    save_file(dict(before.state()), tmp_path / "state.safetensors")
    restored = type(before).from_state(load_file(tmp_path / "state.safetensors"))
    assert_equal(restored, before)
    for one in second:
        restored.update(one)
    assert_equal(restored, fed(make, first, second))


@every
def test_merging_leaves_the_other_as_it_was(make: Make) -> None:
    batch, more = random_batch(1, 20), random_batch(2, 20, start=100)
    other, mine = fed(make, batch), make()
    mine.merge(other)
    for one in more:
        mine.update(one)
    assert_equal(other, fed(make, batch))


@every
def test_events_with_buffers_that_are_reused(make: Make) -> None:
    batch = random_batch(3, 20)
    expected = fed(make, batch)
    accumulator = make()
    for one in random_batch(3, 20):
        accumulator.update(one)
        one.routing.experts.zero_()
        one.routing.weights.zero_()
        one.routing.active.zero_()
    assert_equal(accumulator, expected)


@every
def test_other_models_are_refused(make: Make) -> None:
    accumulator = fed(make, random_batch(1, 9))
    other = random_batch(2, 9, Shape(num_experts=8))
    with pytest.raises(ValueError, match=r"layer \d: .* different models\?"):
        feed(accumulator, other)


@pytest.mark.parametrize("make", [DocumentUsage, TokenVocabulary])
def test_small_blocks_give_the_same(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [random_batch(seed, 30, start=100 * seed) for seed in range(6)]
    expected = fed(make, *groups)
    expected.state()
    monkeypatch.setattr(pair_counts, "_BLOCK_BYTES", 100)
    assert_equal(fed(make, *groups), expected)
    monkeypatch.setattr(pair_counts, "_BLOCK_TOKENS", 40)
    assert_equal(fed(make, *groups), expected)


@every
def test_a_restored_accumulator_leaves_the_saved_state_alone(make: Make) -> None:
    state = fed(make, random_batch(1, 20)).state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    feed(type(make()).from_state(state), random_batch(2, 20, start=100))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())


def test_a_merge_that_is_refused_adds_nothing() -> None:
    mine = fed(Usage, random_batch(1, 20))
    other = fed(Usage, random_batch(2, 20)[:1], random_batch(2, 20, Shape(num_experts=8))[1:])
    with pytest.raises(ValueError, match=r"layer 2: counts of shape \(3, 8\) cannot join \(3, 7\)"):
        mine.merge(other)
    assert_equal(mine, fed(Usage, random_batch(1, 20)))
