"""What each criterion needs of a model, and what a model cannot give.

Source: terms.md#importance
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from moe_lens.engine.probe import NextInLine, Probe
from moe_lens.event import Field
from moe_lens.models.model import MoEModel, ObservedLayer
from moe_lens.scoring.names import CRITERIA

_NORMS = frozenset({"ean_sum", "ean_mean", "msan", "reap", "gate_norm_sum", "easy_ep"})
_SCORES = frozenset({"soft_count", "reroute_error", "rank_removal"})
_RULES = _SCORES
_GRAMS = frozenset({"easy_ep", "reroute_error"})


@dataclass(frozen=True)
class Needs:
    """What a pass must be run with for some criteria.

    Attributes:
        fields: What events must carry.
        probe: The probe expert, or None.
    """

    fields: frozenset[Field]
    probe: Probe | None


def unavailable(model: MoEModel) -> dict[str, str]:
    """Criteria that this model cannot give, with the reason."""
    reasons: dict[str, str] = {}
    for layer in model.layers:
        where = f"layer {layer.modules.index}"
        facts = layer.facts
        if facts.rule is None:
            for name in _RULES:
                reasons.setdefault(name, f"{where}: no known rule reproduces the router's choice")
        elif not facts.rule.has_successor:
            reasons.setdefault(
                "reroute_error",
                f"{where}: which expert takes a masked one's place depends on which is masked "
                f"({facts.rule.describe()}), so its output is not computed",
            )
        if layer.modules.num_experts <= layer.modules.top_k:
            reasons.setdefault("reroute_error", f"{where}: every token uses every expert")
        if Field.GRAM not in facts.fields:
            for name in _GRAMS:
                reasons.setdefault(
                    name, f"{where}: the residual stream before the block cannot be told"
                )
        if Field.OUTPUTS not in facts.fields:
            for name in (*_NORMS, "max_abs"):
                reasons.setdefault(name, f"{where}: the experts' outputs cannot be told")
        _add_residual(reasons, layer)
    return {name: reasons[name] for name in CRITERIA if name in reasons}


def _add_residual(reasons: dict[str, str], layer: ObservedLayer) -> None:
    if layer.facts.residual_scale is None:
        why = "it norms its block's output first" if layer.facts.post_norm else "no known equation"
        reasons.setdefault(
            "easy_ep",
            f"layer {layer.modules.index}: residual plus routed experts is not a state of it "
            f"({why})",
        )


def needs_of(names: Collection[str], model: MoEModel) -> Needs:
    """What events and probe the criteria need; norms come from the Gram where it is there."""
    wanted = frozenset(names)
    fields: set[Field] = set()
    if wanted & _SCORES:
        fields.add(Field.SCORES)
    if wanted & _NORMS or "reroute_error" in wanted:
        fields.add(Field.GRAM if Field.GRAM in model.fields else Field.OUTPUTS)
    if "max_abs" in wanted:
        fields.add(Field.OUTPUTS)
    return Needs(frozenset(fields), NextInLine() if "reroute_error" in wanted else None)
