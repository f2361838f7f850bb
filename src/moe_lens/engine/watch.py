"""One layer under observation: what its hooks collect, and the event that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from moe_lens.corpus import TokenBatch
from moe_lens.engine import experts as registry
from moe_lens.engine.probe import Probe
from moe_lens.engine.states import gram as gram_of
from moe_lens.engine.states import keep_rows
from moe_lens.engine.workspace import Workspace
from moe_lens.errors import ProofFailed, UnsupportedModel
from moe_lens.event import Field, LayerEvent, Tokens
from moe_lens.models.model import ObservedLayer
from moe_lens.policies import BatchPlace, Policy, RouterContext
from moe_lens.routing import Routing

Sink = Callable[[LayerEvent], None]

_NEED_RESIDUAL = frozenset({Field.GRAM, Field.RESID_MID})
_NEED_SHARED = frozenset({Field.GRAM, Field.SHARED, Field.BLOCK_OUTPUT})


class Rows:
    """The batch's tokens in the flat order in which blocks see them, and which of them count."""

    def __init__(
        self,
        tokens: Tokens,
        counted: Bool[Tensor, " tok"],
        place: BatchPlace | None = None,
        *,
        batch: int = 0,
    ) -> None:
        self.batch = batch
        self.all, self.place = tokens, place
        self.counted = None if bool(counted.all()) else counted.nonzero().squeeze(1)
        self.events = Tokens(
            ids=self.pick(tokens.ids),
            document=self.pick(tokens.document),
            position=self.pick(tokens.position),
        )

    @staticmethod
    def of(batch: TokenBatch, device: torch.device, *, number: int = 0) -> Rows:
        """The rows of a batch, on the model's device; `number` is the batch's among several."""
        tokens = Tokens(
            ids=batch.input_ids.to(device).reshape(-1),
            document=batch.document.to(device).reshape(-1),
            position=batch.position.to(device).reshape(-1),
        )
        sequences, width = batch.input_ids.shape
        place = BatchPlace(
            sequence=torch.arange(sequences, device=device).repeat_interleave(width),
            column=torch.arange(width, device=device).repeat(sequences),
            real=batch.attention_mask.to(device).reshape(-1),
        )
        return Rows(tokens, batch.counted.to(device).reshape(-1), place, batch=number)

    def pick(self, values: Tensor) -> Tensor:
        """The rows that count."""
        return values if self.counted is None else values.index_select(0, self.counted)


class Sent(NamedTuple):
    """What a layer's experts are given."""

    experts: Int[Tensor, "tok slot"]
    weights: Float[Tensor, "tok slot"]
    active: Bool[Tensor, "tok slot"] | None


class Decision(NamedTuple):
    """A router's own decision, where it was made, and what the policy made the experts get."""

    own: Routing
    context: RouterContext
    sent: Sent


class LayerWatch:
    """Collects one layer's parts during a forward pass and hands over its event."""

    rows: Rows

    def __init__(
        self,
        layer: ObservedLayer,
        fields: frozenset[Field],
        *,
        sink: Sink,
        workspace: Workspace,
        probe: Probe | None,
    ) -> None:
        self.modules, self.facts = layer.modules, layer.facts
        self._fields, self._sink, self._probe = fields, sink, probe
        self._tap = registry.ExpertsTap(workspace)
        self._routing: Routing | None = None
        self._sent: Sent | None = None
        self.on_decided: Callable[[Decision], None] | None = None
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
            context = RouterContext(
                self.modules.index, self.rows.all, self.facts.rule, self.rows.place
            )
            routing = policy.apply(own, context)
            self._routing, self._sent = routing, self.send(routing, context)
            self._tap.active = self._sent.active
            if self.on_decided is not None:
                self.on_decided(Decision(own, context, self._sent))
            return scores, self._sent.weights, self._sent.experts

        return hook

    def send(self, routing: Routing, context: RouterContext) -> Sent:
        """What the experts get: the routing, and with a probe one more slot at weight 0."""
        active = self._to_compute(routing, context)
        if self._probe is None:
            return Sent(routing.experts, routing.weights, active)
        probe = self._probe.choose(routing, context)
        if active is not None:
            real = _real(context)
            probed = torch.ones_like(active[:, :1]) if real is None else real.unsqueeze(1)
            active = torch.cat([active, probed], dim=1)
        weights = torch.cat([routing.weights, torch.zeros_like(routing.weights[:, :1])], dim=1)
        return Sent(torch.cat([routing.experts, probe], dim=1), weights, active)

    def _to_compute(
        self, routing: Routing, context: RouterContext
    ) -> Bool[Tensor, "tok slot"] | None:
        """The slots whose expert must run: those in use, of tokens that are not padding."""
        real = _real(context)
        active = routing.active if real is None else routing.active & real.unsqueeze(1)
        return None if bool(active.all()) else active

    def _keep_input(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._parts[name] = args[0] if args else kwargs["hidden_states"]

        return hook

    def _keep_output(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._parts[name] = output[0] if isinstance(output, tuple) else output

        return hook

    @torch.no_grad()
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
            gram = gram_of(states)
        self._sink(
            LayerEvent(
                layer=self.modules.index,
                tokens=rows.events,
                routing=_counted(routing, rows, keep_scores=Field.SCORES in self._fields),
                gram=self._part(Field.GRAM, gram),
                outputs=self._outputs(states, routing.num_slots),
                shared=self._part(Field.SHARED, shared),
                resid_mid=self._part(Field.RESID_MID, self._parts.get("resid_mid")),
                block_output=self._part(Field.BLOCK_OUTPUT, self._block_output(shared)),
                layer_output=self._part(Field.LAYER_OUTPUT, self._parts.get("layer")),
                batch=rows.batch,
            )
        )
        self._routing = self._sent = tap.states = tap.experts = tap.weights = None
        self._parts.clear()

    def _as_used(self, routing: Routing) -> Routing:
        """What the experts received, which a block may have cast or scaled on the way."""
        tap, sent, scale = self._tap, self._sent, self.facts.routed_scale
        assert sent is not None
        assert tap.experts is not None
        assert tap.weights is not None
        if tap.experts is not sent.experts and not torch.equal(tap.experts, sent.experts):
            raise UnsupportedModel(
                f"layer {self.modules.index}: the block changes the router's choice before its "
                f"experts see it, so what the router returned is not what the model used"
            )
        if tap.weights is sent.weights and scale == 1.0:
            return routing
        return replace(routing, weights=tap.weights[:, : routing.num_slots].float() * scale)

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

    def _outputs(self, states: Tensor, num_slots: int) -> Tensor | None:
        """Where they lie, after the last use of all other states: there is no room for a copy."""
        if Field.OUTPUTS not in self._fields:
            return None
        counted, first = self.rows.counted, registry.NUM_LEADING_STATES
        kept = states if counted is None else keep_rows(states, counted)
        return kept[:, first : first + num_slots]

    def _part(self, field: Field, value: Tensor | None) -> Tensor | None:
        if field not in self._fields or value is None:
            return None
        flat = value if field is Field.GRAM else _flat(value)
        return self.rows.pick(flat)


def _real(context: RouterContext) -> Bool[Tensor, " tok"] | None:
    return None if context.place is None else context.place.real


def _flat(value: Tensor) -> Tensor:
    return value.reshape(-1, value.shape[-1])


def _counted(routing: Routing, rows: Rows, *, keep_scores: bool) -> Routing:
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
