"""`compensate`: what a plan's smaller number of active experts loses in mass, given back.

Where a router's weights are not renormalised, fewer active experts add a smaller sum. One factor a
layer, fitted on text, brings it nearest to the full one; the plan carries it, its simulation
applies it, its export writes it into the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

from moe_lens.corpus import TokenBatch, TokenizedCorpus, batches
from moe_lens.errors import InputError
from moe_lens.models.model import MoEModel
from moe_lens.policies import KeepTopK
from moe_lens.prune.plan import Plan
from moe_lens.prune.simulation import check_fit
from moe_lens.study.calibration import fit_scales
from moe_lens.study.fingerprint import routers_sha256
from moe_lens.study.opening import open_corpus, open_model, within_budget
from moe_lens.study.run import Progress
from moe_lens.study.spec import ModelSpec, TextSpec


def compensate(
    model: ModelSpec,
    text: TextSpec,
    plan: Plan,
    *,
    batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> Plan:
    """The plan with a fitted factor on each layer's routed sum.

    Args:
        model: What the plan is for.
        text: What the factors are fitted on; evaluate them on other text.
        plan: A plan whose `top_k` is below the model's own.
        batch_tokens: Tokens in memory at a time.
        progress: Shows what is being done; None for silence.

    Raises:
        InputError: The plan does not fit the model, or leaves its number of active experts.
        UnsupportedModel: The family has no Gram, or no known choice rule.
    """
    _check_fewer(plan)
    corpus = open_corpus(text)  # first: its mistakes are told before a model is loaded
    loaded = open_model(model)
    tokenized = within_budget(loaded, corpus, text)
    show = progress or (lambda what, total: nullcontext(lambda num_tokens: None))
    with show("fitting", tokenized.num_tokens) as advance:
        return compensate_on(loaded, tokenized, plan, batch_tokens=batch_tokens, advance=advance)


def compensate_on(
    model: MoEModel,
    tokenized: TokenizedCorpus,
    plan: Plan,
    *,
    batch_tokens: int = 4096,
    advance: Callable[[int], None] | None = None,
) -> Plan:
    """As `compensate`, with the model and the text at hand.

    The factor of a layer is the least-squares one between what all of a token's experts add and
    what the model itself would add with the plan's `top_k`, renormalised if its router does so:
    that is what the exported checkpoint computes. It is fitted with all experts in place.
    """
    _check_fewer(plan)
    check_fit(plan, model, routers_sha256=routers_sha256(model))

    def counted() -> Iterator[TokenBatch]:
        for batch in batches(tokenized, batch_tokens=batch_tokens):
            yield batch
            if advance is not None:
                advance(batch.num_tokens)

    scales = fit_scales(model, counted(), KeepTopK(plan.active))
    described = tokenized.describe()
    source = {name: described[name] for name in ("sha256", "num_tokens") if name in described}
    calibration = {**plan.calibration, "scale": source}
    return replace(plan, scale=scales, calibration=calibration)


def _check_fewer(plan: Plan) -> None:
    if plan.active >= plan.model.top_k:
        raise InputError(
            f"the plan leaves each token its {plan.model.top_k} experts, so there is no mass to "
            f"give back; plan with --top-k below that"
        )
