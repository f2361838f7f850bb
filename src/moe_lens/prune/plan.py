"""`Plan`: which experts stay in each layer, as a JSON file that a person can read and edit.

The file is checked when it is read: every error names the layer, the expert, the rule and the way
out. docs/pruning.md describes its keys.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from moe_lens.errors import InputError
from moe_lens.prune.shape import ModelShape, shape_from
from moe_lens.writing import whole

SCHEMA_VERSION = 1

ExpertsByLayer: TypeAlias = Mapping[int, tuple[int, ...]]

Shape: TypeAlias = Literal["uniform", "global", "custom"]
SHAPES: tuple[Shape, ...] = ("uniform", "global", "custom")
_KEYS = (
    "schema_version", "model", "criterion", "domains", "calibration", "budget", "keep", "top_k",
    "scale", "frequency_order",
)  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """How many experts stay.

    Attributes:
        keep: Experts of each layer, or their mean over layers where layers differ.
        shape: "uniform": every layer keeps `keep`. "global": the best of all layers stay, so
            layers differ. "custom": edited by hand.
        multiple_of: Every layer keeps a multiple of this.
        protected: Experts that stay whatever their score, by layer.
    """

    keep: int
    shape: Shape = "uniform"
    multiple_of: int = 1
    protected: ExpertsByLayer = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Which experts stay, and where that comes from.

    Attributes:
        model: What it is for.
        criterion: What experts were ranked by.
        domains: The domains of text whose scores were used; "all" is all tokens together.
        calibration: What the scores were measured on: a corpus hash and numbers of tokens.
        budget: How many were to stay.
        keep: The experts that stay, by layer, in rising order.
        top_k: Active experts of the pruned model; None for the model's own number.
        scale: A factor on each layer's routed sum; None for none.
        frequency_order: All experts by falling frequency on the calibration text, by layer: what
            a simulation's frequency control keeps. None where it was not measured.

    Raises:
        InputError: It breaks a rule; the message names the layer, the expert and the way out.
    """

    model: ModelShape
    criterion: str
    domains: tuple[str, ...]
    calibration: Mapping[str, Any]
    budget: Budget
    keep: ExpertsByLayer
    top_k: int | None = None
    scale: Mapping[int, float] | None = None
    frequency_order: ExpertsByLayer | None = None

    def __post_init__(self) -> None:
        check_experts(self.model, self.keep)
        _check_top_k(self)
        _check_budget(self)
        for layer, factor in (self.scale or {}).items():
            if layer not in self.model.layers:
                raise InputError(f"scale names layer {layer}, {_not_a_layer(self.model)}")
            if not (math.isfinite(factor) and factor > 0):
                raise InputError(f"layer {layer}: scale {factor} is not a finite factor above 0")
        for layer, order in (self.frequency_order or {}).items():
            if sorted(order) != list(range(self.model.num_experts)):
                raise InputError(
                    f"layer {layer}: frequency_order does not name each of the "
                    f"{self.model.num_experts} experts once; take the key out, or plan again"
                )

    @property
    def masked(self) -> dict[int, tuple[int, ...]]:
        """The experts that go, by layer."""
        everyone = range(self.model.num_experts)
        return {
            layer: tuple(e for e in everyone if e not in set(kept))
            for layer, kept in self.keep.items()
        }

    @property
    def num_kept(self) -> dict[int, int]:
        """How many experts stay, by layer."""
        return {layer: len(kept) for layer, kept in self.keep.items()}

    @property
    def active(self) -> int:
        """Experts that a token gets in the pruned model."""
        return self.model.top_k if self.top_k is None else self.top_k

    def to_dict(self) -> dict[str, Any]:
        """The JSON values of the plan's file."""
        budget = {**vars(self.budget), "protected": _by_name(self.budget.protected)}
        values: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "model": self.model.to_dict(),
            "criterion": self.criterion,
            "domains": list(self.domains),
            "calibration": dict(self.calibration),
            "budget": budget,
            "keep": _by_name(self.keep),
            "top_k": self.top_k,
            "scale": None if self.scale is None else {str(k): v for k, v in self.scale.items()},
        }
        if self.frequency_order is not None:
            values["frequency_order"] = _by_name(self.frequency_order)
        return values

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the plan's file: one line for each layer."""
        with whole(Path(path)) as beside:
            beside.write_text(_text(self.to_dict()), encoding="utf-8")


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """The plan in a file.

    Raises:
        InputError: There is no such file, it is no JSON, or it breaks a rule of plans.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; `moe-lens plan` writes plans") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a directory; give the plan's file") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); undo the last edit") from error
    try:
        return plan_from(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def plan_from(values: object) -> Plan:
    """The plan that JSON values describe.

    Raises:
        InputError: A key is unknown, missing or of the wrong kind, or a rule is broken.
    """
    if not isinstance(values, dict):
        raise InputError(f"a plan is a JSON object, not {type(values).__name__}")
    unknown = sorted(set(values) - set(_KEYS))
    if unknown:
        raise InputError(f"a plan has no key {unknown[0]!r}; it has {', '.join(_KEYS)}")
    if values.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"schema_version is {values.get('schema_version')!r}; this version of moe-lens reads "
            f"{SCHEMA_VERSION}"
        )
    for name in ("model", "budget", "keep", "calibration"):
        if not isinstance(values.get(name), dict):
            raise InputError(f"{name!r} is {values.get(name)!r}, not an object; plan again")
    criterion, domains = values.get("criterion"), values.get("domains")
    if not isinstance(criterion, str):
        raise InputError(f"criterion is {criterion!r}, not a name")
    if not isinstance(domains, list) or not all(isinstance(name, str) for name in domains):
        raise InputError(f"domains is {domains!r}, not a list of names")
    top_k = values.get("top_k")
    if top_k is not None and type(top_k) is not int:
        raise InputError(f"top_k is {top_k!r}; give a whole number, or null for the model's own")
    order = values.get("frequency_order")
    return Plan(
        model=shape_from(values["model"], where="plan"),
        criterion=criterion,
        domains=tuple(domains),
        calibration=values["calibration"],
        budget=_budget(values["budget"]),
        keep=_experts(values["keep"], "keep"),
        top_k=top_k,
        scale=_scale(values.get("scale")),
        frequency_order=None if order is None else _experts(order, "frequency_order", ordered=True),
    )


def as_shape(name: str) -> Shape:
    """The shape of a budget by its name, for one that is chosen from scores.

    Raises:
        InputError: There is none of this name.
    """
    if name not in ("uniform", "global"):
        raise InputError(f"shape {name!r} is not one of uniform, global")
    return cast(Shape, name)


def check_experts(model: ModelShape, keep: ExpertsByLayer) -> None:
    """Prove that kept experts exist, once each, in every MoE layer, alike in every group.

    Raises:
        InputError: They do not.
    """
    for layer in keep:
        if layer not in model.layers:
            raise InputError(f"the plan names layer {layer}, {_not_a_layer(model)}")
    for layer in model.layers:
        if layer not in keep:
            raise InputError(
                f"layer {layer} is not in the plan's keep; list its experts, all of "
                f"0 to {model.num_experts - 1} if none is to go"
            )
        kept = keep[layer]
        for expert in kept:
            if not 0 <= expert < model.num_experts:
                raise InputError(
                    f"layer {layer}: plan keeps expert {expert}, but the model has "
                    f"{model.num_experts} (0 to {model.num_experts - 1}). Was the plan made for "
                    f"another model?"
                )
        twice = sorted({expert for expert in kept if kept.count(expert) > 1})
        if twice:
            raise InputError(f"layer {layer}: plan keeps expert {twice[0]} twice; name it once")
        _check_groups(model, layer, kept)


def _check_groups(model: ModelShape, layer: int, kept: Sequence[int]) -> None:
    if model.num_groups == 1:
        return
    size = model.group_size
    counts = [sum(e // size == group for e in kept) for group in range(model.num_groups)]
    if len(set(counts)) > 1:
        most, least = max(counts), min(counts)
        group = counts.index(least)
        raise InputError(
            f"layer {layer}: the router chooses within groups of neighbouring experts, which must "
            f"stay of one size, but group {group} (experts {group * size} to "
            f"{group * size + size - 1}) keeps {least} and group {counts.index(most)} keeps "
            f"{most}; keep equally many of each of the {model.num_groups} groups"
        )
    if 0 < counts[0] < 2:
        raise InputError(
            f"layer {layer}: 1 expert of each group is left, but routers judge a group by its best "
            f"two; keep at least {2 * model.num_groups} experts"
        )


def _check_top_k(plan: Plan) -> None:
    model = plan.model
    if not 1 <= plan.active <= model.top_k:
        raise InputError(
            f"top_k is {plan.active}, but the model gives each token {model.top_k} experts; give "
            f"1 to {model.top_k}, or null for the model's own number"
        )
    for layer, kept in plan.keep.items():
        reach = len(kept) * model.num_groups_kept // model.num_groups
        if reach < plan.active:
            within = "" if model.num_groups == 1 else f" in the {model.num_groups_kept} groups"
            raise InputError(
                f"layer {layer}: {reach} experts are left{within}, but each token needs "
                f"{plan.active}; keep at least {_least(model, plan.active)}, or set top_k to at "
                f"most {reach}"
            )


def _check_budget(plan: Plan) -> None:
    budget = plan.budget
    for layer, kept in plan.keep.items():
        if budget.shape == "uniform" and len(kept) != budget.keep:
            raise InputError(
                f"layer {layer} keeps {len(kept)} experts, but the budget is uniform with "
                f"{budget.keep}; keep {budget.keep} in every layer, change budget.keep in a plan "
                f"with equal layers, or set budget.shape to 'custom' (which can be simulated, not "
                f"exported)"
            )
        if len(kept) % budget.multiple_of:
            raise InputError(
                f"layer {layer} keeps {len(kept)} experts, not a multiple of "
                f"{budget.multiple_of} (budget.multiple_of); change one of them"
            )
        gone = sorted(set(budget.protected.get(layer, ())) - set(kept))
        if gone:
            raise InputError(
                f"layer {layer}: expert {gone[0]} is protected (budget.protected), but not in "
                f"keep; keep it, or take it out of protected"
            )


def _least(model: ModelShape, active: int) -> int:
    per_group = -(-active // model.num_groups_kept)
    return per_group * model.num_groups if model.num_groups > 1 else active


def _budget(values: Mapping[str, Any]) -> Budget:
    unknown = sorted(set(values) - set(Budget.__dataclass_fields__))
    if unknown:
        raise InputError(f"budget has no key {unknown[0]!r}")
    keep, shape = values.get("keep"), values.get("shape", "uniform")
    multiple_of, protected = values.get("multiple_of"), values.get("protected")
    if type(keep) is not int or keep < 1:
        raise InputError(f"budget.keep is {keep!r}, not a whole number from 1 up")
    if shape not in SHAPES:
        raise InputError(f"budget.shape is {shape!r}, not one of {', '.join(SHAPES)}")
    if multiple_of is not None and (type(multiple_of) is not int or multiple_of < 1):
        raise InputError(f"budget.multiple_of is {multiple_of!r}, not a whole number from 1 up")
    return Budget(keep, shape, multiple_of or 1, _experts(protected or {}, "budget.protected"))


def _experts(values: object, name: str, *, ordered: bool = False) -> dict[int, tuple[int, ...]]:
    if not isinstance(values, dict):
        raise InputError(f"{name} is {values!r}, not an object of layers")
    found = {}
    for key, ids in values.items():
        layer = _layer(key, name)
        if not isinstance(ids, list) or any(type(e) is not int for e in ids):
            raise InputError(f"layer {layer}: {name} is {ids!r}, not a list of expert ids")
        found[layer] = tuple(ids if ordered else sorted(ids))
    return dict(sorted(found.items()))


def _scale(values: object) -> dict[int, float] | None:
    if values is None:
        return None
    if not isinstance(values, dict):
        raise InputError(f"scale is {values!r}; give an object of layers, or null")
    for key, factor in values.items():
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            raise InputError(f"layer {key}: scale is {factor!r}, not a number")
    return {_layer(key, "scale"): float(factor) for key, factor in values.items()}


def _layer(key: str, name: str) -> int:
    if not key.isdecimal():
        raise InputError(f"{name} names layer {key!r}, which is no layer index")
    return int(key)


def _not_a_layer(model: ModelShape) -> str:
    layers = ", ".join(map(str, model.layers))
    return f"which is no MoE layer of the model (those are {layers})"


def _by_name(experts: ExpertsByLayer) -> dict[str, list[int]]:
    return {str(layer): list(ids) for layer, ids in sorted(experts.items())}


def _text(values: Mapping[str, Any]) -> str:
    """JSON with a line for each key, and for each layer."""

    def lines(value: object, depth: int) -> str:
        if not isinstance(value, dict) or depth == 2 or not value:
            return json.dumps(value, ensure_ascii=False)
        inner = cast(dict[str, object], value)
        pad = "  " * (depth + 1)
        parts = [f"{pad}{json.dumps(k)}: {lines(v, depth + 1)}" for k, v in inner.items()]
        return "{\n" + ",\n".join(parts) + "\n" + "  " * depth + "}"

    return lines(dict(values), 0) + "\n"
