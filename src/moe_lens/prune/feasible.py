"""`feasibility`: can this budget be kept and exported? Asked before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moe_lens.errors import UnsupportedModel
from moe_lens.loading import EMBEDDED, embedded_model
from moe_lens.models.config import find_config
from moe_lens.prune.checkpoint import check_plan, open_checkpoint, refuse_uneven
from moe_lens.prune.choosing import bundle_size, check_budget, choose, least_kept, random_scores
from moe_lens.prune.plan import Budget, Plan, as_shape
from moe_lens.prune.shape import ModelShape, shape_of_config


@dataclass(frozen=True)
class Feasibility:
    """What a budget means for a model.

    Attributes:
        model: Its shape.
        budget: The budget, which can be kept.
        step: Every layer keeps a multiple of this.
        least: The fewest experts a layer may keep.
        why_not_exported: Why the result can be simulated only; None where it can be exported.
        num_bytes: Size of the weights before and after; None where no weights lie here.
    """

    model: ModelShape
    budget: Budget
    step: int
    least: int
    why_not_exported: str | None
    num_bytes: tuple[int, int] | None


def feasibility(
    source: str,
    *,
    keep: int,
    shape: str = "uniform",
    multiple_of: int = 1,
    top_k: int | None = None,
    without_mtp: bool = False,
    revision: str | None = None,
) -> Feasibility:
    """Say whether a budget can be kept and exported, from config and headers alone.

    Args:
        source: A directory, a hub id, or "demo".
        keep: Experts of each layer that stay.
        shape: "uniform" or "global".
        multiple_of: Every layer keeps a multiple of this.
        top_k: Active experts of the pruned model; None for the model's own.
        without_mtp: Whether multi-token prediction heads would be left out.
        revision: Of a hub id.

    Raises:
        InputError: The budget cannot be kept at all; the message says what could.
        UnsupportedModel: The model has no experts that can be found.
    """
    target = str(embedded_model()) if source == EMBEDDED else source
    model = replace(shape_of_config(target, revision=revision), source=source)
    budget = Budget(keep, as_shape(shape), multiple_of)
    check_budget(model, budget, top_k=top_k)
    directory = find_config(target, revision=revision).parent
    plan = Plan(
        model=model,
        criterion="",
        domains=(),
        calibration={},
        budget=budget,
        keep=choose(model, budget, random_scores(model, seed=0), top_k=top_k),
        top_k=top_k,
    )
    why_not, num_bytes = None, None
    try:
        if any(directory.glob("*.safetensors")):
            checkpoint = open_checkpoint(directory, source=source)
            after = sum(output.num_bytes for output in checkpoint.outputs(plan))
            num_bytes = (checkpoint.num_bytes, after)
            check_plan(checkpoint, plan, without_mtp=without_mtp)
        refuse_uneven(plan)
    except UnsupportedModel as error:
        why_not = str(error)
    least = least_kept(model, budget, model.top_k if top_k is None else top_k)
    return Feasibility(model, budget, bundle_size(model, budget), least, why_not, num_bytes)
