"""Layer by layer: every batch and every stream goes through a layer before the next layer.

A group of streams is those whose residual streams are still the same, since no policy has made a
difference yet; it is computed once. Where a policy first makes one, everything up to the router
(attention, norms, shared experts, the router itself) is still computed once for the group.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from moe_lens.corpus import TokenBatch
from moe_lens.engine import experts as registry
from moe_lens.engine.activations import Activations, InFile, InMemory, Layout, check_disk
from moe_lens.engine.attention import blockwise_attention
from moe_lens.engine.boundary import (
    Boundary,
    Keeper,
    forget_boundary,
    read_boundary,
    write_boundary,
)
from moe_lens.engine.by_rows import by_rows
from moe_lens.engine.float32 import float32_parameters
from moe_lens.engine.layers import LayerCall, after_layers, layer_call, layer_calls
from moe_lens.engine.memo import remembered
from moe_lens.engine.reading import LayerReader
from moe_lens.engine.streams import Stream, Swept
from moe_lens.engine.watch import Decision, LayerWatch, Rows, Sent
from moe_lens.engine.workspace import Workspace
from moe_lens.event import LayerEvent
from moe_lens.freed_memory import keep_freed_memory
from moe_lens.models.model import LayerStack, MoEModel, ObservedLayer

Group = tuple[int, ...]
"""Streams that share a residual stream; the first one's slot is where it is kept."""


class LayerMajor:
    """Batches on their way through a model's layers.

    Args:
        model: A model with a stack.
        batches: They go through each layer together.
        streams: Ways of routing them.
        keeper: If given, the sweep can be killed, and goes on at the last layer that was done.
        progress: Told of tokens done, in all streams x tokens; a layer is its part of each.
        number: What events call the first of the batches.

    Attributes:
        waited_s: Seconds that computing waited for layers to be read, the first of all left out.

    Raises:
        InputError: Residual streams fit neither memory nor disk.
        UnsupportedModel: The family does not have what a stream asks for.
    """

    def __init__(
        self,
        model: MoEModel,
        batches: Sequence[TokenBatch],
        streams: Sequence[Stream],
        *,
        keeper: Keeper | None = None,
        progress: Callable[[int], None] | None = None,
        number: int = 0,
    ) -> None:
        assert model.stack is not None
        self._model, self._batches, self._streams = model, batches, streams
        self._stack: LayerStack = model.stack
        self._observed = {layer.modules.index: layer for layer in model.layers}
        self._rows = [Rows.of(b, model.device, number=i) for i, b in enumerate(batches, number)]
        self._workspace = Workspace()
        self._keeper, self._progress = keeper, progress or (lambda num_tokens: None)
        self._units = 0
        self._calls: list[LayerCall] = []
        self.waited_s = 0.0
        for layer in model.layers:  # refuse what a stream cannot have before any work
            for stream in streams:
                self._watch(layer, stream)
        everyone: Group = tuple(range(len(streams)))
        self._groups: list[list[Group]] = [[everyone] for _ in batches]
        self._first = 0
        if keeper is not None:
            self._go_on(keeper)
        self._held = self._activations()

    def _go_on(self, keeper: Keeper) -> None:
        sizes = [batch.num_tokens for batch in self._batches]
        boundary = read_boundary(keeper.directory, num_tokens=sizes)
        if boundary is None:
            return
        self._first = boundary.layer
        self._groups = [[tuple(group) for group in groups] for groups in boundary.groups]
        keeper.restore(boundary.layer)

    def _activations(self) -> Activations:
        model, keeper = self._model, self._keeper
        if model.store is None and keeper is None:
            return InMemory(model.device)
        shapes = [layer_call(model, self._stack, b, 0).hidden.shape for b in self._batches]
        layout = Layout(tuple(map(tuple, shapes)), model.hf.dtype, len(self._streams))
        if keeper is not None:
            check_disk(layout, keeper.directory, beside_bytes=keeper.reserved_bytes)
            return InFile(layout, keeper.directory, device=model.device, layer=self._first)
        assert model.store is not None
        room = model.store.room_bytes
        if room is None or layout.total_bytes <= room:
            return InMemory(model.device)
        check_disk(layout, Path(tempfile.gettempdir()), beside_bytes=0)
        return InFile(layout, None, device=model.device)

    def _watch(self, layer: ObservedLayer, stream: Stream) -> LayerWatch:
        return LayerWatch(
            layer,
            stream.fields,
            sink=stream.sink,
            workspace=self._workspace,
            probe=stream.probe,
        )

    def run(self) -> Iterator[Swept]:
        """Take all batches through all layers, then give them one by one."""
        keep_freed_memory()
        store, finished = self._model.store, False
        self._report(self._first * sum(batch.num_tokens for batch in self._batches))
        try:
            with (
                nullcontext() if store is None else LayerReader(store, first=self._first) as reader
            ):
                for index in range(self._first, len(self._stack.layers)):
                    with nullcontext() if reader is None else reader.layer(index):
                        self._layer(index)
                    self._held.advance()
                    self._leave_boundary(index + 1)
                if reader is not None:
                    self.waited_s = reader.waited_s
            yield from self._ends()
            finished = True
        finally:
            self._held.close(keep=self._keeper is not None and not finished)
            if finished and self._keeper is not None:
                forget_boundary(self._keeper.directory)

    def _ends(self) -> Iterator[Swept]:
        for place, batch in enumerate(self._batches):
            hidden: dict[int, Tensor] = {}
            for group in self._groups[place]:
                last = self._held.get(place, group[0])
                ends = after_layers(self._model, self._stack, batch, last)
                hidden |= dict.fromkeys(group, ends)
            yield Swept(batch, tuple(hidden[stream] for stream in range(len(self._streams))))

    def _leave_boundary(self, layer: int) -> None:
        """Sums and residual streams first; the boundary says that both are there."""
        if self._keeper is None:
            return
        self._keeper.save(layer)
        groups = [[list(group) for group in groups] for groups in self._groups]
        sizes = [batch.num_tokens for batch in self._batches]
        write_boundary(self._keeper.directory, Boundary(layer, groups, sizes))
        self._keeper.saved(layer)

    def _report(self, num_tokens: int) -> None:
        """Whole tokens of progress for tokens that went through one layer, in every stream."""
        num_layers = len(self._stack.layers)
        before, self._units = self._units, self._units + num_tokens * len(self._streams)
        self._progress(self._units // num_layers - before // num_layers)

    def _call(self, batch: TokenBatch, index: int) -> LayerCall:
        """How a layer is called; of one batch alone, all calls are found at once and kept."""
        if len(self._batches) > 1:
            return layer_call(self._model, self._stack, batch, index)
        if not self._calls:
            self._calls = layer_calls(self._model, self._stack, batch)
        return self._calls[index]

    @torch.no_grad()
    def _layer(self, index: int) -> None:
        module, observed = self._stack.layers[index], self._observed.get(index)
        entry = nullcontext() if observed is None else observing(self._model, observed)
        with blockwise_attention(), by_rows(module), entry:
            for place, batch in enumerate(self._batches):
                call = self._call(batch, index)
                parts: list[Group] = []
                for group in self._groups[place]:
                    hidden = call.hidden if index == 0 else self._held.get(place, group[0])
                    if observed is None:
                        found = iter([(group, call.on(module, hidden))])
                    else:
                        found = self._split(observed, call, group, hidden, self._rows[place])
                    for part, output in found:
                        self._held.put(place, part[0], output)
                        parts.append(part)
                self._groups[place] = parts
                self._report(batch.num_tokens)

    def _split(
        self, observed: ObservedLayer, call: LayerCall, group: Group, hidden: Tensor, rows: Rows
    ) -> Iterator[tuple[Group, Tensor]]:
        """Run a group through an MoE layer, once for each different decision."""
        left = list(group)
        with remembered(_before_experts(observed)) if len(left) > 1 else nullcontext():
            while left:
                leader, *others = left
                like = [i for i in others if _comparable(self._streams[i], self._streams[leader])]
                found = _Followers(self, observed, leader, like)
                output = found.run(call, hidden, rows)
                yield (leader, *found.same), output
                left = [i for i in others if i not in found.same]


class _Followers:
    """One run of an MoE layer for a stream, and the streams found to decide as it does."""

    def __init__(
        self, major: LayerMajor, observed: ObservedLayer, leader: int, others: Sequence[int]
    ) -> None:
        streams = major._streams
        self._observed, self._others = observed, others
        self._streams, self._leader = streams, streams[leader]
        self.same: list[int] = []
        to_all = Stream(self._leader.policy, self._feed, self._leader.fields, self._leader.probe)
        self._watch = major._watch(observed, to_all)
        self._watch.on_decided = self._compare

    def run(self, call: LayerCall, hidden: Tensor, rows: Rows) -> Tensor:
        """What leaves the layer."""
        self._watch.rows = rows
        with ExitStack() as stack:
            stack.callback(registry.detach, self._observed.modules.experts)
            for hook in self._watch.hooks(self._leader.policy, cast_router=True):
                stack.callback(hook.remove)
            return call.on(self._observed.modules.layer, hidden)

    def _compare(self, decision: Decision) -> None:
        for index in self._others:
            routing = self._streams[index].policy.apply(decision.own, decision.context)
            if _same(self._watch.send(routing, decision.context), decision.sent):
                self.same.append(index)

    def _feed(self, event: LayerEvent) -> None:
        self._leader.sink(event)
        for index in self.same:
            self._streams[index].sink(event)


def _comparable(one: Stream, other: Stream) -> bool:
    return one.fields == other.fields and one.probe == other.probe


def _same(one: Sent, other: Sent) -> bool:
    if (one.active is None) != (other.active is None):
        return False
    return all(
        a is b or torch.equal(a, b)
        for a, b in zip(one, other, strict=True)
        if a is not None and b is not None
    )


def _before_experts(observed: ObservedLayer) -> list[nn.Module]:
    """The modules of a layer whose work does not depend on the policy, if their input does not."""
    modules = observed.modules
    beside = [child for child in modules.layer.children() if child is not modules.block]
    inside = [child for child in modules.block.children() if child is not modules.experts]
    return [*beside, *inside]


@contextmanager
def observing(model: MoEModel, layer: ObservedLayer) -> Iterator[None]:
    """Within the block the layer's experts run through our entry, its router in float32."""
    before = model.hf.config._experts_implementation
    model.hf.set_experts_implementation(registry.KEY)
    try:
        with float32_parameters(layer.modules.router):
            yield
    finally:
        model.hf.set_experts_implementation(before)
