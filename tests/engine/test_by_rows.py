"""Norms and MLPs by parts of their rows: the module's own numbers, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from moe_lens.engine import by_rows as module
from moe_lens.engine import workers
from moe_lens.engine.by_rows import by_rows
from moe_lens.engine.session import Session
from moe_lens.models.tiny import tiny_model
from tests.engine.families import SUPPORTED, proven, stock_hidden, token_batch

WIDTH = 8


class MLP(nn.Module):
    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width - 1)
        self.act = nn.SiLU()
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(x.numel() // x.shape[-1])
        out: Tensor = self.down(self.act(self.up(x)))
        return out


@pytest.fixture(autouse=True)
def small_parts(threads_restored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 3)
    monkeypatch.setattr(module, "_NUMBERS", 1)
    monkeypatch.setattr(workers, "MIN_FLOPS", 0)


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_a_session_gives_the_stock_models_hidden_states(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts: set[str] = set()
    plain = module.run_jobs

    def spied(jobs: Any, *, flops: float) -> None:
        in_parts.add("an MLP" if flops > 64 * 32 * 40 else "a norm")
        plain(jobs, flops=flops)

    monkeypatch.setattr(module, "run_jobs", spied)
    model = proven(model_type)
    batch = token_batch(20, 13, vocab_size=model.vocab_size)
    stock = stock_hidden(model.hf, batch)[batch.attention_mask]
    found = []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        with Session(model, sink=lambda event: None) as session:
            found.append(session.run(batch)[batch.attention_mask])
    assert (found[0] - stock).abs().max() <= 2e-6 * stock.abs().max()
    assert torch.equal(*found)
    assert in_parts


@given(
    lead=st.lists(st.integers(1, 3), min_size=0, max_size=2),
    num_rows=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_parts_are_the_whole(lead: list[int], num_rows: int, seed: int) -> None:
    torch.manual_seed(seed)
    mlp, norm = MLP(), nn.LayerNorm(WIDTH)
    x = torch.randn(*lead, num_rows, WIDTH)
    root = nn.ModuleList([mlp, norm])
    with torch.no_grad():
        right = [mlp(x), norm(x)]
        mlp.rows.clear()
        with by_rows(root):
            found = [mlp(x), norm(x)]
    torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-6)
    assert torch.equal(found[1], right[1])  # a row's sums do not know how many rows there are
    total = x.numel() // WIDTH
    assert sum(mlp.rows) == total
    assert max(mlp.rows) <= 3 or total <= 3
    assert max(mlp.rows) - min(mlp.rows) <= 1


@pytest.mark.parametrize(
    "call",
    [
        lambda mlp, x: mlp(x=x),
        lambda mlp, x: mlp(x.mT.contiguous().mT),
        lambda mlp, x: torch.enable_grad()(mlp)(x),
    ],
    ids=["by name", "not contiguous", "with gradients"],
)
def test_other_calls_are_left_whole(call: Any) -> None:
    mlp, x = MLP(), torch.randn(10, WIDTH)
    with torch.no_grad(), by_rows(mlp):
        call(mlp, x)
    assert mlp.rows == [10]


def test_a_module_that_is_hooked_or_changed_inside_keeps_its_own_way() -> None:
    hooked, offloaded, other = MLP(), MLP(), MLP()
    hooked.up.register_forward_hook(lambda *parts: None)
    offloaded.down.forward = offloaded.down.forward  # type: ignore[method-assign]
    other.add_module("mixer", nn.Conv1d(1, 1, 1))
    two_axes = nn.LayerNorm((10, WIDTH))
    root, x = nn.ModuleList([hooked, offloaded, other, two_axes]), torch.randn(10, WIDTH)
    with torch.no_grad(), by_rows(root):
        for mlp in (hooked, offloaded, other):
            mlp(x)
        right = two_axes(x)
    assert [mlp.rows for mlp in (hooked, offloaded, other)] == [[10]] * 3
    torch.testing.assert_close(right.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_modules_are_as_they_were_afterwards() -> None:
    mlp = MLP()
    with torch.no_grad(), by_rows(mlp):
        with by_rows(mlp):
            mlp(torch.randn(10, WIDTH))
        assert len(mlp.rows) == 4  # the inner block leaves the outer one standing
        mlp(torch.randn(10, WIDTH))
        assert len(mlp.rows) == 8
    assert "forward" not in mlp.__dict__


def test_plain_mlps_and_norms_of_a_real_family_are_found() -> None:
    model = tiny_model("deepseek")
    with by_rows(model):
        found = {name for name, part in model.named_modules() if "forward" in part.__dict__}
    assert found == {
        "model.norm",
        "model.layers.0.mlp",
        *(f"model.layers.{i}.mlp.shared_experts" for i in range(1, len(model.model.layers))),
        *(
            f"model.layers.{i}.{norm}_layernorm"
            for i in range(len(model.model.layers))
            for norm in ("input", "post_attention")
        ),
    }
