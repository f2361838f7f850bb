"""Blockwise attention is the stock function, and steps aside where it would not be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from moe_lens.engine import attention, workers
from moe_lens.engine.attention import KEY, blockwise_attention, causal_attention
from moe_lens.engine.proof import prove
from moe_lens.engine.session import Session
from moe_lens.models.tiny import tiny_model
from tests.engine.families import stock_hidden, token_batch, unproven

functional = nn.functional


def drawn(
    *, length: int, heads: int = 4, key_heads: int = 4, width: int = 16, dtype: torch.dtype
) -> list[Tensor]:
    """Queries, keys and values as models hand them over: positions before heads in memory."""
    rng = torch.Generator().manual_seed(length)

    def one(num_heads: int, size: int) -> Tensor:
        return torch.randn(2, length, num_heads, size, generator=rng).to(dtype).transpose(1, 2)

    return [one(heads, 16), one(key_heads, 16), one(key_heads, width)]


def exact(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    readers = query.shape[1] // key.shape[1]
    q, k, v = (x.double() for x in (query, key, value))
    k, v = k.repeat_interleave(readers, 1), v.repeat_interleave(readers, 1)
    scores = (q @ k.mT) * scale
    later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    return (scores.masked_fill(later, -torch.inf).softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("length", [1, 127, 128, 129, 300])
@pytest.mark.parametrize(("heads", "key_heads", "width"), [(4, 4, 16), (6, 2, 16), (5, 1, 24)])
def test_it_is_softmax_over_earlier_positions(
    length: int, heads: int, key_heads: int, width: int
) -> None:
    parts = drawn(length=length, heads=heads, key_heads=key_heads, width=width, dtype=torch.float32)
    found = causal_attention(*parts, scale=0.3)
    torch.testing.assert_close(found.double(), exact(*parts, 0.3), rtol=1e-5, atol=1e-5)


def test_in_bfloat16_it_is_as_exact_as_torchs_kernel() -> None:
    parts = drawn(length=256, dtype=torch.bfloat16)
    right = exact(*parts, 0.25)
    stock = functional.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2)
    found = causal_attention(*parts, scale=0.25)
    assert found.dtype is torch.bfloat16

    def error(x: Tensor) -> float:
        return float((x.double() - right).square().mean().sqrt())

    assert error(found) <= 1.25 * error(stock)


@pytest.fixture
def any_length(threads_restored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MIN_LENGTH", 2)
    monkeypatch.setattr(workers, "MIN_FLOPS", 0)


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize("model_type", ["deepseek", "olmoe", "qwen2_moe", "deepseek_v3", "mixtral"])
@pytest.mark.parametrize("lengths", [(150,), (150, 150), (150, 40)])
def test_a_session_gives_the_stock_models_hidden_states(
    model_type: str, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []

    def spied(*parts: Tensor, scale: float) -> Tensor:
        used.append(parts[0].shape[2])
        return causal_attention(*parts, scale=scale)

    monkeypatch.setattr(attention, "causal_attention", spied)
    model = prove(unproven(tiny_model(model_type)))
    model.hf.set_attn_implementation(KEY)
    batch = token_batch(*lengths, vocab_size=model.vocab_size)
    stock = stock_hidden(model.hf, batch)[batch.attention_mask]
    found = []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        with Session(model, sink=lambda event: None) as session:
            found.append(session.run(batch)[batch.attention_mask])
    assert (found[0] - stock).abs().max() <= 2e-6 * stock.abs().max()
    assert torch.equal(*found)
    assert used == [150] * (2 * model.hf.config.num_hidden_layers)


@pytest.mark.usefixtures("any_length")
def test_a_mask_a_short_sequence_or_another_form_goes_to_the_stock_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []

    def fast(*parts: Tensor, scale: float) -> Tensor:
        calls.append("fast")
        return parts[0]

    monkeypatch.setattr(attention, "causal_attention", fast)
    module, parts = nn.Identity(), drawn(length=8, dtype=torch.float32)
    short = drawn(length=1, dtype=torch.float32)
    mask = torch.ones(8, 8, dtype=torch.bool)
    with blockwise_attention():
        function = ALL_ATTENTION_FUNCTIONS[KEY]
        function(module, *parts, None)
        assert calls == ["fast"]
        function(module, *parts, mask)
        function(module, *parts, None, is_causal=False)
        function(module, *short, None)
        function(module, *parts, None, position_bias=torch.zeros(1, 4, 8, 8))
        function(module, *(x.double() for x in parts), None)
    assert calls == ["fast"]


def test_the_registry_is_as_it_was_afterwards() -> None:
    before = ALL_ATTENTION_FUNCTIONS[KEY]
    with blockwise_attention(), blockwise_attention():
        assert ALL_ATTENTION_FUNCTIONS[KEY] is not before
    assert ALL_ATTENTION_FUNCTIONS[KEY] is before
