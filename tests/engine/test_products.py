"""Experts on sorted rows, and sums over states: against float64, and the same on any thread."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moe_lens.engine import experts as registry
from moe_lens.engine import products, states, workers
from moe_lens.engine.experts import NUM_LEADING_STATES
from moe_lens.engine.recorder import Recorder
from moe_lens.engine.session import Session
from moe_lens.engine.workspace import Workspace
from moe_lens.event import Field, LayerEvent
from moe_lens.models.model import MoEModel
from tests.engine.families import proven, token_batch


@pytest.fixture
def many_jobs(threads_restored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small jobs that are worth handing over."""
    monkeypatch.setattr(products, "MAX_ROWS", 8)
    monkeypatch.setattr(states, "_TOKENS_PER_JOB", 5)
    monkeypatch.setattr(workers, "MIN_FLOPS", 0)


def seen(model: MoEModel, num_threads: int) -> list[LayerEvent]:
    torch.set_num_threads(num_threads)
    batch = token_batch(30, 17, vocab_size=model.vocab_size)
    recorder = Recorder([Field.GRAM, Field.OUTPUTS, Field.LAYER_OUTPUT])
    with Session(model, sink=recorder.update, fields=recorder.fields) as session:
        session.run(batch)
    return recorder.events


@pytest.mark.usefixtures("many_jobs")
@pytest.mark.parametrize("model_type", ["deepseek", "gpt_oss", "olmoe"])
def test_two_threads_give_one_threads_bits_every_time(model_type: str) -> None:
    model = proven(model_type)
    alone = seen(model, 1)
    for _ in range(3):
        for one, two in zip(alone, seen(model, 2), strict=True):
            assert one.gram is not None
            assert one.outputs is not None
            assert one.layer_output is not None
            assert two.gram is not None
            assert two.outputs is not None
            assert two.layer_output is not None
            assert torch.equal(one.outputs, two.outputs)
            assert torch.equal(one.gram, two.gram)
            assert torch.equal(one.layer_output, two.layer_output)


@given(count=st.integers(0, 5000))
def test_parts_are_even_and_not_larger_than_allowed(count: int) -> None:
    parts = products._even_parts(count)
    assert sum(parts) == count
    assert all(0 < part <= products.MAX_ROWS for part in parts)
    assert len(parts) == -(-count // products.MAX_ROWS)
    assert len(set(parts[:-1])) <= 1
    assert all(part % products._ROW_STEP == 0 for part in parts[:-1])
    assert not parts or max(parts) - min(parts) < products._ROW_STEP * len(parts)


@pytest.mark.usefixtures("threads_restored")
def test_products_have_few_shapes_however_many_rows_experts_get(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.set_num_threads(1)
    shapes: set[tuple[int, ...]] = set()
    multiply = torch.mm

    def noting(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
        shapes.add((*left.shape, right.shape[1]))
        return multiply(left, right, out=out)

    model = proven("deepseek")
    monkeypatch.setattr(torch, "mm", noting)
    for length in range(2, 66):
        with Session(model, sink=lambda event: None) as session:
            session.run(token_batch(length, length, vocab_size=model.vocab_size))
    of_experts = len({rows for rows, *_ in shapes})
    assert of_experts <= 2 * 65 / products._ROW_STEP


@given(
    num_tokens=st.integers(1, 40),
    step=st.integers(1, 12),
    kept=st.sets(st.integers(0, 39)),
)
def test_rows_move_to_the_front_of_the_same_memory(
    num_tokens: int, step: int, kept: set[int]
) -> None:
    V = torch.randn(num_tokens, 3, 4, generator=torch.Generator().manual_seed(num_tokens))
    before = V.clone()
    rows = torch.tensor(sorted(row for row in kept if row < num_tokens), dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "_TOKENS_PER_JOB", step)
        found = states.keep_rows(V, rows)
    assert torch.equal(found, before[rows])
    assert found.untyped_storage().data_ptr() == V.untyped_storage().data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("num_tokens", [0, 1, 33, 300])
def test_sums_over_states_are_those_of_float64(dtype: torch.dtype, num_tokens: int) -> None:
    rng = torch.Generator().manual_seed(num_tokens)
    V = torch.randn(num_tokens, 5, 24, generator=rng).to(dtype)
    weights = torch.randn(num_tokens, 3, generator=rng)
    exact = V.double()
    tolerance = 1e-12 if dtype is torch.float64 else 1e-5
    G, total = states.gram(V), states.weighted_sum(V[:, 2:], weights, dtype=states.sum_dtype(V))
    assert G.dtype is total.dtype is states.sum_dtype(V)
    assert_close(G, exact @ exact.mT, tolerance)
    assert_close(total, torch.einsum("ts,tsd->td", weights.double(), exact[:, 2:]), tolerance)


def assert_close(found: Tensor, exact: Tensor, tolerance: float) -> None:
    assert found.shape == exact.shape
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=10 * tolerance)


def test_inactive_slots_are_zero_and_others_do_not_change() -> None:
    model = proven("deepseek")
    experts = model.layers[0].modules.experts
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(40, experts.get_parameter("down_proj").shape[1], generator=rng)
    ids = torch.rand(40, products.num_experts_of(experts), generator=rng).topk(2).indices
    active = torch.rand(40, 2, generator=rng) < 0.5
    outputs = {}
    for name, mask in (("all", None), ("some", active)):
        tap = registry.ExpertsTap(Workspace(), active=mask)
        registry.attach(experts, tap)
        registry.experts_forward(experts, x, ids, torch.ones(40, 2))
        registry.detach(experts)
        assert tap.states is not None
        outputs[name] = tap.states[:, NUM_LEADING_STATES:].clone()
    assert (outputs["some"][~active] == 0).all()
    torch.testing.assert_close(outputs["some"][active], outputs["all"][active])
    assert (outputs["all"][~active] != 0).any()
