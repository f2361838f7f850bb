"""`remembered`: modules that are called again with the same input give the same output at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def remembered(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Within the block each module keeps its first call, and answers an equal one with it.

    Equal to the bit, tensor by tensor; hooks on the modules run as always. A call whose tensors
    were changed in place since is forgotten.
    """
    before = [module.__dict__.get("forward") for module in modules]
    for module in modules:
        module.__dict__["forward"] = _Memory(module.forward)
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward


class _Memory:
    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward
        self._kept: tuple[Any, Any] | None = None
        self._versions: list[int] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._kept is not None and _versions(self._kept) == self._versions:
            asked, given = self._kept
            if same_values(asked, (args, kwargs)):
                return given
        given = self._forward(*args, **kwargs)
        if self._kept is None:
            self._kept = ((args, kwargs), given)
            self._versions = _versions(self._kept)
        return given


def _versions(value: Any) -> list[int]:
    """Of every tensor in a nested value, how often it was changed in place."""
    if isinstance(value, Tensor):
        return [value._version]
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        return [version for part in value for version in _versions(part)]
    return []


def same_values(left: Any, right: Any) -> bool:
    """Whether two nested values are equal, their tensors to the bit."""
    if left is right:
        return True
    if type(left) is not type(right):
        return False
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_values(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same_values, left, right))
    return isinstance(left, bool | int | float | str) and bool(left == right)
