"""Expert ids as serving engines return them."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest

from moe_lens.errors import TraceError
from moe_lens.stats.coactivation import Coactivation
from moe_lens.stats.transitions import Transitions
from moe_lens.stats.usage import Usage
from moe_lens.traces import decode_routed_experts, from_routed_experts

IDS = np.array([[[0, 2], [3, 1]], [[2, 1], [0, 3]], [[3, 0], [1, 0]]], dtype=np.int16)


def test_ids_are_counted() -> None:
    events = from_routed_experts(
        IDS, num_experts=4, layers=[1, 3], token_ids=[9, 8, 7, 6], document=5, first_position=10
    )
    assert [event.layer for event in events] == [1, 3]
    assert events[0].tokens.ids.tolist() == [9, 8, 7]
    assert events[0].tokens.document.tolist() == [5, 5, 5]
    assert events[0].tokens.position.tolist() == [10, 11, 12]
    usage, pairs, transitions = Usage(), Coactivation(), Transitions([1, 3])
    for event in events:
        event.routing.check()
        for accumulator in (usage, pairs, transitions):
            accumulator.update(event)
    assert usage.counts(1).tolist() == [2, 1, 2, 1]
    assert usage.counts(3).tolist() == [2, 2, 0, 2]
    assert pairs.counts(1)[0].tolist() == [2, 0, 1, 1]
    assert int(transitions.all_pairs(3).sum()) == 12
    with pytest.raises(TraceError, match="usage by rank needs weights, but 3 tokens"):
        usage.rank_counts(1)


def test_ids_that_do_not_fit() -> None:
    with pytest.raises(TraceError, match=r"int16 of shape \(2, 2\); give integers of shape"):
        from_routed_experts(IDS[0], num_experts=4, layers=[1, 3])
    with pytest.raises(TraceError, match="float64 of shape"):
        from_routed_experts(IDS * 1.0, num_experts=4, layers=[1, 3])
    with pytest.raises(TraceError, match="0 tokens"):
        from_routed_experts(IDS[:0], num_experts=4, layers=[1, 3])
    with pytest.raises(TraceError, match="have 2 layers, but `layers` names 3"):
        from_routed_experts(IDS, num_experts=4, layers=[1, 2, 3])
    with pytest.raises(TraceError, match="2 token ids for 3 routed tokens; give as many, or one"):
        from_routed_experts(IDS, num_experts=4, layers=[1, 3], token_ids=[9, 8])
    with pytest.raises(TraceError, match="document 0, token 0, layer 3: expert 3, but experts"):
        from_routed_experts(IDS, num_experts=3, layers=[1, 3])


def test_a_token_that_was_not_recorded() -> None:
    missing = np.where(np.arange(3)[:, None, None] == 1, 255, IDS)
    with pytest.raises(TraceError, match=r"token 1, layer 1: expert 255, .* engine recorded"):
        from_routed_experts(missing, num_experts=4, layers=[1, 3])
    with pytest.raises(TraceError, match=r"token 1, layer 1: the token lists an expert twice"):
        from_routed_experts(np.where(missing == 255, 0, IDS), num_experts=4, layers=[1, 3])


def test_a_dense_layer_that_was_filled_with_zeros() -> None:
    filled = np.concatenate([np.zeros_like(IDS[:, :1]), IDS], axis=1)
    with pytest.raises(TraceError, match=r"\[0, 0\]; all ids of this layer are 0, .* dense layers"):
        from_routed_experts(filled, num_experts=4, layers=[0, 1, 3])


def test_base64_of_int32() -> None:
    payload = base64.b64encode(IDS.astype(np.int32).tobytes()).decode()
    assert np.array_equal(decode_routed_experts(payload, num_layers=2, top_k=2), IDS)


def test_base64_of_npy() -> None:
    file = io.BytesIO()
    np.save(file, IDS)
    payload = base64.b64encode(file.getvalue()).decode()
    assert np.array_equal(decode_routed_experts(payload, num_layers=2, top_k=2), IDS)
    cut = base64.b64encode(file.getvalue()[:-3]).decode()
    with pytest.raises(TraceError, match=r"not a whole \.npy file"):
        decode_routed_experts(cut, num_layers=2, top_k=2)


def test_pickled_arrays_are_not_loaded() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object))
    payload = base64.b64encode(file.getvalue()).decode()
    with pytest.raises(TraceError, match=r"not a whole \.npy file"):
        decode_routed_experts(payload, num_layers=2, top_k=2)


def test_payloads_that_do_not_fit() -> None:
    payload = base64.b64encode(IDS.astype(np.int32).tobytes()).decode()
    with pytest.raises(TraceError, match="not base64"):
        decode_routed_experts("?" + payload, num_layers=2, top_k=2)
    with pytest.raises(TraceError, match="no whole number of tokens with 5 layers of 2"):
        decode_routed_experts(payload, num_layers=5, top_k=2)
    with pytest.raises(TraceError, match="2 bytes; int32 ids take 4"):
        decode_routed_experts(base64.b64encode(b"ab").decode(), num_layers=1, top_k=1)
