"""Expert ids that serving engines return, as events."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from moe_lens.errors import TraceError
from moe_lens.event import LayerEvent
from moe_lens.traces.block import TokenBlock
from moe_lens.traces.manifest import TraceManifest

_NPY = b"\x93NUMPY"


def from_routed_experts(
    ids: ArrayLike,
    *,
    num_experts: int,
    layers: Sequence[int],
    token_ids: Sequence[int] | None = None,
    document: int = 0,
    first_position: int = 0,
) -> list[LayerEvent]:
    """One sequence's expert ids as events, in layer order.

    For vLLM (`enable_return_routed_experts`: the prompt's and the completion's arrays, one after
    the other) and SGLang (`return_routed_experts`, after `decode_routed_experts`). Engines return
    no weights, and no order by weight: statistics that need either refuse these events.

    Args:
        ids: Integers of shape (token, layer, slot).
        num_experts: How many routed experts each layer has.
        layers: The model's index of each layer in `ids`. Some engines return dense layers too,
            all zeros: leave those out of both.
        token_ids: The sequence's vocabulary ids: as many as tokens in `ids`, or one more, since
            the last generated token is never routed.
        document: The index of this sequence.
        first_position: The place in the sequence of the first token in `ids`.

    Raises:
        TraceError: Shapes do not fit, or a choice cannot be counted.
    """
    array = np.asarray(ids)
    if array.ndim != 3 or array.dtype.kind not in "iu":
        raise TraceError(
            f"routed experts are {array.dtype} of shape {array.shape}; give integers of shape "
            f"(token, layer, slot)"
        )
    num_tokens, num_layers, top_k = array.shape
    if num_tokens == 0:
        raise TraceError("routed experts of 0 tokens: there is nothing to count")
    if num_layers != len(layers):
        raise TraceError(
            f"routed experts have {num_layers} layers, but `layers` names {len(layers)}: "
            f"{list(layers)}; name the model's index of each, dense layers left out of both"
        )
    vocabulary = None
    if token_ids is not None:
        if len(token_ids) not in (num_tokens, num_tokens + 1):
            raise TraceError(
                f"{len(token_ids)} token ids for {num_tokens} routed tokens; give as many, or one "
                f"more (the last generated token is not routed), prompt and completion together"
            )
        vocabulary = np.asarray(token_ids, dtype=np.int64)[:num_tokens]
    manifest = TraceManifest(
        model="served",
        num_experts=num_experts,
        top_k=top_k,
        layers=tuple(layers),
        has_weights=False,
    )
    block = TokenBlock(
        domain=pl.Series(["all"]).gather(np.zeros(num_tokens, np.int64)),
        document=np.full(num_tokens, document),
        position=np.arange(first_position, first_position + num_tokens),
        token_id=vocabulary,
        experts=array.astype(np.int64),
        weights=None,
        num_active=np.full((num_tokens, num_layers), top_k),
    )
    block.check(manifest, path="routed experts")
    return list(block.events(manifest))


def decode_routed_experts(payload: str, *, num_layers: int, top_k: int) -> NDArray[np.int64]:
    """Decode the ids of an HTTP answer: base64 of int32 (SGLang) or of a .npy file (vLLM).

    Args:
        payload: `meta_info["routed_experts"]` or the like.
        num_layers: How many layers the engine returns, dense ones included if it does.
        top_k: How many experts it returns for a token.

    Returns:
        Ids of shape (token, layer, slot).

    Raises:
        TraceError: Not base64, or not a whole number of tokens.
    """
    try:
        raw = base64.b64decode(payload, validate=True)
    except binascii.Error as error:
        raise TraceError(
            f"routed experts are not base64 ({error}); pass the answer's string as it came"
        ) from error
    if raw.startswith(_NPY):
        try:
            flat = np.load(io.BytesIO(raw), allow_pickle=False).reshape(-1)
        except ValueError as error:
            raise TraceError(f"routed experts are not a whole .npy file ({error})") from error
    elif len(raw) % 4:
        raise TraceError(f"routed experts are {len(raw)} bytes; int32 ids take 4 bytes each")
    else:
        flat = np.frombuffer(raw, dtype="<i4")
    if len(flat) % (num_layers * top_k):
        raise TraceError(
            f"{len(flat)} routed experts are no whole number of tokens with {num_layers} layers "
            f"of {top_k}; does the engine return dense layers too?"
        )
    ids: NDArray[np.int64] = flat.astype(np.int64).reshape(-1, num_layers, top_k)
    return ids
