"""Similarity from the Gram against explicit vectors in float64, and its laws."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe_lens.engine.recorder import Recorder
from moe_lens.engine.session import Session
from moe_lens.errors import TraceError
from moe_lens.event import Field, LayerEvent
from moe_lens.lens.states import residual_scales
from moe_lens.stats.similarity import Similarity, quantities, similarities
from tests.engine.families import proven, token_batch
from tests.stats.cases import Shape, batches, random_batch, split

D_MODEL = 10
SCALES = {1: 1.0, 2: 0.5, 4: 2.0}
DOMAINS = torch.tensor([0, 1, 0])


def with_gram(event: LayerEvent, *, seed: int, probe: bool = False) -> LayerEvent:
    """The event with states of its own, a function of (position, layer) alone."""
    num_rows = 2 + event.routing.num_slots + probe
    size = (num_rows, D_MODEL)
    rows = [
        torch.randn(size, generator=torch.Generator().manual_seed(seed + 1000 * event.layer + p))
        for p in event.tokens.position.tolist()
    ]
    states = torch.stack(rows).double() if rows else torch.zeros(0, *size).double()
    slots = states[:, 2 : 2 + event.routing.num_slots]
    slots *= event.routing.active.unsqueeze(2)
    return replace(
        event, gram=(states @ states.mT).float(), outputs=states[:, 2:], resid_mid=states[:, 0]
    )


def events(seed: int, num_tokens: int, start: int = 0, probe: bool = False) -> list[LayerEvent]:
    return [
        with_gram(event, seed=7, probe=probe)
        for event in random_batch(seed, num_tokens, Shape(), start)
    ]


def fed(*groups: list[LayerEvent]) -> Similarity:
    found = Similarity(SCALES, DOMAINS)
    for group in groups:
        for event in group:
            found.update(event)
    return found


def explicit(resid: Tensor, outputs: Tensor, weights: Tensor, *, scale: float) -> dict[str, float]:
    """One token's quantities from its vectors; outputs may have a probe's in the end."""
    cos = partial(torch.nn.functional.cosine_similarity, dim=0, eps=0.0)
    parts = [scale * g * e for g, e in zip(weights, outputs, strict=False)]
    m_1, m_k = parts[0], torch.stack(parts).sum(0)
    h_1, h_k = resid + m_1, resid + m_k
    found = {
        "cos_h1_hk": cos(h_1, h_k),
        "cos_resid_hk": cos(resid, h_k),
        **{f"cos_rank{j + 1}_hk": cos(resid + part, h_k) for j, part in enumerate(parts)},
        "cos_m1_mk": cos(m_1, m_k),
        "error_h1_hk": (h_1 - h_k).norm() / m_k.norm(),
        "norm_mk_resid": m_k.norm() / resid.norm(),
    }
    if len(outputs) > len(weights):
        found["cos_random_hk"] = cos(resid + scale * weights[0] * outputs[-1], h_k)
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("probe", [False, True])
@pytest.mark.parametrize("num_slots", [1, 2, 6])
@pytest.mark.parametrize("scale", [1.0, 0.22])
def test_quantities_equal_those_of_explicit_vectors(
    num_slots: int, scale: float, probe: bool
) -> None:
    rng = torch.Generator().manual_seed(num_slots)
    states = torch.randn(20, 2 + num_slots + probe, 32, generator=rng).double()
    weights = torch.rand(20, num_slots, generator=rng).double().sort(descending=True).values
    found = similarities(states @ states.mT, weights, scale=scale)
    assert found.names == quantities(num_slots, with_random=probe)
    assert found.defined.all()
    for values, rows, g in zip(found.values, states, weights, strict=True):
        expected = explicit(rows[0], rows[2:], g, scale=scale)
        assert expected.keys() == set(found.names)
        for name, value in zip(found.names, values.tolist(), strict=True):
            assert value == pytest.approx(expected[name], rel=1e-9, abs=1e-9), name


def test_numbers_by_hand() -> None:
    states = torch.tensor([[[3.0, 0], [9, 9], [0, 4], [4, 0]]])
    found = similarities(states @ states.mT, torch.tensor([[1.0, 0.25]]), scale=1.0)
    # H_1 = (3, 4), H_2 = (4, 4), M_1 = (0, 4), M_2 = (1, 4)
    half, root = math.sqrt(0.5), math.sqrt(17)
    expected = [28 / (5 * 4 * math.sqrt(2)), half, 28 / (5 * 4 * math.sqrt(2)), half]
    expected += [4 / root, 1 / root, root / 3]
    assert found.values[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("family", ["deepseek", "granitemoeshared"])
def test_a_models_own_gram_gives_what_its_vectors_give(family: str) -> None:
    model = proven(family)
    fields = {Field.GRAM, Field.OUTPUTS, Field.RESID_MID}
    recorder = Recorder(fields)
    with Session(model, sink=recorder.update, fields=fields) as session:
        session.run(token_batch(7, 5, 9, vocab_size=128))
    scales = residual_scales(model)
    found = Similarity(scales)
    for event in recorder.events:
        found.update(event)
    sums: dict[tuple[int, int, str], float] = {}
    for event in recorder.events:
        assert event.resid_mid is not None
        assert event.outputs is not None
        for tok, document in enumerate(event.tokens.document.tolist()):
            one = explicit(
                event.resid_mid[tok].double(),
                event.outputs[tok].double(),
                event.routing.weights[tok].double(),
                scale=scales[event.layer],
            )
            for name, value in one.items():
                key = (event.layer, document, name)
                sums[key] = sums.get(key, 0.0) + value
    table = found.documents()
    assert len(table) == len(sums)
    for row in table.iter_rows(named=True):
        key = (row["layer"], row["document"], row["quantity"])
        assert row["num_tokens"] == (7, 5, 9)[row["document"]]
        assert row["value_sum"] == pytest.approx(sums[key], rel=1e-5)


@pytest.mark.parametrize("probe", [False, True])
def test_sums_and_quantiles_of_events_with_inactive_slots(probe: bool) -> None:
    group = events(3, 100, probe=probe)
    found = fed(group)
    table, quantiles = found.documents(), found.quantiles()
    for event in group:
        assert event.resid_mid is not None
        assert event.outputs is not None
        values: dict[tuple[int, str], list[float]] = {}
        left_out = [0, 0]
        for tok, document in enumerate(event.tokens.document.tolist()):
            if not event.routing.active[tok].any():
                left_out[DOMAINS[document]] += 1
                continue
            weights = event.routing.weights[tok].double()
            one = explicit(
                event.resid_mid[tok], event.outputs[tok], weights, scale=SCALES[event.layer]
            )
            for name, value in one.items():
                values.setdefault((document, name), []).append(value)
        rows = table.filter(layer=event.layer)
        assert {(r["document"], r["quantity"]) for r in rows.iter_rows(named=True)} == set(values)
        for row in rows.iter_rows(named=True):
            of_document = values[row["document"], row["quantity"]]
            assert row["num_tokens"] == len(of_document)
            assert row["value_sum"] == pytest.approx(math.fsum(of_document), rel=1e-4, abs=1e-4)
        for row in quantiles.filter(layer=event.layer).iter_rows(named=True):
            of_domain = [
                value
                for (document, name), several in values.items()
                for value in several
                if DOMAINS[document] == row["domain"] and name == row["quantity"]
            ]
            assert row["num_tokens"] == len(of_domain)
            assert row["num_left_out"] == left_out[row["domain"]] > 0
            for name in ("p05", "p25", "p50", "p75", "p95"):
                exact = float(np.quantile(of_domain, int(name[1:]) / 100, method="inverted_cdf"))
                if row["quantity"].startswith("cos"):
                    assert abs(row[name] - exact) <= 1 / 4000 + 1e-6
                elif exact > 0:
                    assert abs(math.log10(row[name] / exact)) <= 1 / 1000 + 1e-6
    assert len(quantiles) == 3 * 2 * (8 + probe)


def test_one_expert_alone_is_the_whole() -> None:
    event = events(1, 40)[0]
    first = event.routing.active & (torch.arange(3) < 1)
    one = event.routing.with_slots(active=first)
    table = fed([with_gram(replace(event, routing=one), seed=2)]).quantiles()
    for row in table.filter(domain=0).iter_rows(named=True):
        if row["quantity"] in ("cos_h1_hk", "cos_rank1_hk", "cos_m1_mk"):
            assert row["p05"] == pytest.approx(1.0, abs=1 / 2000)
        if row["quantity"] == "error_h1_hk":
            assert row["p95"] == pytest.approx(1e-4, rel=0.01)  # the lowest bin


def assert_equal(left: Similarity, right: Similarity) -> None:
    mine, theirs = left.state(), right.state()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        if tensor.dtype == torch.int64:
            assert torch.equal(tensor, theirs[name]), name
        else:
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-12, atol=1e-12)


@settings(max_examples=10)
@given(groups=batches, data=st.data())
def test_splits_order_and_merges_change_nothing(
    groups: list[list[LayerEvent]], data: st.DataObject
) -> None:
    full = [[with_gram(event, seed=7) for event in group] for group in groups]
    pieces = []
    for group in groups:
        cut = data.draw(st.integers(0, group[0].routing.num_tokens))
        pieces += [fed([with_gram(event, seed=7) for event in part]) for part in split(group, cut)]
    random.Random(data.draw(st.integers(0, 99))).shuffle(pieces)
    merged = Similarity(SCALES, DOMAINS)
    for piece in pieces:
        merged.merge(piece)
    assert_equal(merged, fed(*full))


@pytest.mark.parametrize("probe", [False, True])
def test_a_saved_state_goes_on_counting(tmp_path: Path, probe: bool) -> None:
    first, second = events(1, 20, probe=probe), events(2, 20, 100, probe)
    before = fed(first)
    save_file(dict(before.state()), tmp_path / "state.safetensors")
    restored = Similarity.from_state(load_file(tmp_path / "state.safetensors"))
    assert_equal(restored, before)
    for event in second:
        restored.update(event)
    assert_equal(restored, fed(first, second))
    assert_equal(before, fed(first))
    assert restored.quantiles().equals(fed(first, second).quantiles())


def test_what_does_not_fit_is_refused() -> None:
    event = events(1, 5)[0]
    with pytest.raises(ValueError, match=r"needs the Gram \(Field.GRAM\)"):
        fed([replace(event, gram=None)])
    with pytest.raises(ValueError, match=r"layer 9: no residual scale .* layers 1, 2, 4"):
        fed([replace(event, layer=9)])
    moved = replace(event.tokens, document=torch.full((5,), 90))
    with pytest.raises(ValueError, match=r"document 90 has no domain; .* for 3 documents"):
        fed([replace(event, tokens=moved)])
    with pytest.raises(ValueError, match=r"layer 1: 3 slots and 9 .* different models"):
        fed(events(1, 5), events(2, 5, probe=True))
    with pytest.raises(ValueError, match="different residual scales or domains"):
        Similarity({1: 1.0}).merge(Similarity({1: 2.0}))
    assert event.gram is not None
    with pytest.raises(ValueError, match="a Gram of 3 states does not fit 3 slots"):
        fed([replace(event, gram=event.gram[:, :3, :3])])
    with pytest.raises(ValueError, match="a Gram is not finite"):
        fed([replace(event, gram=event.gram * torch.inf)])
    nothing = replace(
        event.routing,
        weights=torch.zeros_like(event.routing.weights),
        active=torch.ones_like(event.routing.active),
    )
    with pytest.raises(TraceError, match="similarity of states needs weights"):
        fed([replace(event, routing=nothing)])
