"""States of the lens against sums of explicit vectors, and models that have none."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from moe_lens.engine.recorder import Recorder
from moe_lens.engine.session import Session
from moe_lens.errors import UnsupportedModel
from moe_lens.event import LayerEvent
from moe_lens.lens.states import LENS_FIELDS, lens_states, residual_scales, state_names
from moe_lens.models.model import MoEModel
from moe_lens.policies import KeepTopK
from tests.engine.families import proven, token_batch


def events_of(model: MoEModel, keep: int | None = None) -> list[LayerEvent]:
    recorder = Recorder(LENS_FIELDS)
    policy = None if keep is None else KeepTopK(keep)
    with Session(model, sink=recorder.update, fields=LENS_FIELDS, policy=policy) as session:
        session.run(token_batch(6, 4, vocab_size=model.vocab_size))
    return recorder.events


def test_names_in_order() -> None:
    plain = ("layer", "resid", "rank1", "rank2", "top1", "top2")
    assert state_names(2, has_shared=False) == plain
    shared = (*plain[:2], "resid_shared", "shared", *plain[2:])
    assert state_names(2, has_shared=True) == shared


@pytest.mark.parametrize(("family", "scale"), [("granitemoeshared", 0.5), ("deepseek", 1.0)])
def test_states_are_sums_of_the_events_vectors(family: str, scale: float) -> None:
    model = proven(family)
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
    for event in events_of(model):
        assert residual_scales(model)[event.layer] == pytest.approx(scale)
        found = lens_states(event, scale=scale, has_shared=True)
        assert found.present.all()
        parts = (event.outputs, event.shared, event.resid_mid, event.layer_output)
        outputs, shared, resid, layer = (x.double() for x in parts if x is not None)
        weights = event.routing.weights.double()
        num_tokens, num_slots = weights.shape
        for tok in range(num_tokens):
            state = dict(zip(found.names, found.values[tok].double(), strict=True))
            total = torch.zeros_like(resid[tok])
            for slot in range(num_slots):
                part = scale * weights[tok, slot] * outputs[tok, slot]
                total = total + part
                close(state[f"rank{slot + 1}"], resid[tok] + part)
                close(state[f"top{slot + 1}"], resid[tok] + total)
            mixed_in = scale * shared[tok]
            close(state["resid"], resid[tok])
            close(state["shared"], mixed_in)
            close(state["resid_shared"], resid[tok] + mixed_in)
            close(state["layer"], layer[tok])
            whole = resid[tok] + mixed_in + total
            close(whole, state["layer"])


def test_an_expert_that_a_policy_took_away_has_no_state() -> None:
    event = events_of(proven("olmoe"), keep=1)[0]
    found = lens_states(event, scale=1.0, has_shared=False)
    absent = [n for n, p in zip(found.names, found.present.all(0).tolist(), strict=True) if not p]
    assert absent == ["rank2", "rank3"]
    assert not found.present[:, [3, 4]].any()
    last, first = (found.values[:, found.names.index(name)] for name in ("top3", "top1"))
    assert torch.equal(last, first)


def test_a_block_that_is_normed_before_it_is_added_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"flex_olmo: layer 0 .* \(it norms the sum first\)"):
        residual_scales(proven("flex_olmo"))


def test_an_event_without_the_fields_is_refused() -> None:
    event = replace(events_of(proven("olmoe"))[0], outputs=None)
    with pytest.raises(ValueError, match="the lens needs layer_output, outputs, resid_mid, shared"):
        lens_states(event, scale=1.0, has_shared=False)
