"""States of several statistics in one file: each under its owner's name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_SEPARATOR = "/"


def together(states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all owners, under names that say whose they are."""
    return {
        f"{owner}{_SEPARATOR}{name}": tensor
        for owner, state in states.items()
        for name, tensor in state.items()
    }


def state_of(states: Mapping[str, Tensor], owner: str) -> dict[str, Tensor]:
    """What one owner put in."""
    prefix = owner + _SEPARATOR
    return {n.removeprefix(prefix): t for n, t in states.items() if n.startswith(prefix)}
