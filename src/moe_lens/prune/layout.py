"""What each stored tensor of a checkpoint is to its experts, told from its name and shape.

Families are not named here. A tensor belongs to one expert (its name holds the expert's number),
to all experts of a layer (its first axis is the experts), to a router (one of its axes is the
experts), or to neither. What looks like an expert's and is none of these is refused: a tensor that
is copied where it should have been cut gives a model that loads and is wrong.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_lens.errors import UnsupportedModel
from moe_lens.models.structure import SHARED_GATE_NAMES, SHARED_NAMES
from moe_lens.prune.shape import ModelShape
from moe_lens.prune.stored import StoredTensor


class Role(enum.Enum):
    """What is done with a tensor when experts go."""

    COPY = "copy"
    """It has nothing to do with which experts there are."""
    EXPERT = "expert"
    """It is one expert's own: it stays under the expert's new number, or goes."""
    SLICE = "slice"
    """One of its axes is the experts: the rows of those that stay are kept."""
    MTP = "mtp"
    """It belongs to a multi-token prediction head, beside the model's own layers."""


@dataclass(frozen=True)
class Placed:
    """A stored tensor and its role.

    Attributes:
        tensor: Where it lies, and its shape.
        role: What is done with it.
        layer: Its layer; None outside of numbered layers.
        expert: The expert it belongs to (EXPERT).
        axis: Which axis is the experts (SLICE).
        is_router: Whether it is a router's (SLICE).
    """

    tensor: StoredTensor
    role: Role
    layer: int | None = None
    expert: int | None = None
    axis: int = 0
    is_router: bool = False

    @property
    def is_down(self) -> bool:
        """Whether it is (part of) the last linear map of experts: a factor on it scales them."""
        last = self.tensor.name.rsplit("experts.", 1)[-1]
        routed = self.role is not Role.COPY and not self.is_router
        return routed and _DOWN.search(last) is not None


_LAYER = re.compile(r"(?P<layer>(?:.*\.)?layers\.(?P<index>\d+))\.(?P<rest>.+)")
_EXPERT = re.compile(r"experts\.(?P<expert>\d+)\..+")
_FUSED = re.compile(r"(?P<block>(?:.+\.)?)(?:experts|input_linear|output_linear)\..+")
_BIAS = r"e_score_correction_bias|expert_bias|moe_statics"
_ROUTER = re.compile(rf"(?:gate|router|{_BIAS}|experts\.(?:{_BIAS}))(?:\.|$)")
_ROUTER_ELSEWHERE = re.compile(rf"(?:^|\.)(?:router|{_BIAS})(?:\.|$)")
_SHARED = re.compile(rf"(?:{'|'.join(SHARED_NAMES + SHARED_GATE_NAMES)})(?:\.|$)")
_DOWN = re.compile(r"(?:^|\.)(?:down_proj|w2|output_linear)(?:$|[._])")
_MTP = re.compile(r"(?:^|\.)(?:mtp|nextn)")


def place(
    tensors: Sequence[StoredTensor], model: ModelShape, *, num_layers: int
) -> tuple[Placed, ...]:
    """The role of every tensor; together they are all experts of the model, each once.

    Args:
        tensors: All stored tensors of a checkpoint.
        model: Its shape.
        num_layers: Its decoder layers; what is stored beyond them is a prediction head's.

    Raises:
        UnsupportedModel: A tensor's role cannot be told, or experts are missing.
    """
    numbered = {t.name: _LAYER.fullmatch(t.name) for t in tensors}
    blocks = _blocks(tensors, model)
    found = []
    for tensor in tensors:
        match = numbered[tensor.name]
        index = int(match["index"]) if match else None
        beyond = index is not None and index >= num_layers
        if beyond or _MTP.search(tensor.name):
            found.append(Placed(tensor, Role.MTP, layer=index))
        elif match is None or index not in model.layers:
            found.append(_outside(tensor, index))
        else:
            assert index is not None
            found.append(_inside(tensor, match["rest"], index, model, blocks[index]))
    _check_complete(found, model)
    return tuple(found)


def _blocks(tensors: Iterable[StoredTensor], model: ModelShape) -> dict[int, str]:
    """The path of each layer's MoE block inside the layer: what stands before `experts.`."""
    blocks: dict[int, str] = {}
    for tensor in tensors:
        match = _LAYER.fullmatch(tensor.name)
        experts = _FUSED.fullmatch(match["rest"]) if match else None
        if match and experts and not _SHARED.search(match["rest"]):
            blocks.setdefault(int(match["index"]), experts["block"])
    missing = [layer for layer in model.layers if layer not in blocks]
    if missing:
        raise UnsupportedModel(
            f"{model.source}: layer {missing[0]} has routed experts, but no stored tensor of it is "
            f"named `experts`; its experts are stored in a way that export does not know. The plan "
            f"can still be simulated"
        )
    return blocks


def _outside(tensor: StoredTensor, index: int | None) -> Placed:
    if re.search(r"\bexperts\b", tensor.name) and not _SHARED.search(tensor.name):
        where = "outside of the layers" if index is None else f"in layer {index} beside its block"
        raise UnsupportedModel(
            f"the tensor {tensor.name} is named as if it were of routed experts, but lies {where}; "
            f"export does not know what to do with it"
        )
    return Placed(tensor, Role.COPY, layer=index)


def _inside(tensor: StoredTensor, rest: str, layer: int, model: ModelShape, block: str) -> Placed:
    """The role of a tensor of a layer that has routed experts."""
    inner = rest.removeprefix(block)
    if not rest.startswith(block):
        if _ROUTER_ELSEWHERE.search(rest):
            return _sliced(tensor, layer, model, axis=_axis(tensor, model), is_router=True)
        return _outside(tensor, layer)
    if _SHARED.match(inner):
        return Placed(tensor, Role.COPY, layer=layer)
    if "tid2eid" in inner:
        raise UnsupportedModel(
            f"{tensor.name}: layer {layer} sends tokens to experts by a table of token ids; which "
            f"experts should take the tokens of those that go is not known, so it is not exported"
        )
    one = _EXPERT.fullmatch(inner)
    if one:
        return Placed(tensor, Role.EXPERT, layer=layer, expert=int(one["expert"]))
    if _ROUTER.match(inner):
        return _sliced(tensor, layer, model, axis=_axis(tensor, model), is_router=True)
    if _FUSED.fullmatch(inner):
        return _sliced(tensor, layer, model, axis=0, is_router=False)
    raise UnsupportedModel(
        f"{tensor.name}: lies beside the routed experts of layer {layer}, and is neither theirs, "
        f"the router's nor a shared expert's by its name; export does not know whether it has a "
        f"part for each expert"
    )


def _axis(tensor: StoredTensor, model: ModelShape) -> int | None:
    axes = [axis for axis, size in enumerate(tensor.shape) if size == model.num_experts]
    return axes[0] if axes else None


def _sliced(
    tensor: StoredTensor, layer: int, model: ModelShape, *, axis: int | None, is_router: bool
) -> Placed:
    shape = tensor.shape
    if axis is None or len(shape) <= axis or shape[axis] != model.num_experts:
        raise UnsupportedModel(
            f"{tensor.name}: has shape {list(shape)}, in which the {model.num_experts} experts of "
            f"layer {layer} cannot be told apart; export does not know how to cut it"
        )
    if axis and any(size != 1 for size in shape[:axis]):
        raise UnsupportedModel(
            f"{tensor.name}: has shape {list(shape)} with the experts on axis {axis}; export cuts "
            f"only along the first axis that is not 1"
        )
    return Placed(tensor, Role.SLICE, layer=layer, axis=axis, is_router=is_router)


def _check_complete(found: Sequence[Placed], model: ModelShape) -> None:
    """Every layer's experts are all there, in one way of storing, with a router."""
    for layer in model.layers:
        mine = [placed for placed in found if placed.layer == layer]
        ids = {placed.expert for placed in mine if placed.expert is not None}
        fused = [p for p in mine if p.role is Role.SLICE and not p.is_router]
        if ids and fused:
            raise UnsupportedModel(
                f"layer {layer}: experts are stored one by one and together ({fused[0].tensor.name}"
                f"); export does not know which of the two a loader reads"
            )
        if ids and ids != set(range(model.num_experts)):
            raise UnsupportedModel(
                f"layer {layer}: stored experts are {len(ids)} of numbers up to {max(ids)}"
                f", but the config has {model.num_experts}"
            )
        if not any(placed.is_router for placed in mine):
            raise UnsupportedModel(
                f"layer {layer}: no stored tensor is its router's; looked for gate and router "
                f"beside the experts"
            )


def by_file(placed: Iterable[Placed]) -> Mapping[Path, list[Placed]]:
    """The same tensors, by the file that they lie in."""
    files: dict[Path, list[Placed]] = {}
    for one in placed:
        files.setdefault(one.tensor.file, []).append(one)
    return files
