"""A session: what events carry, what they leave out, and that nothing stays behind."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moe_lens.corpus import TokenBatch
from moe_lens.engine import experts as registry
from moe_lens.engine import products
from moe_lens.engine.layers import needed_mask
from moe_lens.engine.probe import RandomProbe
from moe_lens.engine.proof import prove
from moe_lens.engine.recorder import Recorder
from moe_lens.engine.session import Session
from moe_lens.errors import UnsupportedModel
from moe_lens.event import Field, LayerEvent
from moe_lens.models.model import MoEModel
from moe_lens.models.tiny import tiny_model
from moe_lens.policies import DropExperts, KeepTopK, Policy
from tests.engine.families import proven, stock_hidden, token_batch, unproven


def events(
    model: MoEModel, batch: TokenBatch, *fields: Field, policy: Policy | None = None
) -> list[LayerEvent]:
    recorder = Recorder(fields)
    with Session(model, sink=recorder.update, fields=fields, policy=policy) as session:
        session.run(batch)
    return recorder.events


def test_padding_and_uncounted_tokens_reach_no_event() -> None:
    model = proven("olmoe")
    batch = token_batch(10, 4, vocab_size=model.vocab_size)
    counted = batch.counted.clone()
    counted[:, 0] = False
    batch = TokenBatch(
        batch.input_ids, batch.attention_mask, counted, batch.document, batch.position
    )
    seen = events(model, batch, Field.OUTPUTS, Field.RESID_MID, Field.SCORES)
    assert [e.layer for e in seen] == [0, 1, 2]
    for event in seen:
        assert event.tokens.document.tolist() == [0] * 9 + [1] * 3
        assert event.tokens.position.tolist() == [*range(1, 10), *range(1, 4)]
        assert event.tokens.ids.tolist() == batch.input_ids[counted].tolist()
        assert event.routing.num_tokens == 12
        for part in (event.outputs, event.resid_mid, event.routing.scores):
            assert part is not None
            assert len(part) == 12


@pytest.mark.parametrize("probe", [None, RandomProbe(3)])
def test_no_expert_runs_on_padding(
    probe: RandomProbe | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = proven("deepseek")
    num_rows: list[int] = []
    fill = registry.fill

    def counting(*args: Any) -> None:
        num_rows.append(len(args[2].tokens))
        fill(*args)

    monkeypatch.setattr(registry, "fill", counting)
    batch = token_batch(10, 4, vocab_size=model.vocab_size)
    with Session(model, sink=lambda event: None, probe=probe) as session:
        session.run(batch)
    num_slots = model.layers[0].modules.top_k + (probe is not None)
    assert num_rows == [14 * num_slots] * len(model.layers)


def test_a_mask_stays_where_padding_is_in_the_middle() -> None:
    batch = token_batch(10, 4, vocab_size=50)
    assert needed_mask(batch, torch.device("cpu")) is None
    mask = batch.attention_mask.clone()
    mask[0, 3] = False
    holed = dataclasses.replace(batch, attention_mask=mask)
    kept = needed_mask(holed, torch.device("cpu"))
    assert kept is not None
    assert torch.equal(kept, mask)


def test_a_documents_routing_does_not_depend_on_the_padding_beside_it() -> None:
    model = proven("qwen2_moe")
    together = events(model, token_batch(12, 5, vocab_size=model.vocab_size))
    both = token_batch(12, 5, vocab_size=model.vocab_size)
    alone = TokenBatch(*(part[1:, :5] for part in vars(both).values()))
    for event, single in zip(together, events(model, alone), strict=True):
        assert torch.equal(event.routing.experts[12:], single.routing.experts)
        torch.testing.assert_close(event.routing.weights[12:], single.routing.weights)


def test_events_carry_what_was_asked_for_and_nothing_else() -> None:
    model = proven("deepseek")
    batch = token_batch(6, vocab_size=model.vocab_size)
    optional = {f.value: f for f in Field if f is not Field.SCORES}
    for name, field in optional.items():
        for event in events(model, batch, field):
            present = {other for other in optional if getattr(event, other) is not None}
            assert present == {name}
            assert event.routing.scores is None
    for event in events(model, batch, Field.SCORES):
        assert event.routing.scores is not None
        assert event.routing.scores.shape == (6, event.routing.num_experts)


@pytest.mark.parametrize("model_type", ["deepseek", "qwen2_moe", "olmoe", "gpt_oss", "granitemoe"])
def test_the_gram_is_every_inner_product_of_the_states(model_type: str) -> None:
    """Against float64, from parts that are captured apart from it."""
    model = proven(model_type)
    batch = token_batch(9, 5, vocab_size=model.vocab_size)
    fields = (Field.GRAM, Field.RESID_MID, Field.SHARED, Field.OUTPUTS)
    for event in events(model, batch, *fields):
        assert event.gram is not None
        assert event.resid_mid is not None
        assert event.shared is not None
        assert event.outputs is not None
        parts = [event.resid_mid.unsqueeze(1), event.shared.unsqueeze(1), event.outputs]
        states = torch.cat(parts, dim=1).double()
        exact = torch.einsum("tid,tjd->tij", states, states)
        norms = exact.diagonal(dim1=1, dim2=2).clamp(min=1e-30).sqrt()
        scale = norms.unsqueeze(2) * norms.unsqueeze(1)
        assert float(((event.gram.double() - exact).abs() / scale).max()) <= 1e-6


def test_cosines_from_the_gram_equal_those_of_the_vectors() -> None:
    """cos(H_1, H_k) of the paper, from 36 numbers a token instead of two vectors."""
    model = proven("deepseek")
    batch = token_batch(11, vocab_size=model.vocab_size)
    fields = (Field.GRAM, Field.RESID_MID, Field.OUTPUTS, Field.LAYER_OUTPUT, Field.SHARED)
    for event in events(model, batch, *fields):
        assert event.gram is not None
        assert event.resid_mid is not None
        assert event.outputs is not None
        weights = event.routing.weights.double()
        contributions = weights.unsqueeze(-1) * event.outputs.double()
        resid = event.resid_mid.double()
        first, full = resid + contributions[:, 0], resid + contributions.sum(dim=1)
        exact = torch.cosine_similarity(first, full, dim=-1)
        num_tokens, num_slots = weights.shape
        one, all_slots = torch.zeros(2, num_tokens, 2 + num_slots, dtype=torch.float64)
        one[:, 0] = all_slots[:, 0] = 1
        one[:, 2], all_slots[:, 2:] = weights[:, 0], weights
        gram = event.gram.double()

        def inner(left: Tensor, right: Tensor, gram: Tensor = gram) -> Tensor:
            return torch.einsum("ti,tij,tj->t", left, gram, right)

        cosine = inner(one, all_slots) / (inner(one, one) * inner(all_slots, all_slots)).sqrt()
        torch.testing.assert_close(cosine, exact, atol=1e-6, rtol=0)
        assert event.layer_output is not None
        assert event.shared is not None
        output = full + event.shared.double()
        torch.testing.assert_close(output, event.layer_output.double(), atol=1e-4, rtol=1e-5)


def test_dropped_experts_do_not_run_and_the_rest_is_unchanged() -> None:
    model = proven("mixtral")
    batch = token_batch(10, vocab_size=model.vocab_size)
    plain = events(model, batch, Field.OUTPUTS)[0]
    gone = int(plain.routing.experts[0, 0])
    dropped = events(model, batch, Field.OUTPUTS, policy=DropExperts({0: (gone,)}))[0]
    assert dropped.outputs is not None
    assert plain.outputs is not None
    assert not bool((dropped.routing.active & (dropped.routing.experts == gone)).any())
    assert bool((dropped.outputs[~dropped.routing.active] == 0).all())
    hit = (plain.routing.experts == gone).any(dim=-1)
    torch.testing.assert_close(dropped.outputs[~hit], plain.outputs[~hit])
    first = plain.routing.experts[:, 0] == gone
    torch.testing.assert_close(dropped.outputs[first, 0], plain.outputs[first, 1])
    assert torch.equal(dropped.routing.weights[first, 0], plain.routing.weights[first, 1])


@pytest.mark.parametrize("model_type", ["olmoe", "deepseek_v3", "mixtral", "ernie4_5_moe", "jamba"])
@pytest.mark.parametrize("k", [1, 2])
def test_native_top_k_is_what_the_model_does_with_a_smaller_top_k(model_type: str, k: int) -> None:
    """Oracle: the routers' own top_k, lowered on the stock model."""
    model = prove(unproven(tiny_model(model_type)))
    batch = token_batch(13, 13, vocab_size=model.vocab_size)
    with Session(model, sink=lambda event: None, policy=KeepTopK(k)) as session:
        ours = session.run(batch)
    full = stock_hidden(model.hf, batch)
    for layer in model.layers:
        layer.modules.router.top_k = k  # type: ignore[assignment]
    stock = stock_hidden(model.hf, batch)
    assert (ours - stock).abs().max() <= 2e-6 * stock.abs().max()
    if k < model.layers[0].modules.top_k:
        assert (ours - full).abs().max() > 1e-3 * stock.abs().max()


def test_an_exception_inside_leaves_the_model_as_it_was() -> None:
    model = prove(unproven(tiny_model("qwen3_moe", dtype=torch.bfloat16)))
    batch = token_batch(6, vocab_size=model.vocab_size)
    before = {name: id(p) for name, p in model.hf.named_parameters()}
    stock = stock_hidden(model.hf, batch)

    def fail(event: LayerEvent) -> None:
        raise RuntimeError("the sink broke")

    with pytest.raises(RuntimeError, match="the sink broke"), Session(model, sink=fail) as session:
        session.run(batch)
    assert {name: id(p) for name, p in model.hf.named_parameters()} == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())
    assert model.hf.config._experts_implementation != registry.KEY
    assert torch.equal(stock_hidden(model.hf, batch), stock)


def test_bfloat16_models_route_in_float32_by_default() -> None:
    """The scores are those of float32 arithmetic on what the block read, by hand."""
    model = prove(unproven(tiny_model("olmoe", dtype=torch.bfloat16)))
    batch = token_batch(32, vocab_size=model.vocab_size)
    inputs: list[Tensor] = []
    block = model.layers[0].modules.block
    hook = block.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    (first, *_) = events(model, batch, Field.SCORES)
    hook.remove()
    router = model.layers[0].modules.router
    exact = inputs[0].reshape(-1, inputs[0].shape[-1]).double() @ router.weight.double().T  # type: ignore[operator, union-attr]
    assert first.routing.scores is not None
    assert (first.routing.scores - exact).abs().max() < 1e-5
    rounded = nn.functional.linear(inputs[0].reshape(-1, inputs[0].shape[-1]), router.weight)  # type: ignore[arg-type]
    assert (rounded.double() - exact).abs().max() > 1e-4


@pytest.mark.parametrize("model_type", ["deepseek", "gpt_oss", "aria_text"])
def test_the_grouped_kernel_gives_what_the_loop_gives(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's path, taken on the CPU, where torch has the same operator."""
    model = proven(model_type)
    batch = token_batch(16, 16, vocab_size=model.vocab_size)
    loop = events(model, batch, Field.OUTPUTS)
    monkeypatch.setattr(products, "_has_grouped_mm", lambda x: True)
    for left, right in zip(loop, events(model, batch, Field.OUTPUTS), strict=True):
        assert left.outputs is not None
        assert right.outputs is not None
        torch.testing.assert_close(left.outputs, right.outputs, atol=1e-5, rtol=1e-5)


def test_what_a_family_does_not_have_is_refused_before_the_run() -> None:
    model = proven("minimax")
    with pytest.raises(UnsupportedModel, match="layer 0: gram cannot be told in this family"):
        Session(model, sink=lambda event: None, fields=[Field.GRAM])


def test_a_sessions_tap_is_gone_afterwards() -> None:
    model = proven("olmoe")
    with Session(model, sink=lambda event: None):
        assert len(registry._TAPS) >= len(model.layers)
    assert not any(layer.modules.experts in registry._TAPS for layer in model.layers)


@pytest.mark.parametrize("model_type", ["deepseek", "qwen2_moe"])
def test_a_probe_runs_an_expert_that_was_not_chosen_and_changes_nothing(model_type: str) -> None:
    model = proven(model_type)
    batch = token_batch(10, 6, vocab_size=model.vocab_size)
    fields = (Field.GRAM, Field.OUTPUTS)
    plain, probed = Recorder(fields), Recorder(fields)
    with Session(model, sink=plain.update, fields=fields) as session:
        expected = session.run(batch)
    with Session(model, sink=probed.update, fields=fields, probe=RandomProbe(3)) as session:
        again = session.run(batch)
    assert (again - expected).abs().max() <= 1e-6 * expected.abs().max()
    for without, event in zip(plain.events, probed.events, strict=True):
        assert without.gram is not None
        assert event.gram is not None
        assert event.outputs is not None
        assert torch.equal(event.routing.experts, without.routing.experts)
        torch.testing.assert_close(event.routing.weights, without.routing.weights)
        num_states = without.gram.shape[1]
        assert event.gram.shape[1] == num_states + 1
        shared_part = event.gram[:, :num_states, :num_states]
        torch.testing.assert_close(shared_part, without.gram, atol=1e-3, rtol=1e-4)
        probe_norm = event.gram[:, -1, -1].sqrt()
        chosen_norms = event.outputs.norm(dim=-1)
        assert bool((probe_norm > 0).all())
        assert not bool(torch.isclose(probe_norm.unsqueeze(1), chosen_norms).any())
