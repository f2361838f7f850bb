"""`LayerReader`: decoder layers in order, the next one read while the current one computes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

from torch import nn

from moe_lens.models.model import MoEModel
from moe_lens.models.store import LayerStore
from moe_lens.models.structure import stack_name


class LayerReader:
    """Goes once through the layers of a store, in order.

    Attributes:
        waited_s: Seconds that computing waited for a layer, the first of all left out.
    """

    def __init__(self, store: LayerStore, *, first: int = 0) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._coming: dict[int, Future[None]] = {}
        self._first = first
        self.waited_s = 0.0

    def __enter__(self) -> LayerReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for index in self._coming:
            self._store.release(index)
        self._store.forget_memory()

    @contextmanager
    def layer(self, index: int) -> Iterator[None]:
        """Within the block the layer is there, and the next one on its way."""
        self._ask_for(index)
        started = time.perf_counter()
        self._coming[index].result()
        if index != self._first:
            self.waited_s += time.perf_counter() - started
        if index + 1 < len(self._store.layers):
            self._ask_for(index + 1)
        try:
            yield
        finally:
            del self._coming[index]
            self._store.release(index)

    def _ask_for(self, index: int) -> None:
        if index not in self._coming:
            self._coming[index] = self._pool.submit(self._store.load, index)


def each_layer(model: MoEModel) -> Iterator[tuple[int, str, nn.Module]]:
    """Every decoder layer in order: index, path of its tensors, and the layer, its weights there.

    The weights of a streamed model's layer go when the next one is asked for.
    """
    name = stack_name([layer.modules for layer in model.layers])
    store = model.store
    with nullcontext() if store is None else LayerReader(store) as reader:
        for index, layer in enumerate(model.hf.get_submodule(name).children()):
            with nullcontext() if reader is None else reader.layer(index):
                yield index, f"{name}.{index}.", layer
