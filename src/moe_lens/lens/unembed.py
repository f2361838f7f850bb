"""`OutputHead` and `Unembedding`: from a residual state to token scores, proven on a probe.

Found by structure: the head is what transformers calls the output embeddings; the final norm is
the module beside the decoder layers that turns the last layer's output into the last hidden
states. Both are then put to the test against the model's own logits.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from moe_lens.corpus import TokenBatch
from moe_lens.engine.layers import ends_of
from moe_lens.engine.proof import probe_batch
from moe_lens.engine.recorder import Recorder
from moe_lens.engine.session import Session
from moe_lens.errors import InputError, ProofFailed, UnsupportedModel
from moe_lens.event import Field
from moe_lens.models.model import MoEModel

Norm = Literal["final", "none"]
NORMS: tuple[Norm, ...] = ("final", "none")

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
_UNSCALED = 1e-3


@dataclass(frozen=True, eq=False)
class OutputHead:
    """Token scores of a last hidden state: scale * (weight @ state + bias).

    Attributes:
        weight: One row for each vocabulary id, in the model's dtype.
        bias: One number for each vocabulary id, or None.
        scale: What the family multiplies its logits by.
    """

    weight: Float[Tensor, "vocab d_model"]
    bias: Float[Tensor, " vocab"] | None = None
    scale: float = 1.0

    @property
    def vocab_size(self) -> int:
        """How many tokens have a score."""
        return self.weight.shape[0]

    @property
    def wide_dtype(self) -> torch.dtype:
        """What scores are computed in: float32, or float64 for a float64 head."""
        return torch.promote_types(self.weight.dtype, torch.float32)

    def wide_bias(self, ids: Int[Tensor, " id"] | slice) -> Float[Tensor, " id"] | None:
        """What is added to the scores of these tokens, scaled."""
        return None if self.bias is None else self.bias[ids].to(self.wide_dtype) * self.scale


@dataclass(frozen=True, eq=False)
class Unembedding:
    """A head, and the norm that states pass on their way to it.

    Attributes:
        head: Scores of normed states.
        norm: The model's final norm, as a float32 copy.
    """

    head: OutputHead
    norm: nn.Module

    @torch.no_grad()
    def inputs(
        self, states: Float[Tensor, "*rows d_model"], *, norm: str = "final"
    ) -> Float[Tensor, "*rows d_model"]:
        """What the head reads for these states, in float32.

        Args:
            states: Of the residual stream, before any norm.
            norm: "final" passes them through the model's own final norm; "none" does not, as the
                paper's published code.

        Raises:
            InputError: `norm` is neither.
        """
        if norm not in NORMS:
            raise InputError(f"norm={norm!r} is unknown; choose one of {', '.join(NORMS)}")
        wide = states.float()
        if norm == "none":
            return wide
        normed: Tensor = self.norm(wide)
        return normed


@torch.no_grad()
def find_head(model: MoEModel) -> OutputHead:
    """The head of a model, and a proof that it gives the model's logits.

    Raises:
        UnsupportedModel: There is no linear head, or the logits are more than its scaled output
            (capped, or cut to a part of the vocabulary).
    """
    kind = model.model_type
    linear = model.hf.get_output_embeddings()
    if not isinstance(linear, nn.Linear):
        found = "none" if linear is None else type(linear).__name__
        raise UnsupportedModel(
            f"{kind}: the output head is not a linear layer (found: {found}), so states cannot "
            f"be decoded to tokens"
        )
    batch = probe_batch(model)
    ends = ends_of(model, batch)
    hidden, logits = ends.hidden, ends.logits.double()
    ours = nn.functional.linear(hidden, linear.weight, linear.bias).double()
    if ours.shape != logits.shape:
        raise UnsupportedModel(
            f"{kind}: the model gives scores for {logits.shape[-1]} tokens, its head has "
            f"{ours.shape[-1]}; which of them are cut is not known"
        )
    scale = float((ours * logits).sum() / (ours * ours).sum())
    scale = 1.0 if abs(scale - 1.0) < _UNSCALED else scale
    error = _relative_error(scale * ours, logits)
    if not error <= _tolerance(hidden):
        cap = getattr(model.hf.config.get_text_config(), "final_logit_softcapping", None)
        reason = "" if cap is None else f" (its config caps them softly at {cap})"
        raise UnsupportedModel(
            f"{kind}: the model's logits are no multiple of its head's output{reason}: relative "
            f"error {error:.2e}, allowed {_tolerance(hidden):.0e}"
        )
    return OutputHead(weight=linear.weight.detach(), bias=_detached(linear.bias), scale=scale)


@torch.no_grad()
def find_unembedding(model: MoEModel) -> Unembedding:
    """Head and final norm of a model, and a proof that they give the model's logits.

    Raises:
        UnsupportedModel: The head is refused (`find_head`), the last decoder layer has no
            experts, or no module turns its output into the last hidden states.
    """
    head = find_head(model)
    last, beside = _last_layer(model)
    probe = _observe_last(model, probe_batch(model), last)
    allowed = _tolerance(probe.hidden)
    errors = {}
    for name, module in beside.items():
        norm = copy.deepcopy(module).float()
        error = _relative_error(norm(probe.layer_output.float()).double(), probe.hidden.double())
        if error <= allowed:
            return Unembedding(head=head, norm=norm)
        errors[name] = error
    tried = ", ".join(f"{name}: {error:.2e}" for name, error in errors.items()) or "none"
    raise ProofFailed(
        f"{model.model_type}: no module beside the decoder layers turns the last layer's output "
        f"into the last hidden states (relative errors of the norms tried: {tried}; allowed "
        f"{allowed:.0e}), so states of the residual stream cannot be decoded"
    )


class _Probe(NamedTuple):
    layer_output: Float[Tensor, "tok d_model"]
    hidden: Float[Tensor, "tok d_model"]


def _observe_last(model: MoEModel, batch: TokenBatch, last: int) -> _Probe:
    if model.stack is not None and Field.LAYER_OUTPUT in model.fields:
        hidden = ends_of(model, batch).hidden
        return _Probe(_flat(model.stack.probe), _flat(hidden))
    recorder = Recorder({Field.LAYER_OUTPUT})
    with Session(model, sink=recorder.update, fields=recorder.fields) as session:
        hidden = session.run(batch)
    event = next(event for event in recorder.events if event.layer == last)
    assert event.layer_output is not None
    return _Probe(event.layer_output, _flat(hidden))


def _flat(hidden: Tensor) -> Tensor:
    return hidden.reshape(-1, hidden.shape[-1])


def _last_layer(model: MoEModel) -> tuple[int, dict[str, nn.Module]]:
    """Index of the last decoder layer, and the norms beside the decoder layers."""
    modules = model.layers[-1].modules
    stack_name = modules.name.rpartition(".")[0]
    stack = model.hf.get_submodule(stack_name)
    num_layers = len(list(stack.children()))
    if modules.index != num_layers - 1:
        raise UnsupportedModel(
            f"{model.model_type}: the last decoder layer ({num_layers - 1}) has no experts, so "
            f"its output is not observed and the final norm cannot be proven"
        )
    parent = model.hf.get_submodule(stack_name.rpartition(".")[0])
    return modules.index, {name: m for name, m in parent.named_children() if _is_norm(m)}


def _is_norm(module: nn.Module) -> bool:
    sizes = [parameter.dim() for parameter in module.parameters()]
    return len(sizes) > 0 and max(sizes) == 1


def _tolerance(hidden: Tensor) -> float:
    return _TOLERANCES[hidden.dtype]


def _relative_error(ours: Tensor, model: Tensor) -> float:
    if ours.shape != model.shape:
        return float("inf")
    return float((ours - model).abs().max() / model.abs().max().clamp_min(1e-30))


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
