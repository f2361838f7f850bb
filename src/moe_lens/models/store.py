"""`LayerStore`: decoder layers that are brought from the checkpoint's files when asked for.

transformers opens the checkpoint its own way (dtype, buffers, tied weights, experts that are fused
from many tensors); only which tensors are read, and when, is decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.utils import logging

from moe_lens.errors import CheckpointError
from moe_lens.freed_memory import give_freed_memory_back
from moe_lens.models.filling import Filler, LayerPlan, plan_of
from moe_lens.models.shards import stored_tensors
from moe_lens.models.structure import find_moe_layers, stack_name


class LayerStore:
    """The decoder layers of one checkpoint.

    Args:
        hf: The model; its decoder layers hold no weights yet.
        files: The checkpoint's safetensors files.
        load_config: How transformers would load them.

    Attributes:
        prefix: Path of the list that holds the decoder layers.
        layers: The decoder layers' modules, dense ones included.
        device: Where a layer's weights go.
        room_bytes: What residual streams may take of the memory between layers; None: whatever.
    """

    def __init__(self, hf: PreTrainedModel, files: Sequence[Path], load_config: Any) -> None:
        self._hf, self._load_config = hf, load_config
        self.device = torch.device("cpu")
        self.room_bytes: int | None = None
        self._paths = list(files)
        self._files = [safe_open(file, framework="pt") for file in files]
        self.prefix = stack_name(find_moe_layers(hf))
        self.layers = tuple(hf.get_submodule(self.prefix).children())
        self._sources: list[dict[str, int]] = [{} for _ in self.layers]
        self._outside: dict[str, int] = {}
        self._filler: Filler | None = None
        self._lent: dict[int, list[Tensor]] = {}
        self._sort_keys()

    def _sort_keys(self) -> None:
        mapping = self._load_config.weight_mapping or []
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        known = self._hf.state_dict()
        for place, file in enumerate(self._files):
            for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                name, _ = rename_source_key(
                    key, renamings, converters, self._hf.base_model_prefix, known
                )
                index = self._layer_of(name)
                (self._outside if index is None else self._sources[index])[key] = place

    def _layer_of(self, name: str) -> int | None:
        if not name.startswith(self.prefix + "."):
            return None
        number = name.removeprefix(self.prefix + ".").partition(".")[0]
        inside = number.isdigit() and int(number) < len(self.layers)
        return int(number) if inside else None

    @property
    def layer_bytes(self) -> int:
        """Bytes of the largest layer's weights."""
        sizes = (sum(int(p.nbytes) for p in layer.parameters()) for layer in self.layers)
        return max(sizes)

    def load_outside(self) -> Any:
        """Bring in everything that belongs to no decoder layer; gives transformers' report."""
        info = self._place(self._outside)
        info.missing_keys = {k for k in info.missing_keys if self._layer_of(k) is None}
        return info

    def load(self, index: int) -> None:
        """Bring in one decoder layer.

        Raises:
            CheckpointError: The files lack one of its tensors, or hold one of another shape.
        """
        plan = self._plans[index]
        if plan is None:
            self._load_as_transformers_does(index)
        else:
            if self._filler is None:
                self._filler = Filler(self._paths, self.device)
            self._filler.forget_all_but(self._sizes_from[index])
            filled = self._filler.fill(plan, self._tensors_of(index))
            self._lent[index] = filled.lent
            for name, tensor in filled.tensors.items():
                self._set(name, tensor)
        self.layers[index].eval()

    @cached_property
    def _plans(self) -> list[LayerPlan | None]:
        """How each layer is filled; None where transformers has to do it."""
        if self._load_config.dtype_plan:
            return [None] * len(self.layers)
        stored = [stored_tensors(path) for path in self._paths]
        known = self._hf.state_dict()
        return [
            plan_of(
                {key: (file, stored[file][key]) for key, file in sources.items()},
                self._tensors_of(index),
                mapping=self._load_config.weight_mapping or [],
                base_model_prefix=self._hf.base_model_prefix,
                known=known,
            )
            for index, sources in enumerate(self._sources)
        ]

    @cached_property
    def _sizes_from(self) -> list[frozenset[int]]:
        """Bytes of the tensors of each layer and all that come after it."""
        sizes: list[frozenset[int]] = [frozenset()]
        for index in reversed(range(len(self.layers))):
            own = {tensor.nbytes for tensor in self._tensors_of(index).values()}
            sizes.insert(0, sizes[0] | own)
        return sizes

    def _tensors_of(self, index: int) -> dict[str, Tensor]:
        """A layer's parameters and persistent buffers, by path."""
        return dict(self.layers[index].state_dict(prefix=f"{self.prefix}.{index}."))

    def _set(self, name: str, tensor: Tensor) -> None:
        path, _, own = name.rpartition(".")
        module = self._hf.get_submodule(path)
        if own in module._parameters:
            module._parameters[own] = nn.Parameter(tensor, requires_grad=False)
        else:
            module._buffers[own] = tensor

    def _load_as_transformers_does(self, index: int) -> None:
        info = self._place(self._sources[index])
        layer = self.layers[index]
        missing = [name for name, tensor in layer.named_parameters() if tensor.is_meta]
        missing += [name for name, tensor in layer.named_buffers() if tensor.is_meta]
        for kind, found in (
            ("of another shape", sorted(str(key[0]) for key in info.mismatched_keys)),
            ("missing", [f"{self.prefix}.{index}.{name}" for name in missing]),
        ):
            if found:
                raise CheckpointError(
                    f"{self._hf.config.name_or_path}: {len(found)} tensors are {kind}, the first "
                    f"is {found[0]}; config.json and the weights are not of the same model"
                )

    def release(self, index: int) -> None:
        """Let go of a layer's weights, whose memory the next layers use: keep no view of them."""
        for module in self.layers[index].modules():
            for name, tensor in module._parameters.items():
                if tensor is not None:
                    empty = torch.empty_like(tensor, device="meta")
                    module._parameters[name] = nn.Parameter(empty, requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in module._non_persistent_buffers_set:
                    module._buffers[name] = torch.empty_like(buffer, device="meta")
        if self._filler is not None:
            self._filler.give_back(self._lent.pop(index, []))

    def forget_memory(self) -> None:
        """Give back the memory that is kept for layers to come."""
        if self._filler is not None:
            self._filler.forget_all_but(frozenset())
        give_freed_memory_back()

    def _place(self, keys: Mapping[str, int]) -> Any:
        tensors = {key: self._files[place].get_slice(key) for key, place in keys.items()}
        there = replace(self._load_config, device_map={"": self.device})
        with _no_bars():
            info, _ = convert_and_load_state_dict_in_model(
                model=self._hf, state_dict=tensors, load_config=there
            )
        return info


@contextmanager
def _no_bars() -> Iterator[None]:
    """Within the block transformers draws no progress bar: there would be one for each layer."""
    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


@contextmanager
def only_outside_layers() -> Iterator[list[LayerStore]]:
    """Within the block, transformers' `from_pretrained` reads no decoder layer.

    Yields:
        A list to which the store of each model that is loaded is added.
    """
    stores: list[LayerStore] = []

    def load(
        model: PreTrainedModel,
        state_dict: object,
        checkpoint_files: Sequence[str],
        load_config: Any,
        expected_keys: object = None,
    ) -> tuple[Any, None]:
        store = LayerStore(model, [Path(file) for file in checkpoint_files], load_config)
        info = store.load_outside()
        for layer in store.layers:  # not to be drawn at random as if they were missing
            for tensor in (*layer.parameters(), *layer.buffers()):
                tensor._is_hf_initialized = True
        stores.append(store)
        return info, None

    before = PreTrainedModel._load_pretrained_model
    PreTrainedModel._load_pretrained_model = staticmethod(load)
    try:
        yield stores
    finally:
        PreTrainedModel._load_pretrained_model = staticmethod(before)
