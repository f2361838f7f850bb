"""`lens_states`: the states of a layer that the lens reads, from one event.

`layer` (the layer's output), `resid` (resid_mid alone, the control), `resid_shared` (with the
shared experts), `rank{j}` (resid_mid and the expert of rank j alone), `top{j}` (resid_mid + M_j)
and `shared` (the shared experts alone). Contributions enter as the layer adds them: times the
residual scale that the load-time proof found.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moe_lens.errors import UnsupportedModel
from moe_lens.event import Field, LayerEvent
from moe_lens.models.model import MoEModel

LENS_FIELDS = frozenset({Field.OUTPUTS, Field.SHARED, Field.RESID_MID, Field.LAYER_OUTPUT})
"""What an event must carry."""


@dataclass(frozen=True, eq=False)
class LensStates:
    """States of one layer, before any norm.

    Attributes:
        names: `state_names`.
        values: The states, float32.
        present: False for `rank{j}` where a policy took the slot away: there is no such expert.
    """

    names: tuple[str, ...]
    values: Float[Tensor, "tok state d_model"]
    present: Bool[Tensor, "tok state"]


def state_names(num_slots: int, *, has_shared: bool) -> tuple[str, ...]:
    """The states of a layer in order; those of the shared experts only where it has some."""
    ranks = range(1, num_slots + 1)
    return (
        "layer",
        "resid",
        *(("resid_shared", "shared") if has_shared else ()),
        *(f"rank{j}" for j in ranks),
        *(f"top{j}" for j in ranks),
    )


def residual_scales(model: MoEModel) -> dict[int, float]:
    """What each MoE layer multiplies its contributions by as it adds them to resid_mid.

    Raises:
        UnsupportedModel: A layer's output is no such sum, so that resid_mid with some of the
            contributions is not a state of its residual stream.
    """
    scales = {}
    for layer in model.layers:
        scale = layer.facts.residual_scale
        if scale is None:
            why = " (it norms the sum first)" if layer.facts.post_norm else ""
            raise UnsupportedModel(
                f"{model.model_type}: layer {layer.modules.index} does not add its experts' "
                f"outputs to the residual stream as a plain sum{why}, so residual plus some "
                f"experts is not a state of this model"
            )
        scales[layer.modules.index] = scale
    return scales


def lens_states(event: LayerEvent, *, scale: float, has_shared: bool) -> LensStates:
    """Every state of a layer.

    Args:
        event: With `LENS_FIELDS`.
        scale: The layer's residual scale (`residual_scales`).
        has_shared: Whether the layer has shared experts.

    Raises:
        ValueError: The event lacks a field.
    """
    parts = (event.outputs, event.shared, event.resid_mid, event.layer_output)
    outputs, shared, resid, layer_output = parts
    if outputs is None or shared is None or resid is None or layer_output is None:
        raise ValueError(
            f"layer {event.layer}: the lens needs {', '.join(sorted(f.value for f in LENS_FIELDS))}"
            f" in every event; open the session with LENS_FIELDS"
        )
    routing = event.routing
    resid, mixed_in = resid.float().unsqueeze(1), scale * shared.float().unsqueeze(1)
    added = outputs.float() * (scale * routing.weights.to(outputs.device)).unsqueeze(2)
    values = torch.cat(
        [
            layer_output.float().unsqueeze(1),
            resid,
            *((resid + mixed_in, mixed_in) if has_shared else ()),
            resid + added,
            resid + added.cumsum(1),
        ],
        dim=1,
    )
    names = state_names(routing.num_slots, has_shared=has_shared)
    present = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    first = names.index("rank1")
    present[:, first : first + routing.num_slots] = routing.active
    return LensStates(names=names, values=values, present=present)
