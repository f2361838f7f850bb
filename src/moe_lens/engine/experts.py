"""Our entry in transformers' experts registry: the same sums, with every slot's output kept.

The registry is global, so this is the one module that touches it, under one key. A model whose
experts modules have no tap computes as usual. Rows are sorted by expert and each expert that was
chosen runs once, on the rows that chose it; inactive slots are not computed at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moe_lens.engine.products import SortedRows, fill, output_dtype
from moe_lens.engine.states import weighted_sum
from moe_lens.engine.workspace import Workspace

KEY = "moe_lens"

NUM_LEADING_STATES = 2
"""Rows of a token's states before the experts': resid_mid and shared."""


@dataclass(eq=False)
class ExpertsTap:
    """What one call of a layer's experts used and gave, for the engine to pick up.

    Attributes:
        workspace: Where the states are kept; the layers of a pass take turns in it.
        active: Set by the engine before the call: slots to compute; None for all.
        experts: Ids the call received.
        weights: Weights the call received.
        states: [resid_mid, shared, E_1 .. E_k] for each token; the call fills the experts' rows,
            inactive slots with zeros, and leaves the first two for the engine. In the model's
            dtype, or float32 where its products are computed in that.
    """

    workspace: Workspace
    active: Bool[Tensor, "tok slot"] | None = None
    experts: Int[Tensor, "tok slot"] | None = None
    weights: Float[Tensor, "tok slot"] | None = None
    states: Float[Tensor, "tok state d_model"] | None = None


_TAPS: WeakKeyDictionary[nn.Module, ExpertsTap] = WeakKeyDictionary()


def attach(experts: nn.Module, tap: ExpertsTap) -> None:
    """From now on, calls of this experts module report to `tap`."""
    _TAPS[experts] = tap


def detach(experts: nn.Module) -> None:
    """Stop reporting."""
    _TAPS.pop(experts, None)


@torch.no_grad()
def experts_forward(
    self: nn.Module,
    hidden_states: Float[Tensor, "tok d_model"],
    top_k_index: Int[Tensor, "tok slot"],
    top_k_weights: Float[Tensor, "tok slot"],
) -> Float[Tensor, "tok d_model"]:
    """Weighted sum of the chosen experts' outputs, as transformers calls it."""
    tap = _TAPS.get(self)
    num_tokens, num_slots = top_k_index.shape
    shape = (num_tokens, NUM_LEADING_STATES + num_slots, hidden_states.shape[-1])
    workspace = Workspace() if tap is None else tap.workspace
    dtype = output_dtype(hidden_states)
    states = workspace.take("states", *shape, like=hidden_states, dtype=dtype)
    active = None if tap is None else tap.active
    if active is not None and bool(active.all()):
        active = None
    outputs = states[:, NUM_LEADING_STATES:]
    if active is not None:
        outputs[~active] = 0
    rows = _sorted_rows(top_k_index, active)
    fill(self, hidden_states.contiguous(), rows, states.view(-1, shape[-1]))
    if tap is not None:
        tap.experts, tap.weights, tap.states = top_k_index, top_k_weights, states
    return weighted_sum(outputs, top_k_weights, dtype=hidden_states.dtype)


def _sorted_rows(
    experts: Int[Tensor, "tok slot"], active: Bool[Tensor, "tok slot"] | None
) -> SortedRows:
    """The active slots by expert, with their places among the states of all tokens."""
    num_slots = experts.shape[1]
    flat = experts.reshape(-1)
    if active is None:
        ids, order = flat.sort(stable=True)
    else:
        kept = active.reshape(-1).nonzero().squeeze(1)
        ids, within = flat[kept].sort(stable=True)
        order = kept[within]
    tokens = order.div(num_slots, rounding_mode="floor")
    return SortedRows(ids, tokens, order + NUM_LEADING_STATES * (tokens + 1))


ALL_EXPERTS_FUNCTIONS.register(KEY, experts_forward)
