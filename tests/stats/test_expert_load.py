"""Working experts by hand, and in any split."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_lens.corpus import TokenBatch
from moe_lens.stats.expert_load import ExpertLoad, Steps, decoding_steps
from tests.engine.families import token_batch
from tests.stats.cases import event, tokens

NO_STEPS = Steps(torch.full((3,), -1), 0)


def test_steps_are_places_where_every_sequence_of_a_group_has_a_token() -> None:
    batch = token_batch(3, 2, 4, 4, 1, vocab_size=9)
    steps = decoding_steps(batch, num_sequences=2)
    # Rows 0 and 1 share two places, rows 2 and 3 four; row 4 has no partner.
    assert steps.num_steps == 6
    expected = [0, 1, -1, 0, 1, 2, 3, 4, 5, 2, 3, 4, 5, -1]
    assert steps.of_token.tolist() == expected
    alone = decoding_steps(batch, num_sequences=1)
    assert alone.of_token.tolist() == list(range(14))
    none = decoding_steps(batch, num_sequences=6)
    assert (none.num_steps, set(none.of_token.tolist())) == (0, {-1})


def test_a_token_that_does_not_count_ends_no_step() -> None:
    batch = token_batch(2, 2, vocab_size=9)
    counted = batch.counted.clone()
    counted[1, 0] = False
    seen = TokenBatch(
        batch.input_ids, batch.attention_mask, counted, batch.document, batch.position
    )
    steps = decoding_steps(seen, num_sequences=2)
    assert steps.num_steps == 1
    assert steps.of_token.tolist() == [-1, 0, 0]


def test_usage_and_distinct_experts_by_hand() -> None:
    # Two sequences of two tokens, of two domains; the last slot of the last token is not active.
    rows = tokens([0, 1, 2, 3], document=[0, 0, 1, 1])
    active = [[True, True], [True, True], [True, True], [True, False]]
    seen = event([[0, 1], [2, 3], [1, 0], [2, 0]], active=active, rows=rows)
    load = ExpertLoad(2, torch.tensor([0, 1]))
    load.update(1, seen, Steps(torch.tensor([0, 1, 0, 1]), 2))
    usage = {(r[0], r[1], r[3]): r[4:] for r in load.usage().iter_rows()}
    assert usage == {
        **{(1, 0, expert): (1, 2) for expert in range(4)},
        (1, 1, 0): (1, 2), (1, 1, 1): (1, 2), (1, 1, 2): (1, 2), (1, 1, 3): (0, 2),
    }  # fmt: skip
    # Step 0 uses experts 0 and 1, step 1 experts 2 and 3.
    assert load.steps().rows() == [(0, 1, 0, 0), (1, 1, 2, 4)]


@given(st.integers(0, 2**31), st.integers(1, 11))
def test_law_any_split_gives_the_same(seed: int, cut: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(12, 5, generator=generator).argsort(-1)[:, :2].tolist()
    document = torch.randint(3, (12,), generator=generator).tolist()
    domain_of = torch.tensor([0, 1, 0])
    step = torch.arange(12)
    whole, left, right = (ExpertLoad(1, domain_of) for _ in range(3))
    rows = tokens([0] * 12, document=document)
    whole.update(0, event(chosen, num_experts=5, rows=rows), Steps(step, 12))
    for part, here in ((left, slice(0, cut)), (right, slice(cut, 12))):
        rows = tokens([0] * len(chosen[here]), document=document[here])
        size = len(chosen[here])
        part.update(0, event(chosen[here], num_experts=5, rows=rows), Steps(step[:size], size))
    right.merge_state(left.state())
    assert right.usage().equals(whole.usage())
    assert right.steps().equals(whole.steps())
    assert whole.steps()["num_distinct"][0] == 24


def test_other_models_are_refused() -> None:
    left, right = (ExpertLoad(1, torch.tensor([0])) for _ in range(2))
    left.update(0, event([[0, 1]] * 3, num_experts=4), NO_STEPS)
    right.update(0, event([[0, 1]] * 3, num_experts=5), NO_STEPS)
    with pytest.raises(ValueError, match="were the events recorded from different models"):
        left.merge(right)
