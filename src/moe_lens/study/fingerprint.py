"""Hashes that tell a model's weights from others."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from moe_lens.engine.reading import each_layer
from moe_lens.models.model import MoEModel
from moe_lens.models.routers import hash_routers, router_matrix


class Fingerprint(NamedTuple):
    """What a manifest says of weights.

    Attributes:
        weights_sha256: Hash of the hashes of every parameter's name, shape and bytes as loaded, in
            name order.
        routers_sha256: See `routers_sha256`.
    """

    weights_sha256: str
    routers_sha256: str


def fingerprint(model: MoEModel) -> Fingerprint:
    """The hashes of a model; of one that is streamed, every weight is read once for them."""
    observed = {layer.modules.index: layer.modules for layer in model.layers}
    state = model.hf.state_dict()
    digests = {name: _sha256(name, tensor) for name, tensor in state.items() if not tensor.is_meta}
    routers: list[tuple[int, Tensor]] = []
    for index, prefix, layer in each_layer(model):
        if model.store is not None:
            names = layer.state_dict(prefix=prefix)
            digests |= {name: _sha256(name, tensor) for name, tensor in names.items()}
        if index in observed:
            routers.append((index, router_matrix(observed[index]).detach().clone()))
    everything = "".join(digests[name] for name in sorted(digests))
    return Fingerprint(hashlib.sha256(everything.encode()).hexdigest(), hash_routers(routers))


def routers_sha256(model: MoEModel) -> str:
    """Hash of every MoE layer's router matrix; of a streamed model every layer is read for it."""
    observed = {layer.modules.index: layer.modules for layer in model.layers}
    layers = (observed[index] for index, _, _ in each_layer(model) if index in observed)
    return hash_routers((layer.index, router_matrix(layer)) for layer in layers)


def _sha256(name: str, tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
