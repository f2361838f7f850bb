"""What a config says: known answers, an oracle that builds the weights, and error texts."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from moe_lens.errors import CheckpointError, UnsupportedModel
from moe_lens.models.inspect import inspect_checkpoint
from moe_lens.models.tiny import tiny_config, tiny_model

DEEPSEEK_16B = {
    "architectures": ["DeepseekForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_deepseek.DeepseekForCausalLM"},
    "model_type": "deepseek",
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 1408,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "hidden_size": 2048,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 10944,
    "vocab_size": 102400,
    "max_position_embeddings": 4096,
    "norm_topk_prob": False,
    "scoring_func": "softmax",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
OLMOE_1B_7B = {
    "model_type": "olmoe",
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "num_hidden_layers": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 50304,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWEN15_MOE = {
    "model_type": "qwen2_moe",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Any:
    def write(config: object, name: str = "model") -> Path:
        directory = tmp_path / name
        directory.mkdir()
        text = config if isinstance(config, str) else json.dumps(config)
        (directory / "config.json").write_text(text, encoding="utf-8")
        return directory

    return write


def test_deepseekmoe_16b(checkpoint: Any) -> None:
    facts = inspect_checkpoint(checkpoint(DEEPSEEK_16B))

    hidden, vocab = 2048, 102400
    expert = 3 * hidden * 1408  # gate, up, down
    attention = 4 * hidden * hidden
    dense_layer = 3 * hidden * 10944
    norms = 28 * 2 * hidden + hidden
    per_moe_layer = 2 * expert + 64 * hidden  # shared experts, router
    always = 2 * vocab * hidden + 28 * attention + dense_layer + norms + 27 * per_moe_layer

    assert facts.parameters == always + 27 * 64 * expert == 16_375_728_128
    assert facts.active_parameters == always + 27 * 6 * expert == 2_828_650_496
    assert facts.bytes == 2 * 16_375_728_128
    assert (facts.num_layers, facts.num_moe_layers) == (28, 27)
    assert facts.moe_layers == tuple(range(1, 28))
    assert (facts.num_experts, facts.top_k, facts.num_shared_experts) == (64, 6, 2)
    assert (facts.hidden_size, facts.moe_intermediate_size, facts.vocab_size) == (2048, 1408, vocab)
    assert (facts.context_length, facts.dtype, facts.model_type) == (4096, "bfloat16", "deepseek")
    assert facts.split.embedding == 2 * vocab * hidden
    assert facts.split.attention == 28 * attention
    assert facts.split.routed == 27 * 64 * expert
    assert facts.split.shared == 27 * 2 * expert
    assert facts.split.router == 27 * 64 * hidden
    assert facts.split.other == dense_layer + norms
    assert facts.stored is None


def test_olmoe(checkpoint: Any) -> None:
    facts = inspect_checkpoint(checkpoint(OLMOE_1B_7B))

    hidden, vocab = 2048, 50304
    expert = 3 * hidden * 1024
    layer = 4 * hidden**2 + 64 * hidden + 4 * hidden  # attention, router; two norms, q and k norm
    always = 2 * vocab * hidden + 16 * layer + hidden
    assert facts.parameters == always + 16 * 64 * expert == 6_919_161_856
    assert facts.active_parameters == always + 16 * 8 * expert == 1_282_017_280
    assert (facts.num_experts, facts.top_k, facts.num_shared_experts) == (64, 8, 0)
    assert facts.num_moe_layers == facts.num_layers == 16


def test_qwen15_moe_has_one_wide_shared_expert(checkpoint: Any) -> None:
    facts = inspect_checkpoint(checkpoint(QWEN15_MOE))

    hidden, vocab = 2048, 151936
    expert, shared = 3 * hidden * 1408, 3 * hidden * 5632 + hidden  # its gate is hidden -> 1
    layer = 4 * hidden**2 + 3 * hidden + shared + 60 * hidden + 2 * hidden  # q, k, v have a bias
    always = 2 * vocab * hidden + 24 * layer + hidden
    assert facts.parameters == always + 24 * 60 * expert == 14_315_784_192
    assert facts.active_parameters == always + 24 * 4 * expert == 2_689_173_504
    assert (facts.num_experts, facts.top_k, facts.num_shared_experts) == (60, 4, 1)
    assert facts.split.shared == 24 * shared


def test_deepseek_v3_takes_under_two_seconds(checkpoint: Any) -> None:
    directory = checkpoint(DEEPSEEK_V3)
    before = time.process_time()
    facts = inspect_checkpoint(directory)
    assert time.process_time() - before < 2.0
    assert facts.parameters == 671_026_404_352
    assert facts.active_parameters == 37_552_282_624
    assert facts.moe_layers == tuple(range(3, 61))
    assert facts.quantization == "fp8"


def test_json_names_others_rely_on(checkpoint: Any) -> None:
    facts = inspect_checkpoint(checkpoint(OLMOE_1B_7B)).to_dict()
    assert json.loads(json.dumps(facts)) == facts
    assert {
        "model_type",
        "num_layers",
        "num_moe_layers",
        "num_experts",
        "top_k",
        "num_shared_experts",
        "parameters",
        "active_parameters",
        "bytes",
    } <= facts.keys()
    assert facts["model_type"] == "olmoe"


# One of each build: transposed or biased experts, shared ones outside the block, state-space
# layers, a tied embedding, experts in a narrower space, layers without experts in between.
BUILDS = (
    "aria_text",
    "deepseek",
    "deepseek_v3",
    "ernie4_5_moe",
    "gpt_oss",
    "granitemoehybrid",
    "hunyuan_v1_moe",
    "jamba",
    "lfm2_moe",
    "nemotron_h",
    "qwen2_moe",
    "zaya",
)


@pytest.mark.parametrize("model_type", BUILDS)
def test_families_agree_with_their_weights(model_type: str, checkpoint: Any) -> None:
    """Oracle: a model with real tensors, of which idle experts are counted one by one."""
    config = tiny_config(model_type)
    facts = inspect_checkpoint(checkpoint(config.to_json_string()))
    model = tiny_model(model_type)
    assert facts.parameters == sum({id(p): p.numel() for p in model.parameters()}.values())
    split = facts.to_dict()["split"]
    assert sum(split.values()) == facts.parameters
    assert min(split["embedding"], split["attention"], split["router"]) > 0
    fused = [p for name, p in model.named_parameters() if ".experts." in name]
    assert {facts.num_experts} == {p.shape[0] for p in fused}
    idle = sum(expert.numel() for p in fused for expert in p[facts.top_k :])
    assert facts.active_parameters == facts.parameters - idle
    assert (facts.num_shared_experts > 0) == (split["shared"] > 0)


def test_tied_embedding_counts_once(checkpoint: Any) -> None:
    untied = inspect_checkpoint(checkpoint(OLMOE_1B_7B, "untied"))
    tied = inspect_checkpoint(checkpoint({**OLMOE_1B_7B, "tie_word_embeddings": True}, "tied"))
    assert untied.parameters - tied.parameters == 50304 * 2048
    assert tied.split.embedding == 50304 * 2048


def test_config_without_dtype_is_float32(checkpoint: Any) -> None:
    facts = inspect_checkpoint(
        checkpoint({k: v for k, v in OLMOE_1B_7B.items() if "dtype" not in k})
    )
    assert (facts.dtype, facts.bytes) == ("float32", 4 * facts.parameters)


def test_files_beside_the_config(tmp_path: Path) -> None:
    tiny_model("olmoe").to(torch.bfloat16).save_pretrained(tmp_path)
    facts = inspect_checkpoint(tmp_path)
    assert facts.stored is not None
    assert facts.stored.num_elements == facts.parameters
    assert facts.stored.dtypes == {"BF16": facts.stored.num_tensors}
    assert facts.stored.bytes == (tmp_path / "model.safetensors").stat().st_size
    assert 2 * facts.parameters < facts.stored.bytes < 2 * facts.parameters + 50_000


def test_files_of_another_model_are_refused(checkpoint: Any) -> None:
    directory = checkpoint(tiny_config("olmoe").to_json_string())
    save_file({"model.norm.weight": torch.ones(32)}, directory / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"hold 32 numbers, but .* has \d+,\d+ parameters\. Tens"
    ):
        inspect_checkpoint(directory)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    tiny_model("olmoe").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        inspect_checkpoint(tmp_path)


def test_directory_without_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json\. Give the directory"):
        inspect_checkpoint(tmp_path)


def test_file_instead_of_directory(checkpoint: Any) -> None:
    file = checkpoint(OLMOE_1B_7B) / "config.json"
    with pytest.raises(CheckpointError, match=r"is a file\. Give the directory"):
        inspect_checkpoint(file)


@pytest.mark.parametrize("path", ["/no/such/model", "./nowhere", "a/b/c", "C:\\models\\x"])
def test_path_that_is_no_hub_id(path: str) -> None:
    with pytest.raises(CheckpointError, match=r"does not exist, and is no hub id \(owner/name\)"):
        inspect_checkpoint(path)


def test_hub_id_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointError,
        match=r"some-org/some-moe: there is no such directory here, config\.json of that hub id "
        r"is not in the local cache, and HF_HUB_OFFLINE is set\. .* or give a directory",
    ):
        inspect_checkpoint("some-org/some-moe")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": ', r"config\.json is not JSON .*Download the file again"),
        ("[1, 2]", r"config\.json holds a JSON list, not an object"),
        ('{"hidden_size": 8}', r"config\.json names no model_type"),
        ('{"model_type": 7}', r"config\.json names no model_type"),
    ],
)
def test_unreadable_config(text: str, message: str, checkpoint: Any) -> None:
    with pytest.raises(CheckpointError, match=message):
        inspect_checkpoint(checkpoint(text))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"vocab_size": 1, "pad_token_id": 1}, "AssertionError"),
        ({"hidden_act": "no_such_activation"}, "no_such_activation"),
        ({"torch_dtype": "bfloat17"}, "bfloat17"),
    ],
)
def test_senseless_config(change: dict[str, object], why: str, checkpoint: Any) -> None:
    config = {**OLMOE_1B_7B, **change}
    with pytest.raises(CheckpointError, match=rf"not describe a olmoe model .*{why}"):
        inspect_checkpoint(checkpoint(config))


def test_unknown_family(checkpoint: Any) -> None:
    with pytest.raises(
        UnsupportedModel,
        match=r"the installed transformers 5\.\d+.* does not know model_type 'no_such_moe'\. A ",
    ):
        inspect_checkpoint(checkpoint({"model_type": "no_such_moe"}))


def test_remote_code_is_named_and_not_run(checkpoint: Any) -> None:
    directory = checkpoint(
        {"model_type": "sly", "auto_map": {"AutoConfig": "evil.Config"}, "architectures": ["Sly"]}
    )
    (directory / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UnsupportedModel, match="runs only if you pass `--trust-remote-code`"):
        inspect_checkpoint(directory)


def test_remote_code_of_a_known_family_is_ignored(checkpoint: Any) -> None:
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    directory = checkpoint({**OLMOE_1B_7B, "auto_map": auto_map})
    (directory / "evil.py").write_text("raise SystemExit('ran')")
    assert inspect_checkpoint(directory).num_experts == 64


def test_dense_model(checkpoint: Any) -> None:
    config = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1}
    with pytest.raises(UnsupportedModel, match="llama: this is a dense model"):
        inspect_checkpoint(checkpoint(config))


def test_not_a_language_model(checkpoint: Any) -> None:
    with pytest.raises(UnsupportedModel, match="'vit' is not a causal language model"):
        inspect_checkpoint(checkpoint({"model_type": "vit"}))


def test_wrong_path_is_told_without_importing_torch() -> None:
    program = (
        "import sys\n"
        "from moe_lens.models.inspect import inspect_checkpoint\n"
        "try: inspect_checkpoint('/no/such/model')\n"
        "except ValueError: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
