"""Every criterion equals a float64 computation that shares no code with it."""

from __future__ import annotations

import math
from functools import lru_cache

import polars as pl
import pytest
import torch
from torch import Tensor

from moe_lens.analysis.importance import FROM_SUMS, scores_of
from moe_lens.corpus import TokenBatch
from moe_lens.engine.recorder import Recorder
from moe_lens.engine.session import Session
from moe_lens.event import LayerEvent
from moe_lens.models.model import MoEModel
from moe_lens.scoring.criteria import needs_of, unavailable
from moe_lens.scoring.names import CRITERIA
from moe_lens.stats.importance import Importance, LayerTerms
from tests.engine.families import proven, token_batch
from tests.scoring.brute import (
    Seen,
    brute_force,
    pruned_routed_sums,
    routed_sums,
    stock_blocks,
)

NORM = "post_attention_layernorm"
FAMILIES = ["deepseek_v3", "gpt_oss", "qwen2_moe", "deepseek", "olmoe", "mixtral", "ernie4_5_moe"]
REROUTED = ["gpt_oss", "qwen2_moe", "deepseek", "mixtral", "laguna"]
LENGTHS = (13, 9)


@lru_cache
def observed(model_type: str) -> tuple[MoEModel, TokenBatch, list[LayerEvent]]:
    model = proven(model_type)
    batch = token_batch(*LENGTHS, vocab_size=model.vocab_size)
    needs = needs_of([n for n in CRITERIA if n not in unavailable(model)], model)
    recorder = Recorder(needs.fields)
    with Session(model, sink=recorder.update, fields=needs.fields, probe=needs.probe) as session:
        session.run(batch)
    return model, batch, recorder.events


def accumulated(model_type: str) -> pl.DataFrame:
    model, _, events = observed(model_type)
    missing = unavailable(model)
    terms = {
        layer.modules.index: LayerTerms(
            layer.facts.rule,
            layer.facts.routed_scale,
            layer.facts.residual_scale,
            reroutes="reroute_error" not in missing,
        )
        for layer in model.layers
    }
    importance = Importance(torch.arange(len(LENGTHS)), terms)
    for event in events:
        importance.update(event)
    return importance.table()


@lru_cache
def stock(model_type: str, document: int) -> dict[int, Seen]:
    model, batch, _ = observed(model_type)
    ids = batch.input_ids[document, : LENGTHS[document]]
    return stock_blocks(model.hf, ids, NORM)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_each_score_equals_brute_force(model_type: str) -> None:
    """On routing with scales, biases, groups, shared experts, and experts with biases."""
    model, _, _ = observed(model_type)
    sums = accumulated(model_type)
    missing = unavailable(model)
    names = [n for n in FROM_SUMS if n not in missing and n not in ("reroute_error", "soft_count")]
    assert "reap" in names
    for document in range(len(LENGTHS)):
        scores = scores_of(sums, [document], names)
        for layer in model.layers:
            index = layer.modules.index
            brute = brute_force(stock(model_type, document)[index], scale=layer.facts.routed_scale)
            count = brute.of("num_tokens")
            mean = [1 / c if c else 0.0 for c in count]
            expected = {
                "frequency": count,
                "gate_mass": brute.of("gate"),
                "ean_sum": brute.of("norm"),
                "ean_mean": [a * b for a, b in zip(brute.of("norm"), mean, strict=True)],
                "msan": [a * b for a, b in zip(brute.of("square"), mean, strict=True)],
                "reap": [a * b for a, b in zip(brute.of("gate_norm"), mean, strict=True)],
                "gate_norm_sum": brute.of("gate_norm"),
                "easy_ep": brute.of("easy"),
                "max_abs": brute.of("peak"),
            }
            rows = scores.filter(pl.col("layer") == index)
            assert rows["num_tokens"].to_list() == count
            for name in names:
                assert rows[name].to_list() == pytest.approx(expected[name], rel=2e-5, abs=1e-9), (
                    name
                )


@pytest.mark.parametrize("model_type", REROUTED)
def test_reroute_error_equals_cutting_the_expert_out(model_type: str) -> None:
    """Oracle: the stock router without the expert's row, on the same inputs."""
    model, _, _ = observed(model_type)
    sums = accumulated(model_type)
    assert "reroute_error" not in unavailable(model)
    for document in range(len(LENGTHS)):
        scores = scores_of(sums, [document], ["reroute_error"])
        for layer in model.layers:
            seen = stock(model_type, document)[layer.modules.index]
            scale = layer.facts.routed_scale
            full = routed_sums(seen, scale=scale)
            ours = scores.filter(pl.col("layer") == layer.modules.index)["reroute_error"].to_list()
            for expert in range(layer.modules.num_experts):
                without = pruned_routed_sums(seen, expert, scale=scale)
                error = float((full - without).norm())
                assert ours[expert] == pytest.approx(error, rel=1e-4, abs=1e-5)
            assert max(ours) > 0.1


@pytest.mark.parametrize("model_type", ["deepseek_v3", "deepseek", "gpt_oss"])
def test_soft_count_spreads_each_token_over_all_experts(model_type: str) -> None:
    sums = accumulated(model_type)
    for document, length in enumerate(LENGTHS):
        scores = scores_of(sums, [document], ["soft_count"])
        for index, seen in stock(model_type, document).items():
            logits = seen.logits.tolist()
            expected = [0.0] * len(logits[0])
            for row in logits:
                if model_type == "deepseek_v3":
                    spread = [1 / (1 + math.exp(-z)) for z in row]
                else:
                    spread = [math.exp(z) for z in row]
                for expert, value in enumerate(spread):
                    expected[expert] += value / sum(spread)
            ours = scores.filter(pl.col("layer") == index)["soft_count"].to_list()
            assert ours == pytest.approx(expected, rel=1e-5)
            assert sum(ours) == pytest.approx(length)


def test_families_say_by_name_what_they_cannot_give() -> None:
    assert unavailable(proven("deepseek")) == {}
    groups = unavailable(proven("deepseek_v3"))
    assert list(groups) == ["reroute_error"]
    assert "2 of 4 groups" in groups["reroute_error"]
    assert list(unavailable(proven("ernie4_5_moe"))) == ["reroute_error"]
    assert list(unavailable(proven("phimoe"))) == ["reroute_error"]
    minimax = unavailable(proven("minimax"))
    assert list(minimax) == ["easy_ep", "reroute_error"]
    assert "layer 0: the residual stream before the block cannot be told" in minimax["easy_ep"]
    normed = unavailable(proven("afmoe"))
    assert list(normed) == ["easy_ep"]
    assert "it norms its block's output first" in normed["easy_ep"]


def test_without_a_gram_norms_come_from_the_outputs() -> None:
    """MiniMax: what remains equals a plain loop over the event's own outputs."""
    _, _, events = observed("minimax")
    sums = accumulated("minimax")
    for event in events:
        assert event.gram is None
        outputs: Tensor = event.outputs  # type: ignore[assignment]
        expected = [0.0] * event.routing.num_experts
        counts = [0] * event.routing.num_experts
        for t in range(event.routing.num_tokens):
            for slot in range(event.routing.num_slots):
                expert = int(event.routing.experts[t, slot])
                weight = float(event.routing.weights[t, slot])
                expected[expert] += weight * float(outputs[t, slot].double().norm())
                counts[expert] += 1
        ours = scores_of(sums, [0, 1], ["reap"]).filter(pl.col("layer") == event.layer)
        reap = [s / c if c else 0.0 for s, c in zip(expected, counts, strict=True)]
        assert ours["reap"].to_list() == pytest.approx(reap, rel=1e-6)
