"""Sums of importance: a case by hand, its laws, and what it refuses."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_lens.choice import ChoiceRule, Scoring
from moe_lens.event import LayerEvent
from moe_lens.routing import Routing
from moe_lens.stats.importance import SUMS, Importance, LayerTerms, turning
from moe_lens.stats.reroute import reroute_squares
from tests.stats.cases import event, split, tokens

SOFTMAX = ChoiceRule(Scoring.SOFTMAX, normalize=False)
TERMS = LayerTerms(SOFTMAX, residual_scale=1.0, reroutes=True)
NUM_EXPERTS, TOP_K, WIDTH, GROUPS = 5, 2, 3, 3


def full_event(seed: int, num_tokens: int, start: int = 0) -> LayerEvent:
    """A token's states drawn at random, and everything that follows from them."""
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randn(num_tokens, NUM_EXPERTS, generator=rng)
    choice = SOFTMAX.choose(scores, TOP_K)
    routing = Routing.from_choice(
        choice.experts, choice.weights, num_experts=NUM_EXPERTS, scores=scores
    )
    states = torch.randn(num_tokens, 2 + TOP_K + 1, WIDTH, generator=rng)
    documents = torch.randint(GROUPS, (num_tokens,), generator=rng).tolist()
    return LayerEvent(
        layer=1,
        tokens=tokens(range(num_tokens), documents, first=start),
        routing=routing,
        gram=states @ states.mT,
        outputs=states[:, 2 : 2 + TOP_K],
    )


def parts(one: LayerEvent, cut: int) -> list[LayerEvent]:
    found = []
    for (piece,), rows in zip(split([one], cut), (slice(None, cut), slice(cut, None)), strict=True):
        assert one.gram is not None
        assert one.outputs is not None
        found.append(replace(piece, gram=one.gram[rows], outputs=one.outputs[rows]))
    return found


def fed(*events: LayerEvent) -> Importance:
    found = Importance(torch.arange(GROUPS), {1: TERMS})
    for one in events:
        found.update(one)
    return found


def assert_same(left: Importance, right: Importance) -> None:
    mine, theirs = left.state(), right.state()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-12, atol=1e-14)


def test_a_case_by_hand() -> None:
    """Two tokens, norms 3 and 4, weights 0.5 and 0.25; the routed sum is at right angles to r."""
    one = event([[0, 2], [2, 1]], [[0.5, 0.25], [0.5, 0.25]], num_experts=3)
    gram = torch.zeros(2, 4, 4)
    gram[:, 0, 0], gram[:, 2, 2], gram[:, 3, 3] = 9.0, 9.0, 16.0
    one = replace(one, gram=gram, outputs=torch.tensor([[[3.0, 0], [0, -4]]] * 2))
    found = Importance(torch.tensor([0]), {1: LayerTerms(residual_scale=1.0)})
    found.update(one)
    rows = {row["expert"]: row for row in found.table().iter_rows(named=True)}
    assert [rows[e]["num_tokens"] for e in range(3)] == [1, 1, 2]
    assert [rows[e]["gate_sum"] for e in range(3)] == [0.5, 0.25, 0.75]
    assert [rows[e]["norm_sum"] for e in range(3)] == [3, 4, 7]
    assert [rows[e]["norm_square_sum"] for e in range(3)] == [9, 16, 25]
    assert [rows[e]["gate_norm_sum"] for e in range(3)] == [1.5, 1, 2.5]
    assert [rows[e]["max_abs"] for e in range(3)] == [3, 4, 4]
    # |M|^2 = (3/2)^2 + 1 = 3.25, so cos(r, r + M) = 3 / sqrt(9 + 3.25)
    turned = 1 - 3 / 12.25**0.5
    assert [rows[e]["easy_ep_sum"] for e in range(3)] == pytest.approx(
        [1.5 * turned, turned, 2.5 * turned]
    )
    assert rows[0]["num_group_tokens"] == 2


def test_turning_keeps_its_digits_where_the_cosine_is_nearly_one() -> None:
    """M at 60 degrees to r and a millionth of its size."""
    size = 1e-6
    states = torch.tensor([[1.0, 0], [0, 0], [size / 2, size * 3**0.5 / 2]], dtype=torch.float64)
    gram = (states @ states.T).unsqueeze(0)
    found = float(turning(gram, torch.ones(1, 1, dtype=torch.float64), scale=1.0))
    assert found == pytest.approx(0.5 * (size * 3**0.5 / 2) ** 2, rel=1e-5)
    against = torch.tensor([[1.0, 0], [0, 0], [-3.0, 0]], dtype=torch.float64)
    gram = (against @ against.T).unsqueeze(0)
    assert float(turning(gram, torch.ones(1, 1, dtype=torch.float64), scale=1.0)) == 2.0


def test_reroute_by_hand() -> None:
    """Three experts of which one is chosen: probabilities 0.5, 0.3, 0.2; orthogonal outputs."""
    scores = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log().float()
    routing = Routing.from_choice(
        torch.tensor([[0]]), torch.tensor([[0.5]]), num_experts=3, scores=scores
    )
    gram = torch.zeros(1, 4, 4)
    gram[0, 2, 2], gram[0, 3, 3] = 4.0, 1.0  # |E_0| = 2, |E_1| = 1, the next in line
    found = reroute_squares(gram, routing, SOFTMAX, routed_scale=1.0)[0].tolist()
    gone = 0.25 * 4 + (0.3 / 0.5) ** 2 * 1  # 0.5 E_0 leaves, E_1 comes with 0.3 / 0.5
    not_chosen = [(0.5 / 0.7 - 0.5) ** 2 * 4, (0.5 / 0.8 - 0.5) ** 2 * 4]
    assert found == pytest.approx([gone, *not_chosen], rel=1e-6)


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.integers(0, 999), st.integers(1, 12)), min_size=1, max_size=3), st.data()
)
def test_any_split_and_order_gives_the_same(
    sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    events = [full_event(seed, size, start=100 * i) for i, (seed, size) in enumerate(sizes)]
    pieces = []
    for one in events:
        pieces += [fed(part) for part in parts(one, data.draw(st.integers(0, len(one.tokens.ids))))]
    random.Random(data.draw(st.integers(0, 99))).shuffle(pieces)
    merged = fed()
    for piece in pieces:
        merged.merge(Importance.from_state(dict(piece.state())))
    assert_same(merged, fed(*events))


@settings(max_examples=15)
@given(st.integers(0, 999), st.permutations(range(NUM_EXPERTS)))
def test_renaming_experts_renames_their_scores(seed: int, names: list[int]) -> None:
    one = full_event(seed, 11)
    new: Tensor = torch.tensor(names)
    assert one.routing.scores is not None
    scores = torch.zeros_like(one.routing.scores)
    scores[:, new] = one.routing.scores
    renamed = replace(one.routing, experts=new[one.routing.experts], scores=scores)
    before = fed(one).table().sort("group", "expert")
    after = fed(replace(one, routing=renamed)).table()
    for group in range(GROUPS):
        rows = after.filter(after["group"] == group).sort("expert")[names]
        old = before.filter(before["group"] == group)
        assert rows["num_tokens"].to_list() == old["num_tokens"].to_list()
        for name in (*SUMS, "max_abs"):
            assert rows[name].to_list() == pytest.approx(old[name].to_list(), rel=1e-9), name


def test_what_cannot_be_summed_is_refused() -> None:
    with pytest.raises(ValueError, match="document 2 has no group; groups are known for 2"):
        Importance(torch.arange(2)).update(
            replace(event([[0, 1]] * 3), tokens=tokens(range(3), [0, 1, 2]))
        )
    with pytest.raises(ValueError, match="the two group the documents differently"):
        Importance(torch.arange(2)).merge(Importance(torch.arange(3)))
    one = full_event(1, 3)
    assert one.gram is not None
    with pytest.raises(ValueError, match="a Gram whose last state is the expert that is next"):
        fed(replace(one, gram=one.gram[:, :-1, :-1]))
