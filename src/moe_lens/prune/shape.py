"""`ModelShape`: what of a model a plan is made for, known from its config alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe_lens.errors import InputError, UnsupportedModel


@dataclass(frozen=True)
class ModelShape:
    """Which experts there are to keep, and what limits the choice.

    Attributes:
        source: The path or hub id that was scored.
        model_type: The family's name in the config.
        layers: Indices of the MoE layers, in order.
        num_experts: Routed experts of each of them.
        top_k: Experts that a token gets.
        num_groups: Groups of neighbouring experts that compete; 1 where all compete with all.
        num_groups_kept: How many of the groups a token's experts may come from.
        routers_sha256: Fingerprint of the router weights; None where no weights were read.
    """

    source: str
    model_type: str
    layers: tuple[int, ...]
    num_experts: int
    top_k: int
    num_groups: int = 1
    num_groups_kept: int = 1
    routers_sha256: str | None = None

    @property
    def group_size(self) -> int:
        """Experts of a group."""
        return self.num_experts // self.num_groups

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values under the attributes' names."""
        return {**vars(self), "layers": list(self.layers)}

    def difference(self, other: ModelShape) -> str | None:
        """In what a plan for this model does not fit the other, in words; None if it fits.

        Where they lie does not matter; the fingerprint of routers is compared where both have it.
        """
        for name in ("model_type", "layers", "num_experts", "top_k", "num_groups"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name} is {_said(mine)} in the plan and {_said(theirs)} in the model"
        hashes = (self.routers_sha256, other.routers_sha256)
        if None not in hashes and hashes[0] != hashes[1]:
            return (
                "the shapes agree, but the router weights are not those that were scored (another "
                "version of the model, such as its base or chat form)"
            )
        return None


def shape_of_config(path_or_id: str, *, revision: str | None = None) -> ModelShape:
    """The shape of a checkpoint, from its config.json: no weights are read.

    Raises:
        CheckpointError: There is no such model, or its config makes no sense.
        UnsupportedModel: It has no routed experts that can be found, or its layers differ in them.
    """
    from moe_lens.models.config import find_config, read_config
    from moe_lens.models.inspect import build_on_meta
    from moe_lens.models.routers import declared_groups
    from moe_lens.models.structure import find_moe_layers

    file = find_config(path_or_id, revision=revision)
    config = read_config(file, source=path_or_id)
    layers = find_moe_layers(build_on_meta(config, path_or_id))
    sizes = {(layer.num_experts, layer.top_k) for layer in layers}
    if len(sizes) > 1:
        raise UnsupportedModel(
            f"{path_or_id}: its layers differ in their numbers of experts ({sorted(sizes)} as "
            f"experts, top-k); plans are for models whose layers have one number"
        )
    first = layers[0]
    return ModelShape(
        source=path_or_id,
        model_type=str(config.model_type),
        layers=tuple(layer.index for layer in layers),
        num_experts=first.num_experts,
        top_k=first.top_k,
        **declared_groups(first)._asdict(),
    )


def shape_from(values: Mapping[str, Any], *, where: str) -> ModelShape:
    """The shape that JSON values describe, such as the `model` part of a manifest.

    Keys that are not part of a shape are left alone.

    Raises:
        InputError: A value is missing or of the wrong kind.
    """

    def whole(name: str, default: int | None = None) -> int:
        value = values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{where}: model.{name} is {value!r}, not a whole number from 1 up")
        return value

    layers = values.get("layers")
    if not isinstance(layers, list) or not layers or any(type(x) is not int for x in layers):
        raise InputError(f"{where}: model.layers is {layers!r}, not a list of layer indices")
    for name in ("source", "model_type"):
        if not isinstance(values.get(name), str):
            raise InputError(f"{where}: model.{name} is {values.get(name)!r}, not a name")
    fingerprint = values.get("routers_sha256")
    if not isinstance(fingerprint, str | None):
        raise InputError(f"{where}: model.routers_sha256 is {fingerprint!r}, not a hash or null")
    shape = ModelShape(
        source=values["source"],
        model_type=values["model_type"],
        layers=tuple(layers),
        num_experts=whole("num_experts"),
        top_k=whole("top_k"),
        num_groups=whole("num_groups", 1),
        num_groups_kept=whole("num_groups_kept", 1),
        routers_sha256=fingerprint,
    )
    if shape.num_experts % shape.num_groups:
        raise InputError(
            f"{where}: {shape.num_experts} experts cannot be in {shape.num_groups} equal groups"
        )
    return shape


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return f"{value[0]} to {value[-1]} ({len(value)} layers)"
    return str(value)
