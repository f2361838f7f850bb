"""Loading: what a good checkpoint gives, and one clear message for each way to be bad."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import moe_lens
from moe_lens.errors import CheckpointError, CorpusError, InputError, UnsupportedModel
from moe_lens.event import Field
from moe_lens.loading import load_model
from moe_lens.models.deepseek import DeepseekForCausalLM
from moe_lens.observing import record, tokens_of
from tests.checkpoints import edit_config, edit_weights, save_checkpoint, save_tokenizer, text_of


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("model_type", ["deepseek", "olmoe", "gpt_oss", "qwen2_moe"])
def test_a_checkpoint_on_disk_gives_the_model_that_was_saved(
    model_type: str, tmp_path: Path
) -> None:
    model = load_model(save_checkpoint(tmp_path / "m", model_type), device="cpu")
    original = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    ids = torch.arange(4, 20).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(model.hf(ids).logits, original(ids).logits)
    assert model.source == str(tmp_path / "m")
    assert len(model.checks) == 4


def test_record_shows_every_token_layer_and_slot(checkpoint: Path) -> None:
    model = load_model(checkpoint)
    events = record(model, text_of(9), fields=[Field.OUTPUTS])
    assert [event.layer for event in events] == [1, 2]
    for event in events:
        assert event.outputs is not None
        assert event.outputs.shape == (9, 3, 32)
        assert event.tokens.position.tolist() == list(range(9))


def test_dtype_can_be_chosen(checkpoint: Path) -> None:
    assert load_model(checkpoint, dtype="bfloat16").hf.dtype is torch.bfloat16
    with pytest.raises(InputError, match="dtype 'int4' is not one of auto, float32, bfloat16"):
        load_model(checkpoint, dtype="int4")


def test_a_device_that_is_not_there_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="device 'abacus' is not known to torch"):
        load_model(checkpoint, device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="torch sees no CUDA device here; use cpu"):
            load_model(checkpoint, device="cuda")


def test_deepseek_checkpoints_that_name_remote_code_use_ours(checkpoint: Path) -> None:
    edit_config(checkpoint, auto_map={"AutoModelForCausalLM": "modeling_deepseek.Evil"})
    (checkpoint / "modeling_deepseek.py").write_text("raise SystemExit('remote code ran')")
    assert isinstance(load_model(checkpoint).hf, DeepseekForCausalLM)


def test_unknown_remote_code_is_refused_without_the_flag_and_not_run(checkpoint: Path) -> None:
    edit_config(checkpoint, model_type="novel_moe", auto_map={"AutoConfig": "novel.Config"})
    (checkpoint / "novel.py").write_text("raise SystemExit('remote code ran')")
    with pytest.raises(UnsupportedModel, match="runs only if you pass `--trust-remote-code`"):
        load_model(checkpoint)


def test_a_dense_model_is_refused(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="llama: this is a dense model"):
        load_model(tmp_path)


def test_a_hub_id_offline_names_the_missing_file() -> None:
    with pytest.raises(CheckpointError, match=r"nobody/nothing: .*config\.json of that hub id"):
        load_model("nobody/nothing")


def test_a_truncated_shard_is_named_with_both_sizes(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    expected = (
        f"cut short or damaged: {len(whole) - 100} bytes, but its header promises {len(whole)}"
    )
    with pytest.raises(CheckpointError, match=expected):
        load_model(checkpoint)


def test_a_corrupt_header_is_told(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    whole = bytearray(file.read_bytes())
    whole[8:40] = b"\xff" * 32
    file.write_bytes(bytes(whole))
    with pytest.raises(CheckpointError, match="its safetensors header cannot be read"):
        load_model(checkpoint)


def test_a_missing_shard_is_named(checkpoint: Path) -> None:
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="the first is model-00002-of-00002"):
        load_model(checkpoint)


def test_pickled_weights_are_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="a pickle that can run code when loaded"):
        load_model(checkpoint)


def test_a_tensor_that_is_not_in_the_files_is_named(checkpoint: Path) -> None:
    edit_weights(checkpoint, "model.layers.1.mlp.gate.weight", None)
    with pytest.raises(
        CheckpointError, match=r"1 tensors are missing.*layers\.1\.mlp\.gate\.weight"
    ):
        load_model(checkpoint)


def test_an_expert_that_is_not_in_the_files_is_told(checkpoint: Path) -> None:
    edit_weights(checkpoint, "model.layers.1.mlp.experts.3.up_proj.weight", None)
    with pytest.raises(CheckpointError, match=r"lack model\.layers\.1\.mlp\.experts\.3\.up_proj"):
        load_model(checkpoint)


def test_tensors_of_another_shape_are_told(checkpoint: Path) -> None:
    edit_config(checkpoint, vocab_size=200)
    with pytest.raises(CheckpointError, match=r"of another shape|cannot load it"):
        load_model(checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(checkpoint: Path, value: float) -> None:
    edit_weights(checkpoint, "model.layers.2.mlp.experts.5.down_proj.weight", value)
    with pytest.raises(CheckpointError, match=r"layers\.2\.mlp\.experts.*not finite"):
        load_model(checkpoint)


def test_another_models_tokenizer_is_refused(checkpoint: Path) -> None:
    save_tokenizer(checkpoint, vocab_size=500)
    with pytest.raises(CheckpointError, match="ids up to 499, but the model's vocabulary has 128"):
        load_model(checkpoint)


def test_a_damaged_tokenizer_is_told(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="its tokenizer cannot be read"):
        load_model(checkpoint)


def test_text_needs_a_tokenizer(checkpoint: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    with pytest.raises(InputError, match="no tokenizer lies beside the weights"):
        record(load_model(checkpoint), "w5")


def test_an_empty_text_is_refused(checkpoint: Path) -> None:
    with pytest.raises(CorpusError, match="the text is empty"):
        record(load_model(checkpoint), " \n")


def test_a_text_longer_than_the_context_is_split_or_told(checkpoint: Path, tmp_path: Path) -> None:
    model = load_model(checkpoint)
    (tmp_path / "long.txt").write_text(text_of(300))
    corpus = moe_lens.load_corpus(tmp_path / "long.txt")
    assert tokens_of(model, corpus).num_long == 1
    with pytest.raises(CorpusError, match="300 tokens"):
        tokens_of(model, corpus, on_long="error")
    with pytest.raises(InputError, match=r"context of 4096 tokens, but .* was made for 128"):
        tokens_of(model, corpus, context_length=4096)


def test_public_names_can_all_be_had() -> None:
    for name in moe_lens.__all__:
        assert getattr(moe_lens, name) is not None
    assert sorted(dir(moe_lens)) == sorted(moe_lens.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        moe_lens.nonsense  # noqa: B018
