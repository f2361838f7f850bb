"""`Session`: a model under observation, and the only hooks in this package.

A `with` block. Inside it the model's experts run through our registry entry, its routers compute
in float32, and a policy may change each decision before the experts see it. Outside it the model
is what it was, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType

import torch
from jaxtyping import Float
from torch import Tensor

from moe_lens.corpus import TokenBatch
from moe_lens.engine import experts as registry
from moe_lens.engine.attention import blockwise_attention
from moe_lens.engine.by_rows import by_rows
from moe_lens.engine.float32 import float32_parameters
from moe_lens.engine.layers import last_hidden
from moe_lens.engine.major import LayerMajor
from moe_lens.engine.probe import Probe
from moe_lens.engine.streams import Stream
from moe_lens.engine.watch import LayerWatch, Rows, Sink
from moe_lens.engine.workspace import Workspace
from moe_lens.event import Field
from moe_lens.freed_memory import keep_freed_memory
from moe_lens.models.model import MoEModel
from moe_lens.policies import Identity, Policy


class Session:
    """Observe a model: `with Session(model, sink=..., fields=...) as session: session.run(batch)`.

    Args:
        model: What to observe.
        sink: Called with every MoE layer's event, in layer order. Its tensors are views of
            buffers that the next layer reuses: copy what must be kept.
        fields: What events carry beyond the routing.
        policy: Replaces each router's decision.
        float32_routers: Whether routers compute in float32 whatever the model's dtype: bfloat16
            logits change a few per cent of the choices.
        probe: If given, each token's layer also runs one expert that was not chosen, at weight 0:
            the model's output stays as it is (to rounding), and the Gram gets one more state, the
            last. One more expert per token runs for it.
    """

    def __init__(
        self,
        model: MoEModel,
        *,
        sink: Sink,
        fields: Iterable[Field] = (),
        policy: Policy | None = None,
        float32_routers: bool = True,
        probe: Probe | None = None,
    ) -> None:
        if model.store is not None and not float32_routers:
            raise ValueError("the routers of a model that is streamed compute in float32")
        self._model = model
        self._stream = Stream(
            policy=Identity() if policy is None else policy,
            sink=sink,
            fields=frozenset(fields),
            probe=probe,
        )
        self._policy = Identity() if policy is None else policy
        self._float32_routers = float32_routers
        self._stack = ExitStack()
        workspace = Workspace()
        wanted = frozenset(fields)
        self._watches = [
            LayerWatch(layer, wanted, sink=sink, workspace=workspace, probe=probe)
            for layer in model.layers
        ]

    def __enter__(self) -> Session:
        keep_freed_memory()
        if self._model.store is not None:
            return self  # its layers are hooked as they come
        try:
            self._install()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _install(self) -> None:
        hf = self._model.hf
        before = hf.config._experts_implementation
        hf.set_experts_implementation(registry.KEY)
        self._stack.enter_context(blockwise_attention())
        self._stack.enter_context(by_rows(hf))
        self._stack.callback(hf.set_experts_implementation, before)
        for watch in self._watches:
            for hook in watch.hooks(self._policy, cast_router=self._float32_routers):
                self._stack.callback(hook.remove)
            if self._float32_routers:
                self._stack.enter_context(float32_parameters(watch.modules.router))
            self._stack.callback(registry.detach, watch.modules.experts)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def expect(self, batch: TokenBatch, *, number: int = 0) -> None:
        """Say which tokens the next calls of the model's layers belong to; `run` does so itself."""
        rows = Rows.of(batch, self._model.device, number=number)
        for watch in self._watches:
            watch.rows = rows

    @torch.no_grad()
    def run(self, batch: TokenBatch, *, number: int = 0) -> Float[Tensor, "seq pos d_model"]:
        """Send a batch through; events reach the sink on the way.

        Each call reads all weights of a model that is streamed: `sweep` takes many batches.

        Args:
            batch: The batch.
            number: What its events call it.

        Returns:
            The last hidden states, after the final norm, padding included.
        """
        if self._model.store is not None:
            (swept,) = LayerMajor(self._model, [batch], [self._stream], number=number).run()
            return swept.hidden[0]
        self.expect(batch, number=number)
        return last_hidden(self._model, batch)
