"""Causal importance equals running the whole model again with the expert's weights cut."""

from __future__ import annotations

import copy
from itertools import pairwise

import polars as pl
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from moe_lens.corpus import TokenBatch
from moe_lens.lens.unembed import find_head
from moe_lens.models.model import MoEModel
from moe_lens.models.structure import find_moe_layers
from moe_lens.policies import Ablation
from moe_lens.scoring import causal
from moe_lens.scoring.causal import CausalSums, Place, Plan, choose_places, measure_causal
from tests.engine.families import proven, token_batch

FAMILIES = ["deepseek", "olmoe", "gpt_oss", "deepseek_v3", "mixtral"]
LENGTHS = (17, 12, 17)


def measured(
    model: MoEModel, batch: TokenBatch, places: tuple[Place, ...], *how: Ablation
) -> CausalSums:
    plan = Plan(places, how, seed=0)
    head = find_head(model)
    parts = list(measure_causal(model, head, [batch], plan, progress=lambda num_tokens: None))
    return CausalSums.joined(parts)


@torch.no_grad()
def stock_losses(hf: PreTrainedModel, ids: Tensor) -> list[float]:
    """transformers' own forward in float64, one text at a time."""
    model = copy.deepcopy(hf).double()
    model.set_experts_implementation("eager")
    logits = model(input_ids=ids.unsqueeze(0), use_cache=False).logits[0]
    chosen = logits.log_softmax(-1)[:-1].gather(1, ids[1:, None])
    return (-chosen[:, 0]).tolist()


@torch.no_grad()
def without_output(hf: PreTrainedModel, place: Place) -> PreTrainedModel:
    """A copy whose expert gives 0: its down projection is."""
    model = copy.deepcopy(hf)
    (layer,) = (x for x in find_moe_layers(model) if x.index == place.layer)
    for name in ("down_proj", "down_proj_bias"):
        if hasattr(layer.experts, name):
            getattr(layer.experts, name)[place.expert] = 0
    return model


@torch.no_grad()
def stock_choice(hf: PreTrainedModel, ids: Tensor, layer: int) -> list[list[int]]:
    chosen: list[Tensor] = []
    (found,) = (x for x in find_moe_layers(hf) if x.index == layer)
    hook = found.router.register_forward_hook(lambda m, a, output: chosen.append(output[2]))
    hf(input_ids=ids.unsqueeze(0), use_cache=False)
    hook.remove()
    return chosen[0].tolist()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_dropping_equals_a_zeroed_down_projection(model_type: str) -> None:
    """At ablated tokens and over the text, per document, on the first and the last MoE layer."""
    model = proven(model_type)
    batch = token_batch(*LENGTHS, vocab_size=model.vocab_size)
    layers = [layer.modules.index for layer in model.layers]
    places = tuple(Place(layer, expert) for layer in (layers[0], layers[-1]) for expert in (0, 3))
    sums = measured(model, batch, places, Ablation.DROP)
    assert sums.documents.tolist() == [0, 1, 2]
    assert sums.predicted.tolist() == [n - 1 for n in LENGTHS]
    seen = 0
    for document, length in enumerate(LENGTHS):
        ids = batch.input_ids[document, :length]
        full = stock_losses(model.hf, ids)
        assert float(sums.nll[document]) == pytest.approx(sum(full), rel=1e-5)
        for index, place in enumerate(places):
            cut = stock_losses(without_output(model.hf, place), ids)
            change = [b - a for a, b in zip(full, cut, strict=True)]
            chose = [place.expert in row for row in stock_choice(model.hf, ids, place.layer)[:-1]]
            own = sum(c for c, at in zip(change, chose, strict=True) if at)
            assert int(sums.counts[index, document]) == sum(chose)
            assert float(sums.own[index, document]) == pytest.approx(own, abs=2e-4)
            assert float(sums.text[index, document]) == pytest.approx(sum(change), abs=4e-4)
            seen += sum(chose)
    assert seen > 5
    assert float(sums.own.abs().max()) > 0.05
    first_layer = sums.text[:2] - sums.own[:2]
    assert float(first_layer.abs().max()) > 1e-3  # later tokens feel it, through attention


def test_masking_at_its_tokens_equals_a_pruned_router_row_where_no_other_token_changes() -> None:
    """Mixtral normalises after the choice, so a mask changes the expert's own tokens alone."""
    model = proven("mixtral")
    batch = token_batch(*LENGTHS, vocab_size=model.vocab_size)
    place = Place(model.layers[1].modules.index, 2)
    sums = measured(model, batch, (place,), Ablation.MASK)
    for document, length in enumerate(LENGTHS):
        ids = batch.input_ids[document, :length]
        full = stock_losses(model.hf, ids)
        cut = copy.deepcopy(model.hf)
        (layer,) = (x for x in find_moe_layers(cut) if x.index == place.layer)

        def refuse(module: object, args: object, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            logits = output[0].clone()
            logits[:, place.expert] = -torch.inf
            weights, ids = logits.softmax(-1).topk(2, dim=-1)
            return output[0], weights / weights.sum(-1, keepdim=True), ids

        layer.router.register_forward_hook(refuse)
        changed = stock_losses(cut, ids)
        text = sum(changed) - sum(full)
        assert float(sums.text[0, document]) == pytest.approx(text, abs=4e-4)
    assert float(sums.text.abs().max()) > 1e-3


def test_streams_at_once_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = proven("deepseek")
    batch = token_batch(*LENGTHS, vocab_size=model.vocab_size)
    places = (Place(1, 0), Place(1, 3), Place(2, 5))
    whole = measured(model, batch, places, *Ablation)
    monkeypatch.setattr(causal, "_MOST_STREAMS", 3)
    few = measured(model, batch, places, *Ablation)
    head = find_head(model)
    rows = [TokenBatch(*(part[i : i + 1] for part in vars(batch).values())) for i in range(3)]
    plan = Plan(places, tuple(Ablation), seed=0)
    parts = list(measure_causal(model, head, rows, plan, progress=lambda num_tokens: None))
    assert len(parts) == 3
    single = CausalSums.joined([CausalSums.from_state(part.state()) for part in parts[::-1]])
    for other in (few, single):
        assert_same(whole, other)


def test_a_token_that_is_not_counted_can_be_ablated_and_predicts() -> None:
    """A BOS is no target, but the loss of what follows it is its own."""
    model = proven("deepseek")
    batch = token_batch(*LENGTHS, vocab_size=model.vocab_size)
    counted = batch.counted.clone()
    counted[:, 0] = False
    bos = TokenBatch(batch.input_ids, batch.attention_mask, counted, batch.document, batch.position)
    expert = stock_choice(model.hf, batch.input_ids[0, :17], 1)[0][0]
    places = (Place(1, expert),)
    plain = measured(model, batch, places, Ablation.DROP)
    assert_same(measured(model, bos, places, Ablation.DROP), plain)
    counted[:, 1] = False  # now what follows it is no target either
    fewer = measured(model, bos, places, Ablation.DROP)
    assert fewer.predicted.tolist() == [n - 2 for n in LENGTHS]
    assert int(fewer.counts[0, 0]) == int(plain.counts[0, 0]) - 1


def assert_same(left: CausalSums, right: CausalSums) -> None:
    for name, value in left.state().items():
        torch.testing.assert_close(right.state()[name], value, atol=1e-4, rtol=1e-5)


def test_an_expert_that_nobody_chose_changes_nothing() -> None:
    model = proven("olmoe")
    batch = token_batch(3, vocab_size=model.vocab_size)
    chosen = stock_choice(model.hf, batch.input_ids[0], 0)
    spare = next(e for e in range(12) if not any(e in row for row in chosen))
    sums = measured(model, batch, (Place(0, spare),), Ablation.DROP, Ablation.REPLACE)
    assert sums.counts.sum() == 0
    assert sums.text.abs().max() == 0


def test_the_sample_covers_layers_and_heights_and_leaves_out_the_unused() -> None:
    scores = pl.DataFrame(
        [
            {"layer": layer, "expert": e, "num_tokens": 0 if e == 7 else 5, "score": float(e)}
            for layer in (1, 2, 3)
            for e in range(10)
        ]
    )
    places = choose_places(scores, by="score", num=8, seed=0)
    assert len(places) == len(set(places)) == 8
    per_layer = [sum(place.layer == layer for place in places) for layer in (1, 2, 3)]
    assert sorted(per_layer) == [2, 3, 3]
    used = [e for e in range(10) if e != 7]
    for layer, num in zip((1, 2, 3), per_layer, strict=True):
        cut = [round(i * 9 / num) for i in range(num + 1)]
        quantiles = [used[a:b] for a, b in pairwise(cut)]
        found = [place.expert for place in places if place.layer == layer]
        assert all(sum(e in part for e in found) == 1 for part in quantiles)
    assert choose_places(scores, by="score", num=8, seed=0) == places
    assert choose_places(scores, by="score", num=8, seed=1) != places
    everything = choose_places(scores, by="score", num=999, seed=0)
    assert everything == tuple(Place(layer, e) for layer in (1, 2, 3) for e in used)
