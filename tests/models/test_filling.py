"""Bytes go where transformers would put them; what it does more than stacking is left to it."""

from __future__ import annotations

from pathlib import Path
from weakref import ref

import pytest
import torch

from moe_lens.errors import CheckpointError
from moe_lens.loading import load_model
from moe_lens.models.shards import stored_tensors
from moe_lens.models.store import LayerStore
from moe_lens.models.tiny import tiny_model


def store_of(folder: Path, model_type: str, dtype: str = "float32") -> LayerStore:
    tiny_model(model_type).save_pretrained(folder)
    store = load_model(folder, device="cpu", dtype=dtype, engine="streaming").store
    assert store is not None
    return store


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", ["deepseek", "qwen3_moe", "gpt_oss"])
def test_a_filled_layer_is_the_one_transformers_loads(
    model_type: str, dtype: str, tmp_path: Path
) -> None:
    store = store_of(tmp_path, model_type, dtype)
    if dtype == "float32":
        assert all(plan is not None for plan in store._plans)
    for index in range(len(store.layers)):
        store._load_as_transformers_does(index)
        expected = {k: v.clone() for k, v in store.layers[index].state_dict().items()}
        store.release(index)
        store.load(index)
        found = store.layers[index].state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
        store.release(index)


def test_conversions_that_compute_are_left_to_transformers(tmp_path: Path) -> None:
    plans = store_of(tmp_path, "kimi_linear")._plans
    assert any(plan is None for plan in plans)


def test_memory_is_used_again_and_begins_where_the_file_has_it(tmp_path: Path) -> None:
    store = store_of(tmp_path, "deepseek")
    stored = stored_tensors(tmp_path / "model.safetensors")
    pointers = []
    for index in (1, 2, 1):
        store.load(index)
        name = f"model.layers.{index}.self_attn.q_proj.weight"
        weight = store.layers[index].get_parameter("self_attn.q_proj.weight")
        assert weight.data_ptr() % 64 == stored[name].start % 64
        pointers.append(store.layers[index].get_parameter("mlp.experts.down_proj").data_ptr())
        store.release(index)
    assert len(set(pointers)) == 1


def test_memory_that_no_later_layer_fits_is_let_go(tmp_path: Path) -> None:
    store = store_of(tmp_path, "deepseek")
    dense = list(store._tensors_of(0))
    store.load(0)
    memory = {name: ref(lent) for name, lent in zip(dense, store._lent[0], strict=True)}
    store.release(0)
    store.load(1)
    gone = {name.rpartition("layers.0.")[2] for name, lent in memory.items() if lent() is None}
    assert gone == {f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")}


def test_a_file_that_shrinks_while_it_is_read_is_told(tmp_path: Path) -> None:
    store = store_of(tmp_path, "deepseek")
    file = tmp_path / "model.safetensors"
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 4)
    with pytest.raises(CheckpointError, match="became shorter while it was read"):
        store.load(2)
