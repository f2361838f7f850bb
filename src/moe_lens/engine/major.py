"""Layer by layer: every batch and every stream goes through a layer before the next layer.

A group of streams is those whose residual streams are still the same, since no policy has made a
difference yet; it is computed once. Where a policy first makes one, everything up to the router
(attention, norms, shared experts, the router itself) is still computed once for the group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from moe_lens.corpus import TokenBatch
from moe_lens.engine import experts as registry
from moe_lens.engine.float32 import float32_parameters
from moe_lens.engine.layers import LayerCall, after_layers, layer_call
from moe_lens.engine.memo import remembered
from moe_lens.engine.reading import LayerReader
from moe_lens.engine.streams import Stream, Swept
from moe_lens.engine.watch import Decision, LayerWatch, Rows, Sent
from moe_lens.engine.workspace import Workspace
from moe_lens.event import LayerEvent
from moe_lens.models.model import LayerStack, MoEModel, ObservedLayer


class _Group:
    """Streams that share a residual stream."""

    def __init__(self, streams: tuple[int, ...], hidden: Tensor) -> None:
        self.streams, self.hidden = streams, hidden


class LayerMajor:
    """Batches on their way through a model's layers.

    Args:
        model: A model with a stack.
        batches: They are all in memory until they are done.
        streams: Ways of routing them.
    """

    def __init__(
        self, model: MoEModel, batches: Sequence[TokenBatch], streams: Sequence[Stream]
    ) -> None:
        assert model.stack is not None
        self._model, self._batches, self._streams = model, batches, streams
        self._stack: LayerStack = model.stack
        self._observed = {layer.modules.index: layer for layer in model.layers}
        self._rows = [Rows.of(b, model.device, number=i) for i, b in enumerate(batches)]
        self._groups: list[list[_Group]] = []
        self._workspace = Workspace()
        for layer in model.layers:  # refuse what a stream cannot have before any work
            for stream in streams:
                self._watch(layer, stream)

    def _watch(self, layer: ObservedLayer, stream: Stream) -> LayerWatch:
        return LayerWatch(
            layer,
            stream.fields,
            sink=stream.sink,
            workspace=self._workspace,
            probe=stream.probe,
        )

    @torch.no_grad()
    def run(self) -> Iterator[Swept]:
        """Take all batches through all layers, then give them one by one."""
        store = self._model.store
        with nullcontext() if store is None else LayerReader(store) as reader:
            for index in range(len(self._stack.layers)):
                with nullcontext() if reader is None else reader.layer(index):
                    self._layer(index)
        for batch, groups in zip(self._batches, self._groups, strict=True):
            hidden: dict[int, Tensor] = {}
            for group in groups:
                ends = after_layers(self._model, self._stack, batch, group.hidden)
                hidden |= dict.fromkeys(group.streams, ends)
            groups.clear()
            yield Swept(batch, tuple(hidden[stream] for stream in range(len(self._streams))))

    def _layer(self, index: int) -> None:
        module, observed = self._stack.layers[index], self._observed.get(index)
        with nullcontext() if observed is None else observing(self._model, observed):
            for place, batch in enumerate(self._batches):
                call = layer_call(self._model, self._stack, batch, index)
                if index == 0:
                    everyone = tuple(range(len(self._streams)))
                    self._groups.append([_Group(everyone, call.hidden)])
                if observed is None:
                    for group in self._groups[place]:
                        group.hidden = call.on(module, group.hidden)
                else:
                    self._groups[place] = [
                        part
                        for group in self._groups[place]
                        for part in self._split(observed, call, group, self._rows[place])
                    ]

    def _split(
        self, observed: ObservedLayer, call: LayerCall, group: _Group, rows: Rows
    ) -> Iterator[_Group]:
        """Run a group through an MoE layer, once for each different decision."""
        left = list(group.streams)
        with remembered(_before_experts(observed)) if len(left) > 1 else nullcontext():
            while left:
                leader, *others = left
                like = [i for i in others if _comparable(self._streams[i], self._streams[leader])]
                found = _Followers(self, observed, leader, like)
                output = found.run(call, group.hidden, rows)
                yield _Group((leader, *found.same), output)
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
