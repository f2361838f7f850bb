"""`allocate`: how many experts each layer gets, when their sum is limited: exactly."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64


def allocate(errors: Float64[np.ndarray, "layer k"], *, budget: int) -> tuple[int, ...]:
    """The k of each layer, 1 to K, with the least sum of errors and a sum of at most `budget`.

    Dynamic programming over layers, exact for an objective that is a sum over layers. Among
    equals the earliest layer that differs has the smaller k. Errors need not fall with k.

    Args:
        errors: Of each layer at k = 1 to K.
        budget: Active experts of a token, over all layers.

    Raises:
        ValueError: An error is not finite, or the budget does not give each layer one expert.

    Source: terms.md#allocation
    """
    num_layers, most = errors.shape
    if not np.isfinite(errors).all():
        raise ValueError("an error is not finite: nothing can be allocated by it")
    if budget < num_layers:
        raise ValueError(
            f"{budget} active experts for {num_layers} layers: each layer needs at least 1"
        )
    budget = min(budget, num_layers * most)
    # left[b]: the least sum of the layers from here on with b experts to give.
    left = np.zeros(budget + 1)
    choices = np.zeros((num_layers, budget + 1), dtype=np.int64)
    for layer in reversed(range(num_layers)):
        after, left = left, np.full(budget + 1, np.inf)
        for k in range(1, min(most, budget) + 1):
            total = np.full(budget + 1, np.inf)
            total[k:] = errors[layer, k - 1] + after[: budget + 1 - k]
            better = total < left
            left[better] = total[better]
            choices[layer, better] = k
    ks, free = [], budget
    for layer in range(num_layers):
        ks.append(int(choices[layer, free]))
        free -= ks[-1]
    return tuple(ks)
