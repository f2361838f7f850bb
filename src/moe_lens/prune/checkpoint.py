"""`Checkpoint`: a directory on disk that was found fit for export, or refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moe_lens.errors import InputError, UnsupportedModel
from moe_lens.models.config import CONFIG, find_config, read_config
from moe_lens.models.routers import hash_routers
from moe_lens.models.structure import NUM_EXPERTS_NAMES
from moe_lens.prune.config_json import TOP_K_NAMES, has_routed_scale, refuse_quantization
from moe_lens.prune.layout import Placed, Role, place
from moe_lens.prune.plan import Plan
from moe_lens.prune.shape import ModelShape, shape_of_config
from moe_lens.prune.stored import DTYPES, Output, Span, read_tensor, row_bytes, stored_tensors


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint whose every tensor's role is known.

    Attributes:
        directory: Where it lies.
        model: Its shape, routers' fingerprint included.
        config: The values of its config.json.
        placed: Its tensors.
        own_names: The family's own config names of "num_experts" and "top_k".
    """

    directory: Path
    model: ModelShape
    config: Mapping[str, Any]
    placed: tuple[Placed, ...]
    own_names: Mapping[str, str]

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        return sum(one.tensor.num_bytes for one in self.placed)

    @property
    def has_mtp(self) -> bool:
        """Whether multi-token prediction heads are stored."""
        return any(one.role is Role.MTP for one in self.placed)

    def router_scale(self, plan: Plan) -> float:
        """What the router's own factor takes of the plan's; 1 where experts have to take it.

        A config has one factor for all layers, if the family's routers have one at all.
        """
        factors = dict(plan.scale or {})
        every = set(factors) == set(self.model.layers) and len(set(factors.values())) == 1
        return factors[self.model.layers[0]] if every and has_routed_scale(self.config) else 1.0

    def folded_dtypes(self, plan: Plan) -> frozenset[str]:
        """Dtypes of the tensors that a factor is folded into, and rounded in."""
        if plan.scale is None or self.router_scale(plan) != 1.0:
            return frozenset()
        return frozenset(one.tensor.dtype for one in self.placed if one.is_down)

    def outputs(self, plan: Plan) -> list[Output]:
        """The tensors of the pruned checkpoint, in the order of the original's.

        Raises:
            UnsupportedModel: A factor would have to be folded into quantised numbers.
        """
        folded = {} if self.router_scale(plan) != 1.0 else dict(plan.scale or {})
        found = []
        for one in self.placed:
            output = _output(one, plan, folded)
            if output is not None:
                found.append(output)
        return found


def open_checkpoint(directory: Path, *, source: str) -> Checkpoint:
    """Find out what every tensor is, from names and shapes; data is read of routers alone.

    Raises:
        CheckpointError: A file is missing or damaged.
        UnsupportedModel: The checkpoint could not be cut rightly; the message says why.
    """
    file = find_config(directory)
    raw = json.loads(file.read_text(encoding="utf-8"))
    config = read_config(file, source=source)
    text = config.get_text_config()
    model = replace(shape_of_config(str(directory)), source=source)
    refuse_quantization(raw)
    placed = place(stored_tensors(directory), model, num_layers=text.num_hidden_layers)
    routers = [one for one in placed if one.is_router and len(one.tensor.shape) == 2]
    matrices = {one.layer: one for one in reversed(routers) if one.axis == 0}
    fingerprint = hash_routers(
        (layer, read_tensor(matrices[layer].tensor)) for layer in model.layers
    )
    known = text.to_dict()
    return Checkpoint(
        directory=directory,
        model=replace(model, routers_sha256=fingerprint),
        config=raw,
        placed=placed,
        own_names={
            "num_experts": _own_name(known, NUM_EXPERTS_NAMES, model, model.num_experts),
            "top_k": _own_name(known, TOP_K_NAMES, model, model.top_k),
        },
    )


def check_plan(checkpoint: Checkpoint, plan: Plan, *, without_mtp: bool = False) -> None:
    """Prove that a plan fits a checkpoint and can be exported rightly.

    Raises:
        InputError: The plan is for another model.
        UnsupportedModel: It can be simulated, but not exported; the message says why.
    """
    refuse_uneven(plan)
    difference = plan.model.difference(checkpoint.model)
    if difference is not None:
        raise InputError(
            f"the plan was made for {plan.model.source} and does not fit "
            f"{checkpoint.model.source}: {difference}. Score this model and plan anew"
        )
    if checkpoint.has_mtp and not without_mtp:
        name = next(one.tensor.name for one in checkpoint.placed if one.role is Role.MTP)
        raise UnsupportedModel(
            f"{checkpoint.model.source} holds a multi-token prediction head ({name}), whose "
            f"experts no plan ranks; pass --without-mtp to leave the head out (it only speeds up "
            f"decoding)"
        )


def refuse_uneven(plan: Plan) -> None:
    """Refuse a plan whose layers keep different numbers of experts.

    Raises:
        UnsupportedModel: They do: a config has one number for all layers.
    """
    counts = set(plan.num_kept.values())
    if plan.budget.shape != "uniform" or len(counts) > 1:
        raise UnsupportedModel(
            f"layers of a plan of shape {plan.budget.shape} keep different numbers of experts, but "
            f"{plan.model.model_type} has one number for all layers in its config, and so have the "
            f"engines that load it. Such a plan can be simulated, not exported; plan with --shape "
            f"uniform"
        )


def _output(one: Placed, plan: Plan, folded: Mapping[int, float]) -> Output | None:
    """What becomes of a tensor; None where it goes."""
    tensor = one.tensor
    factor = folded.get(one.layer, 1.0) if one.layer is not None and one.is_down else 1.0
    if factor != 1.0 and tensor.dtype not in DTYPES:
        raise UnsupportedModel(
            f"{tensor.name}: the plan's scale would be folded into numbers of dtype "
            f"{tensor.dtype}; take `scale` out of the plan, or prune an unquantised checkpoint"
        )

    def span(start: int, num_bytes: int) -> Span:
        return Span(tensor.file, tensor.start + start, num_bytes, tensor.dtype, factor)

    if one.role is Role.MTP:
        return None
    if one.role is Role.COPY:
        return Output(tensor.name, tensor.dtype, tensor.shape, (span(0, tensor.num_bytes),))
    assert one.layer is not None
    kept = plan.keep[one.layer]
    if one.role is Role.EXPERT:
        assert one.expert is not None
        if one.expert not in kept:
            return None
        name = _renumbered(tensor.name, one.expert, kept.index(one.expert))
        return Output(name, tensor.dtype, tensor.shape, (span(0, tensor.num_bytes),))
    size = row_bytes(tensor, one.axis)
    shape = (*tensor.shape[: one.axis], len(kept), *tensor.shape[one.axis + 1 :])
    rows = tuple(span(expert * size, size) for expert in kept)
    return Output(tensor.name, tensor.dtype, shape, rows)


def _renumbered(name: str, old: int, new: int) -> str:
    return re.sub(rf"\bexperts\.{old}\.", f"experts.{new}.", name, count=1)


def _own_name(
    known: Mapping[str, Any], names: tuple[str, ...], model: ModelShape, value: int
) -> str:
    found = [name for name in names if known.get(name) == value]
    if not found:
        raise UnsupportedModel(
            f"{model.source}: none of {', '.join(names)} is {value} in {CONFIG}; export cannot "
            f"tell which of its numbers to change"
        )
    return found[0]
