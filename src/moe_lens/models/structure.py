"""Where the experts of a model are: found by what modules are, not by family.

transformers marks every fused experts module when it decorates its class
(`use_experts_implementation`). Around it stand, in every family that follows the two seams, the
router beside it, the MoE block above it and the decoder layer above that. What this module finds
is a claim; `engine.proof` puts it to the test on a batch before any number is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from moe_lens.errors import UnsupportedModel

NUM_EXPERTS_NAMES = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_routed_experts",
)
ROUTER_NAMES = ("gate", "router")
SHARED_NAMES = ("shared_experts", "shared_expert", "shared_mlp")
SHARED_GATE_NAMES = ("shared_expert_gate",)


@dataclass(frozen=True, eq=False)
class MoELayer:
    """One decoder layer with routed experts, and the modules in it that are observed.

    Attributes:
        index: Index in the model, dense layers included.
        name: Path of the decoder layer.
        layer: The decoder layer; its output is the residual stream.
        block: The MoE block: router, routed experts, shared experts.
        router: Returns (scores, weights, expert ids).
        experts: The fused routed experts.
        shared: The shared experts, or None.
        shared_in_block: Whether the block's output includes theirs; if not, the decoder layer
            adds the two, and `block_output` means that sum.
        shared_gate: A linear map whose sigmoid multiplies the shared experts' output, or None.
        num_experts: Routed experts in this layer.
        top_k: Experts the router chooses for each token.
    """

    index: int
    name: str
    layer: nn.Module
    block: nn.Module
    router: nn.Module
    experts: nn.Module
    shared: nn.Module | None
    shared_in_block: bool
    shared_gate: nn.Module | None
    num_experts: int
    top_k: int


def is_experts(module: nn.Module) -> bool:
    """Whether transformers dispatches this module through its experts registry."""
    return hasattr(type(module), "_apply_gate") and hasattr(module, "is_transposed")


def find_moe_layers(model: PreTrainedModel) -> tuple[MoELayer, ...]:
    """All MoE layers of a model, in order.

    Raises:
        UnsupportedModel: There are no routed experts, or they are not built in the way that can
            be observed; the message says what was found and where.
    """
    paths = [path for path, module in model.named_modules() if is_experts(module)]
    if not paths:
        raise UnsupportedModel(_no_experts(model))
    return tuple(sorted((_moe_layer(model, path) for path in paths), key=lambda found: found.index))


def stack_name(layers: Sequence[MoELayer]) -> str:
    """Path of the list that holds the decoder layers."""
    return layers[0].name.rpartition(".")[0]


def _no_experts(model: PreTrainedModel) -> str:
    config = model.config.get_text_config()
    kind = model.config.model_type
    counts = (getattr(config, name, None) for name in NUM_EXPERTS_NAMES)
    named = any("expert" in type(module).__name__.lower() for module in model.modules())
    if named or any(isinstance(count, int) and count > 1 for count in counts):
        return (
            f"{kind}: its experts do not go through transformers' experts registry, so their "
            f"outputs cannot be seen; see docs/families.md for what can"
        )
    return f"{kind}: this is a dense model, it has no mixture-of-experts layers to look into"


def _moe_layer(model: PreTrainedModel, path: str) -> MoELayer:
    kind = model.config.model_type
    parts = path.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    if not numbers:
        raise UnsupportedModel(f"{kind}: experts at {path!r} belong to no numbered layer")
    layer_name = ".".join(parts[: numbers[0] + 1])
    block_name = ".".join(parts[:-1])
    if block_name == layer_name or len(numbers) > 1:
        raise UnsupportedModel(
            f"{kind}: experts at {path!r} do not sit in an MoE block of their own inside the "
            f"decoder layer {layer_name!r}, so what the block adds to the residual stream cannot "
            f"be told"
        )
    block, experts = model.get_submodule(block_name), model.get_submodule(path)
    router = _child(block, ROUTER_NAMES)
    if router is None:
        raise UnsupportedModel(
            f"{kind}: no router beside the experts at {path!r}; looked for "
            f"{' and '.join(ROUTER_NAMES)}, found {', '.join(n for n, _ in block.named_children())}"
        )
    layer = model.get_submodule(layer_name)
    inside = _child(block, SHARED_NAMES)
    return MoELayer(
        index=int(parts[numbers[0]]),
        name=layer_name,
        layer=layer,
        block=block,
        router=router,
        experts=experts,
        shared=inside if inside is not None else _child(layer, SHARED_NAMES),
        shared_in_block=inside is not None,
        shared_gate=_child(block, SHARED_GATE_NAMES),
        num_experts=next(p for p in experts.parameters() if p.dim() == 3).shape[0],
        top_k=_top_k(kind, router, block, path),
    )


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    children = dict(module.named_children())
    return next((children[name] for name in names if name in children), None)


def _top_k(kind: str, router: nn.Module, block: nn.Module, path: str) -> int:
    for module in (router, block):
        value = getattr(module, "top_k", None)
        if isinstance(value, int):
            return value
    config = getattr(router, "config", None) or getattr(block, "config", None)
    for name in ("num_experts_per_tok", "moe_topk", "top_k_experts"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise UnsupportedModel(f"{kind}: cannot tell how many experts a token gets at {path!r}")
