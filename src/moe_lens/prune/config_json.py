"""Edit the original config.json: the numbers that pruning changes, and nothing else.

transformers writes a config back in its newest form, which older loaders read silently wrong (a
rope base under a new key is a default one to them). So the file is edited as the JSON it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from moe_lens.errors import UnsupportedModel
from moe_lens.models.structure import NUM_EXPERTS_NAMES
from moe_lens.prune.plan import Plan

TOP_K_NAMES = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_k",
    "moe_top_k",
    "top_k_experts",
)
ROUTED_SCALE = "routed_scaling_factor"
MTP_NAMES = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")
_UNDERSTOOD_QUANTIZATION = ("fp8", "mxfp4")


def edited(
    config: Mapping[str, Any],
    plan: Plan,
    *,
    own_names: Mapping[str, str],
    router_scale: float = 1.0,
    without_mtp: bool = False,
    with_code: bool = False,
) -> dict[str, Any]:
    """The config of the pruned model.

    Args:
        config: The original file's values.
        plan: The plan.
        own_names: The family's own names of "num_experts" and "top_k", for a config that leaves
            them to the family's default.
        router_scale: What the family's routed scaling factor is multiplied by.
        without_mtp: Whether multi-token prediction heads are left out.
        with_code: Whether Python files are copied along, so that the config may refer to them.

    Raises:
        UnsupportedModel: The file's numbers are not those of the model, or differ by layer.
    """
    values = copy.deepcopy(dict(config))
    num_kept = plan.budget.keep
    _replace(values, NUM_EXPERTS_NAMES, plan.model.num_experts, num_kept, own_names["num_experts"])
    if plan.active != plan.model.top_k:
        _replace(values, TOP_K_NAMES, plan.model.top_k, plan.active, own_names["top_k"])
    if router_scale != 1.0:
        for part in _parts(values):
            if ROUTED_SCALE in part:
                part[ROUTED_SCALE] = part[ROUTED_SCALE] * router_scale
    for part in _parts(values):
        if without_mtp:
            part.update({name: 0 for name in MTP_NAMES if name in part})
        if not with_code:
            part.pop("auto_map", None)
    return values


def has_routed_scale(config: Mapping[str, Any]) -> bool:
    """Whether the file gives the router a factor that all of its layers share."""
    return any(isinstance(part.get(ROUTED_SCALE), int | float) for part in _parts(dict(config)))


def refuse_quantization(config: Mapping[str, Any]) -> None:
    """Refuse quantised experts whose layout is not known to be cut rightly.

    Where each expert's numbers lie in tensors of its own or along the first axis (fp8 with scales
    beside each weight, mxfp4 blocks and scales), cutting moves bytes and changes none.

    Raises:
        UnsupportedModel: The checkpoint is quantised in another way.
    """
    for part in _parts(dict(config)):
        found = part.get("quantization_config")
        if not found:
            continue
        method = found.get("quant_method") if isinstance(found, Mapping) else found
        if method not in _UNDERSTOOD_QUANTIZATION:
            raise UnsupportedModel(
                f"the checkpoint is quantised ({method}); where its experts' numbers lie is known "
                f"for {' and '.join(_UNDERSTOOD_QUANTIZATION)} only. Prune the checkpoint that it "
                f"was made from, and quantise the result"
            )
        named = [name for name in _names(found) if "experts." in name]
        if named:
            raise UnsupportedModel(
                f"quantization_config names single experts ({named[0]}), whose numbers change "
                f"when experts go; prune the checkpoint that it was made from"
            )


def _replace(
    values: dict[str, Any], names: tuple[str, ...], old: int, new: int, own_name: str
) -> None:
    """Put a new number under every name that the file has for it."""
    found = [(part, name) for part in _parts(values) for name in names if name in part]
    if not any(part[name] is not None for part, name in found):
        found = [(_innermost(values), own_name)]
        found[0][0][own_name] = old
    for part, name in found:
        value = part[name]
        if value is None:
            continue
        if value == old:
            part[name] = new
        elif isinstance(value, list) and value and set(value) == {old}:
            part[name] = [new] * len(value)
        else:
            raise UnsupportedModel(
                f"config.json: {name} is {value!r}, but the model that transformers builds from it "
                f"has {old}; export cannot tell which of its numbers a loader goes by"
            )


def _parts(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The file's values, and those of a text model inside it."""
    yield values
    inner = values.get("text_config")
    if isinstance(inner, dict):
        yield inner


def _innermost(values: dict[str, Any]) -> dict[str, Any]:
    return list(_parts(values))[-1]


def _names(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _names(key)
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)
