"""A sweep's streams are, bit for bit, separate runs."""

from __future__ import annotations

import pytest
import torch

from moe_lens.engine.probe import RandomProbe
from moe_lens.engine.recorder import Recorder
from moe_lens.engine.session import Session
from moe_lens.engine.sweep import Stream, sweep
from moe_lens.errors import InputError
from moe_lens.event import Field, LayerEvent
from moe_lens.models.model import MoEModel
from moe_lens.policies import DropExperts, Identity, KeepTopK, MaskExperts, Policy, Renorm
from tests.engine.families import proven, token_batch

FIELDS = frozenset({Field.OUTPUTS, Field.SHARED, Field.GRAM, Field.RESID_MID, Field.SCORES})


def policies_of(model: MoEModel) -> list[Policy]:
    layers = [layer.modules.index for layer in model.layers]
    return [
        KeepTopK(1),
        Identity(),
        KeepTopK(1, Renorm.KEEP_MASS),
        KeepTopK(2, Renorm.NONE),
        MaskExperts({layers[-1]: (0, 3)}),
        DropExperts({layers[0]: (1, 2)}),
        KeepTopK(99),
    ]


def same_events(left: list[LayerEvent], right: list[LayerEvent]) -> bool:
    def parts(event: LayerEvent) -> list[torch.Tensor]:
        routing = event.routing
        found = [event.tokens.ids, event.tokens.document, routing.weights, routing.experts]
        optional = (routing.scores, event.outputs, event.shared, event.gram, event.resid_mid)
        return [*found, routing.active, *(x for x in optional if x is not None)]

    def by_batch(events: list[LayerEvent]) -> list[LayerEvent]:
        return sorted(events, key=lambda e: (int(e.tokens.document[0]), e.layer))

    pairs = list(zip(by_batch(left), by_batch(right), strict=True))
    return all(
        one.layer == other.layer
        and len(parts(one)) == len(parts(other))
        and all(torch.equal(a, b) for a, b in zip(parts(one), parts(other), strict=True))
        for one, other in pairs
    )


@pytest.mark.parametrize("model_type", ["deepseek", "olmoe", "qwen2_moe", "granitemoe"])
def test_streams_are_separate_runs_to_the_bit(model_type: str) -> None:
    model = proven(model_type)
    batches = [
        token_batch(14, 9, vocab_size=model.vocab_size),
        token_batch(21, vocab_size=model.vocab_size, seed=3),
    ]
    recorders = [Recorder(FIELDS) for _ in policies_of(model)]
    streams = [
        Stream(policy, recorder.update, FIELDS, probe=RandomProbe(7) if index == 1 else None)
        for index, (policy, recorder) in enumerate(zip(policies_of(model), recorders, strict=True))
    ]
    swept = list(sweep(model, batches, streams))
    assert [one.batch for one in swept] == batches
    for index, stream in enumerate(streams):
        alone = Recorder(FIELDS)
        with Session(
            model,
            sink=alone.update,
            fields=FIELDS,
            policy=stream.policy,
            probe=stream.probe,
        ) as session:
            hidden = [session.run(batch) for batch in batches]
        assert all(torch.equal(one.hidden[index], h) for one, h in zip(swept, hidden, strict=True))
        assert same_events(recorders[index].events, alone.events)
    assert not torch.equal(swept[0].hidden[0], swept[0].hidden[1])


def test_a_sweep_without_streams_is_refused() -> None:
    with pytest.raises(InputError, match="a sweep needs at least one stream"):
        list(sweep(proven("deepseek"), [], []))
