"""What observation costs: our experts function and all routing statistics, against stock.

`python -m benchmarks.observe [--tokens N] [--repeats N] [--threads N] [--only NAME]`

Two decoder layers of real width with random weights; the stock model runs with each of
transformers' own experts implementations, and ours with no statistics, with all routing
statistics, and with the Gram of every rank besides. `--tokens` is divided by 4 where the
processor has no instructions for the dtype, which makes stock seven times slower.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, OlmoeConfig, PreTrainedConfig

from benchmarks.measure import clock, gemm_rate, interleaved, save
from moe_lens.corpus import TokenBatch
from moe_lens.engine.discover import last_hidden
from moe_lens.engine.experts import slow_dtype
from moe_lens.engine.proof import prove
from moe_lens.engine.session import Session
from moe_lens.event import Field, LayerEvent
from moe_lens.models.deepseek import DeepseekConfig
from moe_lens.models.model import LayerFacts, MoEModel, ObservedLayer
from moe_lens.models.structure import find_moe_layers
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.coactivation import Coactivation
from moe_lens.stats.documents import DocumentUsage
from moe_lens.stats.transitions import Transitions
from moe_lens.stats.usage import Usage
from moe_lens.stats.vocabulary import TokenVocabulary
from moe_lens.stats.weight_mass import WeightMass

_COMMON: dict[str, Any] = {
    "vocab_size": 2048,
    "num_hidden_layers": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "deepseek": lambda: DeepseekConfig(
        **_COMMON,
        hidden_size=2048,
        num_attention_heads=16,
        num_key_value_heads=16,
        n_routed_experts=64,
        n_shared_experts=2,
        num_experts_per_tok=6,
        moe_intermediate_size=1408,
        first_k_dense_replace=0,
    ),
    "olmoe": lambda: OlmoeConfig(**_COMMON, intermediate_size=1024),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STOCK = ("eager", "grouped_mm")


def build(family: str, dtype: torch.dtype) -> MoEModel:
    """Two random layers of real width, proven."""
    config = CONFIGS[family]()
    hf = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in find_moe_layers(hf):
            router = layer.router.get_parameter("weight")
            router.copy_(torch.randn(router.shape, generator=generator) * 0.02)
    layers = tuple(ObservedLayer(layer, LayerFacts()) for layer in find_moe_layers(hf))
    return prove(MoEModel(hf=hf, tokenizer=None, layers=layers, source=family))


def token_batch(model: MoEModel, num_tokens: int) -> TokenBatch:
    """Rows of 512 random tokens."""
    shape = (num_tokens // 512, 512)
    ids = torch.randint(model.vocab_size, shape, generator=torch.Generator().manual_seed(1))
    real = torch.ones(shape, dtype=torch.bool)
    document = torch.arange(shape[0]).unsqueeze(1).expand(shape).contiguous()
    position = torch.arange(shape[1]).expand(shape).contiguous()
    return TokenBatch(ids, real, real, document, position)


def statistics_of(model: MoEModel) -> list[Accumulator]:
    """Every routing statistic."""
    transitions = Transitions([layer.modules.index for layer in model.layers])
    plain = [Usage(), WeightMass(), Coactivation(), DocumentUsage(), TokenVocabulary()]
    return [*plain, transitions]


def observed(
    model: MoEModel, batch: TokenBatch, accumulators: Sequence[Accumulator], *fields: Field
) -> None:
    """One observed pass."""

    def feed(event: LayerEvent) -> None:
        for accumulator in accumulators:
            accumulator.update(event)

    with Session(model, sink=feed, fields=fields) as session:
        session.run(batch)


def stock(model: MoEModel, batch: TokenBatch, implementation: str) -> None:
    """One pass of the untouched model."""
    model.hf.set_experts_implementation(implementation)
    last_hidden(model, batch)


def case(family: str, dtype: str, *, num_tokens: int, repeats: int) -> dict[str, Any]:
    """All ways of running one model, taking turns."""
    model = build(family, DTYPES[dtype])
    batch = token_batch(model, num_tokens)
    accumulators = statistics_of(model)
    tasks: dict[str, Callable[[], object]] = {
        **{f"stock {name}": lambda name=name: stock(model, batch, name) for name in STOCK},
        "ours, nothing asked": lambda: observed(model, batch, []),
        "ours, routing statistics": lambda: observed(model, batch, accumulators),
        "ours, statistics and Gram": lambda: observed(model, batch, accumulators, Field.GRAM),
    }
    seconds = interleaved(tasks, repeats=repeats)
    top_k, width = model.layers[0].modules.top_k, model.hf.config
    shapes = {
        "tokens": num_tokens,
        "layers": 2,
        "hidden": width.hidden_size,
        "experts": model.layers[0].modules.num_experts,
        "expert_width": model.layers[0].modules.experts.get_parameter("down_proj").shape[2],
        "top_k": top_k,
    }
    base = seconds["stock eager"]
    return {
        "family": family,
        "dtype": dtype,
        "shapes": shapes,
        "seconds": seconds,
        "ratio": {name: value / base for name, value in seconds.items()},
        "gemm_ceiling_gflops": gemm_rate(
            DTYPES[dtype],
            rows=num_tokens * top_k // shapes["experts"],
            inner=shapes["hidden"],
            outer=2 * shapes["expert_width"],
        )
        / 1e9,
    }


def main() -> None:
    """Run every case, print a table, write results/observe.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="part of a case's name, such as deepseek or float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cases = []
    for family in CONFIGS:
        for dtype in DTYPES:
            if arguments.only and arguments.only not in f"{family} {dtype}":
                continue
            slow = slow_dtype(torch.empty(0, dtype=DTYPES[dtype]))
            num_tokens = max(arguments.tokens // (4 if slow else 1), 512)
            found = case(family, dtype, num_tokens=num_tokens, repeats=arguments.repeats)
            cases.append(found)
            print(f"{family} {dtype}, {found['shapes']}")
            for name, value in found["seconds"].items():
                print(f"  {name:28s} {value:8.3f} s   {found['ratio'][name]:.3f} x stock eager")
    worst = max(c["ratio"]["ours, routing statistics"] for c in cases)
    result = {
        "ratio": worst,
        "baseline": "stock transformers, eager experts, same model, batch and process",
        "unit": f"{clock()} time of ours with all routing statistics / baseline, worst case",
        "shapes": [c["shapes"] for c in cases],
        "cases": cases,
    }
    print(f"worst ratio {worst:.3f}; written to {save('observe', result)}")


if __name__ == "__main__":
    main()
