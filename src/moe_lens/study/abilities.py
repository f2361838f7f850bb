"""Which measures a model can give, and what they read it with, found once for all passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moe_lens.errors import UnsupportedModel
from moe_lens.lens.states import residual_scales
from moe_lens.lens.unembed import OutputHead, Unembedding, find_head, find_unembedding
from moe_lens.models.model import MoEModel
from moe_lens.study.spec import StudySpec


@dataclass(frozen=True, eq=False)
class Abilities:
    """What a run can measure of its model.

    Attributes:
        measures: Those of the spec that the model can give, in its order.
        skipped: The others, each with the reason.
        head: For perplexity.
        unembedding: For the lens.
    """

    measures: tuple[str, ...]
    skipped: dict[str, str]
    head: OutputHead | None
    unembedding: Unembedding | None


def abilities_of(model: MoEModel, spec: StudySpec) -> Abilities:
    """Try what each measure needs; heads are proven here, and nowhere again.

    Raises:
        UnsupportedModel: The model can give none of the measures.
    """
    found: dict[str, object] = {}
    skipped: dict[str, str] = {}
    needs: dict[str, Callable[[MoEModel], object]] = {
        "routing": lambda model: None,
        "similarity": residual_scales,
        "perplexity": find_head,
        "lens": _unembedding,
    }
    for name in spec.measures:
        try:
            found[name] = needs[name](model)
        except UnsupportedModel as error:
            skipped[name] = str(error)
    ruleless = any(layer.facts.rule is None for layer in model.layers)
    if "perplexity" in spec.measures and "native" in spec.renorms and ruleless:
        skipped["perplexity"] = (
            "no known rule reproduces a router of this model, so what it does with a smaller "
            "top-k is not known; ask for the renorms keep_mass or none"
        )
    measures = tuple(name for name in spec.measures if name not in skipped)
    if not measures:
        raise UnsupportedModel(next(iter(skipped.values())))
    head, unembedding = found.get("perplexity"), found.get("lens")
    assert head is None or isinstance(head, OutputHead)
    assert unembedding is None or isinstance(unembedding, Unembedding)
    return Abilities(measures, skipped, head, unembedding)


def _unembedding(model: MoEModel) -> Unembedding:
    residual_scales(model)
    return find_unembedding(model)
