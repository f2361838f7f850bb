"""Whether weights, and with them ranks, are known: ids recorded elsewhere come without."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from moe_lens.errors import TraceError
from moe_lens.routing import Routing


def unweighted(routing: Routing) -> Bool[Tensor, " tok"]:
    """Tokens that use experts whose recorded weights are all 0: their weights are unknown.

    A trace of ids alone is read with every slot active and every weight 0. No router gives that,
    so a statistic that needs weights or ranks can tell such tokens, and refuse.

    Source: terms.md#weight
    """
    # Slots are ranked, so a largest and a smallest weight of 0 leave nothing but zeros.
    first = routing.weights[:, 0] == 0
    if not first.is_cuda and not first.numpy().any():
        return first
    return first & (routing.weights[:, -1] == 0) & routing.active[:, 0]


def refuse_unweighted(num_unweighted: int, *, layer: int, what: str) -> None:
    """Stop a result that would read weights, or an order by weight, that were never recorded.

    Raises:
        TraceError: Some tokens came without weights.
    """
    if num_unweighted:
        raise TraceError(
            f"layer {layer}: {what} needs weights, but {num_unweighted} tokens came without "
            f"(a trace of expert ids alone, as serving engines return them); record the trace "
            f"with weights, or read usage, coactivation, or transitions of all pairs"
        )
