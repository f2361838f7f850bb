"""Events on a GPU are counted there, and read as on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moe_lens.event import LayerEvent, Tokens
from tests.stats.cases import random_batch
from tests.stats.test_laws import MAKERS, Make, assert_equal, fed

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_gpu(events: list[LayerEvent]) -> list[LayerEvent]:
    rows = events[0].tokens
    moved = Tokens(
        ids=rows.ids.cuda(), document=rows.document.cuda(), position=rows.position.cuda()
    )
    return [
        LayerEvent(
            layer=event.layer,
            tokens=moved,
            routing=replace(
                event.routing,
                weights=event.routing.weights.cuda(),
                experts=event.routing.experts.cuda(),
                active=event.routing.active.cuda(),
            ),
        )
        for event in events
    ]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: type(make()).__name__)
def test_a_gpu_counts_as_a_cpu_does(make: Make) -> None:
    groups = [random_batch(seed, 300, start=1000 * seed) for seed in range(3)]
    there, here = fed(make, *map(on_gpu, groups)), fed(make, *groups)
    assert all(tensor.device.type == "cpu" for tensor in there.state().values())
    assert_equal(there, here)
    mixed = fed(make, on_gpu(groups[0]))
    mixed.merge(fed(make, groups[1]))
    for event in groups[2]:
        mixed.update(event)
    assert_equal(mixed, here)
