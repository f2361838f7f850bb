"""Made-up tables of a plan and its simulation, whose shapes are those of real ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from moe_lens.analysis.simulation import simulation_table, text_of

LOSSES = {
    "full": 0.0, "plan": 0.05, "frequency": 0.12, "random:0": 0.3, "random:1": 0.26, "drop": 0.2,
}  # fmt: skip
"""Nats a token above the full model's, by policy."""


def pruning_tables(
    seed: int, *, domains: Sequence[str], layers: Sequence[int], num_experts: int
) -> dict[str, pl.DataFrame]:
    """Tables `simulation`, `plan` and `export`."""
    draw = np.random.default_rng(seed)
    rows = []
    for place, domain in enumerate(domains):
        for document in range(8):
            base = 100 * draw.uniform(1.5, 2.5)
            for policy, extra in LOSSES.items():
                nll = base + 100 * extra * draw.uniform(0.8, 1.2)
                same = int(100 - 100 * extra)
                rows.append((policy, domain, 8 * place + document, 100, nll, 100 * extra, same))
    columns = ["policy", "domain", "document", "num_tokens", "nll_nats", "kl_nats"]
    documents = pl.DataFrame(rows, schema=[*columns, "num_top1_agree"], orient="row")
    kinds = {name: name.partition(":")[0] for name in LOSSES}
    text = text_of(domains, scored=domains[:1], same_text=False)
    return {
        "simulation": simulation_table(documents, kinds=kinds, text=text),
        "plan": _plan(draw, layers, num_experts),
        "export": pl.DataFrame(
            {
                "quantity": ["experts of a layer", "difference from the simulation"],
                "before": [float(num_experts), 0.0],
                "after": [float(num_experts * 3 // 4), 4e-7],
                "note": ["", "of a logit"],
            }
        ),
    }


def _plan(draw: np.random.Generator, layers: Sequence[int], num_experts: int) -> pl.DataFrame:
    rows = []
    for layer in layers:
        ranks, kept = draw.permutation(num_experts), draw.permutation(num_experts)
        for expert in range(num_experts):
            stays = int(kept[expert] < num_experts * 3 // 4)
            rows.append((layer, expert, stays, int(ranks[expert])))
    schema = {"layer": pl.Int64, "expert": pl.Int64, "kept": pl.Int64, "frequency_rank": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")
