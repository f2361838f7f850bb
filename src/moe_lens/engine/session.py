"""`Session`: a model under observation, and the only hooks in this package.

A `with` block. Inside it the model's experts run through our registry entry, its routers compute
in float32, and a policy may change each decision before the experts see it. Outside it the model
is what it was, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from moe_lens.corpus import TokenBatch
from moe_lens.engine import experts as registry
from moe_lens.engine.float32 import float32_parameters
from moe_lens.errors import ProofFailed, UnsupportedModel
from moe_lens.event import Field, LayerEvent, Tokens
from moe_lens.models.model import MoEModel, ObservedLayer
from moe_lens.policies import Identity, Policy, RouterContext
from moe_lens.routing import Routing

Sink = Callable[[LayerEvent], None]

_NEED_STATES = frozenset({Field.GRAM, Field.OUTPUTS})
_NEED_RESIDUAL = frozenset({Field.GRAM, Field.RESID_MID})
_NEED_SHARED = frozenset({Field.GRAM, Field.SHARED, Field.BLOCK_OUTPUT})


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
    """

    def __init__(
        self,
        model: MoEModel,
        *,
        sink: Sink,
        fields: Iterable[Field] = (),
        policy: Policy | None = None,
        float32_routers: bool = True,
    ) -> None:
        self._model = model
        self._policy = Identity() if policy is None else policy
        self._float32_routers = float32_routers
        self._stack = ExitStack()
        workspace = registry.Workspace()
        wanted = frozenset(fields)
        self._watches = [
            _LayerWatch(layer, wanted, sink=sink, workspace=workspace) for layer in model.layers
        ]

    def __enter__(self) -> Session:
        hf = self._model.hf
        before = hf.config._experts_implementation
        hf.set_experts_implementation(registry.KEY)
        self._stack.callback(hf.set_experts_implementation, before)
        for watch in self._watches:
            for hook in watch.hooks(self._policy, cast_router=self._float32_routers):
                self._stack.callback(hook.remove)
            if self._float32_routers:
                self._stack.enter_context(float32_parameters(watch.modules.router))
            self._stack.callback(registry.detach, watch.modules.experts)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def expect(self, batch: TokenBatch) -> None:
        """Say which tokens the next calls of the model's layers belong to; `run` does so itself."""
        rows = _Rows.of(batch, self._model.device)
        for watch in self._watches:
            watch.rows = rows

    @torch.no_grad()
    def run(self, batch: TokenBatch) -> Float[Tensor, "seq pos d_model"]:
        """Send a batch through; events reach the sink on the way.

        Returns:
            The last hidden states, after the final norm, padding included.
        """
        self.expect(batch)
        device = self._model.device
        output = self._model.hf.base_model(
            input_ids=batch.input_ids.to(device),
            attention_mask=batch.attention_mask.to(device),
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden


class _Rows:
    """The batch's tokens in the flat order in which blocks see them, and which of them count."""

    def __init__(self, tokens: Tokens, counted: Bool[Tensor, " tok"]) -> None:
        self.all = tokens
        self.counted = None if bool(counted.all()) else counted.nonzero().squeeze(1)
        self.events = Tokens(
            ids=self.pick(tokens.ids),
            document=self.pick(tokens.document),
            position=self.pick(tokens.position),
        )

    @staticmethod
    def of(batch: TokenBatch, device: torch.device) -> _Rows:
        tokens = Tokens(
            ids=batch.input_ids.to(device).reshape(-1),
            document=batch.document.to(device).reshape(-1),
            position=batch.position.to(device).reshape(-1),
        )
        return _Rows(tokens, batch.counted.to(device).reshape(-1))

    def pick(self, values: Tensor) -> Tensor:
        """The rows that count."""
        return values if self.counted is None else values.index_select(0, self.counted)


class _LayerWatch:
    """Collects one layer's parts during a forward pass and hands over its event."""

    rows: _Rows

    def __init__(
        self,
        layer: ObservedLayer,
        fields: frozenset[Field],
        *,
        sink: Sink,
        workspace: registry.Workspace,
    ) -> None:
        self.modules, self.facts = layer.modules, layer.facts
        self._fields, self._sink = fields, sink
        self._tap = registry.ExpertsTap(workspace)
        self._routing: Routing | None = None
        self._parts: dict[str, Tensor] = {}
        missing = sorted(f.value for f in fields - self.facts.fields)
        if missing:
            raise UnsupportedModel(
                f"layer {self.modules.index}: {', '.join(missing)} cannot be told in this family, "
                f"since its block joins the residual stream in a way that no known equation "
                f"describes; it has {', '.join(sorted(f.value for f in self.facts.fields))}"
            )

    def hooks(self, policy: Policy, *, cast_router: bool) -> list[Any]:
        """Register what this layer's fields need, and nothing else."""
        modules = self.modules
        registry.attach(modules.experts, self._tap)
        hooks = [
            modules.router.register_forward_hook(self._decide(policy)),
            modules.layer.register_forward_hook(self._emit),
        ]
        if cast_router:
            hooks.append(modules.router.register_forward_pre_hook(_cast_inputs, with_kwargs=True))
        source = self.facts.residual_source
        if self._fields & _NEED_RESIDUAL and source is not None:
            keep = self._keep_input("resid_mid")
            hooks.append(source.register_forward_pre_hook(keep, with_kwargs=True))
        if self._fields & _NEED_SHARED:
            for name, module in (("shared", modules.shared), ("gate", modules.shared_gate)):
                if module is not None:
                    hooks.append(module.register_forward_hook(self._keep_output(name)))
        if Field.BLOCK_OUTPUT in self._fields:
            hooks.append(modules.block.register_forward_hook(self._keep_output("block")))
        return hooks

    def _decide(self, policy: Policy) -> Callable[..., Any]:
        def hook(router: nn.Module, args: Any, output: Any) -> Any:
            if len(output) != 3:
                raise UnsupportedModel(
                    f"layer {self.modules.index}: the router {type(router).__name__} returns "
                    f"{len(output)} values, not (scores, weights, experts); what the others do "
                    f"to the block is not known"
                )
            scores, weights, experts = output
            own = Routing.from_choice(
                experts, weights, num_experts=self.modules.num_experts, scores=scores
            )
            context = RouterContext(self.modules.index, self.rows.all, self.facts.rule)
            routing = policy.apply(own, context)
            self._routing = routing
            self._tap.active = None if routing is own else routing.active
            return scores, routing.weights, routing.experts

        return hook

    def _keep_input(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._parts[name] = args[0] if args else kwargs["hidden_states"]

        return hook

    def _keep_output(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._parts[name] = output[0] if isinstance(output, tuple) else output

        return hook

    def _emit(self, module: nn.Module, args: Any, output: Any) -> None:
        routing, tap = self._routing, self._tap
        if routing is None or tap.states is None:
            part = "router was" if routing is None else "experts were"
            raise ProofFailed(
                f"layer {self.modules.index}: its {part} not called through the seam that is "
                f"observed when the layer ran; nothing can be said of it"
            )
        routing = self._as_used(routing)
        if Field.LAYER_OUTPUT in self._fields:
            self._parts["layer"] = output[0] if isinstance(output, tuple) else output
        rows, states = self.rows, tap.states
        shared = self._shared() if self._fields & _NEED_SHARED else None
        gram = None
        if Field.GRAM in self._fields:
            states[:, 0] = _flat(self._parts["resid_mid"])
            states[:, 1] = 0 if shared is None else shared
            gram = torch.bmm(states, states.mT)
        self._sink(
            LayerEvent(
                layer=self.modules.index,
                tokens=rows.events,
                routing=_counted(routing, rows, keep_scores=Field.SCORES in self._fields),
                gram=self._part(Field.GRAM, gram),
                outputs=self._part(Field.OUTPUTS, states[:, registry.NUM_LEADING_STATES :]),
                shared=self._part(Field.SHARED, shared),
                resid_mid=self._part(Field.RESID_MID, self._parts.get("resid_mid")),
                block_output=self._part(Field.BLOCK_OUTPUT, self._block_output(shared)),
                layer_output=self._part(Field.LAYER_OUTPUT, self._parts.get("layer")),
            )
        )
        self._routing = tap.states = tap.experts = tap.weights = None
        self._parts.clear()

    def _as_used(self, routing: Routing) -> Routing:
        """What the experts received, which a block may have cast or scaled on the way."""
        tap, scale = self._tap, self.facts.routed_scale
        assert tap.experts is not None
        assert tap.weights is not None
        if tap.experts is not routing.experts and not torch.equal(tap.experts, routing.experts):
            raise UnsupportedModel(
                f"layer {self.modules.index}: the block changes the router's choice before its "
                f"experts see it, so what the router returned is not what the model used"
            )
        if tap.weights is routing.weights and scale == 1.0:
            return routing
        return replace(routing, weights=tap.weights.float() * scale)

    def _shared(self) -> Float[Tensor, "tok d_model"]:
        output = self._parts.get("shared")
        if output is None:
            assert self._tap.states is not None
            return torch.zeros_like(self._tap.states[:, 0])
        gate, scale = self._parts.get("gate"), self.facts.shared_scale
        output = _flat(output)
        output = output if gate is None else torch.sigmoid(_flat(gate)) * output
        return output if scale == 1.0 else output * scale

    def _block_output(self, shared: Tensor | None) -> Tensor | None:
        block = self._parts.get("block")
        if block is None or self.modules.shared_in_block or shared is None:
            return block
        return _flat(block) + shared

    def _part(self, field: Field, value: Tensor | None) -> Tensor | None:
        if field not in self._fields or value is None:
            return None
        flat = value if field in _NEED_STATES else _flat(value)
        return self.rows.pick(flat)


def _flat(value: Tensor) -> Tensor:
    return value.reshape(-1, value.shape[-1])


def _counted(routing: Routing, rows: _Rows, *, keep_scores: bool) -> Routing:
    if rows.counted is None and keep_scores:
        return routing
    kept: Int[Tensor, " row"] | slice = slice(None) if rows.counted is None else rows.counted
    return Routing(
        scores=routing.scores[kept] if keep_scores and routing.scores is not None else None,
        weights=routing.weights[kept],
        experts=routing.experts[kept],
        active=routing.active[kept],
        num_experts=routing.num_experts,
    )


def _cast_inputs(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return tuple(_wide(a) for a in args), {name: _wide(a) for name, a in kwargs.items()}


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
