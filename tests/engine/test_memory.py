"""A streamed sweep holds two layers and the residual streams, however many layers there are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from moe_lens.models.deepseek import DeepseekConfig
from tests.memory import STATUS

_CHILD = """
import json, sys, threading, time
import torch
torch.set_num_threads(1)
from moe_lens.corpus import TokenBatch
from moe_lens.engine.sweep import Stream, sweep
from moe_lens.loading import load_model
from tests.memory import anonymous_bytes

def watch():
    while True:
        peak[0] = max(peak[0], anonymous_bytes())
        time.sleep(0.002)

ids = torch.arange(2 * 256).reshape(2, 256) % 500
real = torch.ones_like(ids) > 0
document = torch.tensor([[0], [1]]).expand(2, 256).contiguous()
position = torch.arange(256).expand(2, 256).contiguous()
batches = [TokenBatch(ids, real, real, document, position)] * 4
peak = [0]
before = anonymous_bytes()
threading.Thread(target=watch, daemon=True).start()
model = load_model(sys.argv[1], device="cpu", engine="streaming")
for _ in sweep(model, batches, [Stream()]):
    pass
print(json.dumps({"used": peak[0] - before, "layer": model.store.layer_bytes}))
"""


def used_by(folder: Path, num_layers: int) -> dict[str, int]:
    config = DeepseekConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        moe_intermediate_size=512,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_routed_experts=32,
        num_experts_per_tok=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder)], check=True, capture_output=True, text=True
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not STATUS.exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_layers(tmp_path: Path) -> None:
    few, many = used_by(tmp_path / "few", 4), used_by(tmp_path / "many", 16)
    layer, tokens = many["layer"], 4 * 2 * 256
    assert layer > 45e6
    assert many["used"] <= 2 * layer + 5_000 * tokens + (1 << 30)
    assert many["used"] <= few["used"] + layer, "12 more layers of 50 MB took memory"
