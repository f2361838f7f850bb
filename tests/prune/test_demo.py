"""The embedded model, pruned: the checkpoint on disk has the perplexity that was simulated."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_lens.corpus import load_corpus
from moe_lens.loading import EMBEDDED, load_model
from moe_lens.observing import tokens_of
from moe_lens.prune.export import export
from moe_lens.prune.planning import make_plan
from moe_lens.prune.policy import policy_of
from moe_lens.study.evaluation import evaluate


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("keep", [56, 48, 32])
def test_the_pruned_demo_has_the_simulated_perplexity(keep: int, tmp_path: Path) -> None:
    plan = make_plan(EMBEDDED, keep=keep, criterion="random")
    corpus = load_corpus(EMBEDDED, max_documents=2)
    whole = load_model(EMBEDDED)
    tokens = tokens_of(whole, corpus, context_length=256)
    simulated = evaluate(whole, tokens, {"plan": policy_of(plan)}).documents
    done = export(EMBEDDED, plan, tmp_path / "small")
    assert done.verification is not None
    small = load_model(tmp_path / "small", dtype="float32")
    assert small.layers[0].modules.num_experts == keep
    found = evaluate(small, tokens_of(small, corpus, context_length=256), {}).documents
    rows = {
        row["document"]: row["nll_nats"] for row in simulated.to_dicts() if row["policy"] == "plan"
    }
    assert len(rows) == 14
    for row in found.to_dicts():
        assert row["nll_nats"] == pytest.approx(rows[row["document"]], rel=1e-5)
