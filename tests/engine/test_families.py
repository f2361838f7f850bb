"""The seams, on every family: identity, slots, masks, sums. The table in docs/ comes from here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers

from moe_lens.engine.layers import last_hidden, needed_mask
from moe_lens.engine.recorder import Recorder
from moe_lens.engine.session import Session
from moe_lens.event import Field
from moe_lens.models.model import MoEModel
from moe_lens.models.tiny import TINY_FAMILIES
from moe_lens.policies import MaskExperts
from tests.engine.families import (
    REFUSED,
    SUPPORTED,
    cut_of,
    proven,
    pruned,
    refusal,
    stock_expert,
    stock_hidden,
    token_batch,
)

DOC = Path(__file__).parents[2] / "docs" / "families.md"
NO_RULE = {"deepseek_v4"}
"""Families some of whose routers no known rule reproduces: masking is refused there."""


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_identity_run_gives_the_stock_models_logits(model_type: str) -> None:
    model = proven(model_type)
    batch = token_batch(16, 11, vocab_size=model.vocab_size)
    stock = stock_hidden(model.hf, batch)
    with Session(model, sink=lambda event: None) as session:
        ours = session.run(batch)
    head = model.hf.get_output_embeddings()
    for left, right in ((ours, stock), (head(ours), head(stock))):
        left, right = left[batch.attention_mask], right[batch.attention_mask]
        assert (left - right).abs().max() <= 1e-6 * right.abs().max()


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_padding_on_the_right_needs_no_mask(model_type: str) -> None:
    """What lets the engine leave the mask out: stock code, with it and without."""
    model = proven(model_type)
    batch = token_batch(16, 7, 3, vocab_size=model.vocab_size)
    assert needed_mask(batch, model.device) is None
    masked = stock_hidden(model.hf, batch)[batch.attention_mask]
    bare = last_hidden(model, batch)[batch.attention_mask]
    assert (bare - masked).abs().max() <= 1e-6 * masked.abs().max()


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_each_slots_output_is_that_expert_called_alone(model_type: str) -> None:
    model = proven(model_type)
    batch = token_batch(12, 9, vocab_size=model.vocab_size)
    inputs: dict[int, torch.Tensor] = {}
    hooks = [
        layer.modules.experts.register_forward_pre_hook(
            lambda module, args, index=layer.modules.index: inputs.update({index: args[0]})
        )
        for layer in model.layers
    ]
    recorder = Recorder([Field.OUTPUTS])
    with Session(model, sink=recorder.update, fields=recorder.fields) as session:
        session.run(batch)
    for hook in hooks:
        hook.remove()
    real = batch.attention_mask.reshape(-1)
    for layer, event in zip(model.layers, recorder.events, strict=True):
        assert event.outputs is not None
        x = inputs[layer.modules.index][real]
        largest = event.outputs.abs().max()
        assert largest > 0
        for expert in range(layer.modules.num_experts):
            token, slot = (event.routing.experts == expert).nonzero(as_tuple=True)
            if len(token):
                alone = stock_expert(layer.modules, expert, x[token])
                assert (event.outputs[token, slot] - alone).abs().max() <= 1e-6 * largest


@pytest.mark.parametrize("model_type", sorted(set(SUPPORTED) - NO_RULE))
def test_masking_equals_the_pruned_model(model_type: str) -> None:
    model = proven(model_type)
    assert all(layer.facts.rule is not None for layer in model.layers)
    cut = cut_of(model)
    batch = token_batch(14, 14, vocab_size=model.vocab_size)
    stock = stock_hidden(pruned(model, cut.kept), batch)
    policy = MaskExperts({layer.modules.index: cut.masked for layer in model.layers})
    with Session(model, sink=lambda event: None, policy=policy) as session:
        ours = session.run(batch)
    assert (ours - stock).abs().max() <= 1e-5 * stock.abs().max()
    assert (ours - stock_hidden(model.hf, batch)).abs().max() > 1e-3 * stock.abs().max()


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_routing_seen_is_the_routing_used(model_type: str) -> None:
    """Weights times outputs plus shared is the block's output, padded rows left out."""
    model = proven(model_type)
    batch = token_batch(16, 7, vocab_size=model.vocab_size)
    recorder = Recorder([Field.OUTPUTS, Field.SHARED, Field.BLOCK_OUTPUT])
    with Session(model, sink=recorder.update, fields=recorder.fields) as session:
        session.run(batch)
    for event in recorder.events:
        assert event.outputs is not None
        assert event.shared is not None
        assert event.block_output is not None
        event.routing.check()
        assert event.routing.num_tokens == 16 + 7
        total = torch.einsum("ts,tsd->td", event.routing.weights, event.outputs) + event.shared
        assert (total - event.block_output).abs().max() <= 1e-5 * event.block_output.abs().max()


@pytest.mark.parametrize("model_type", sorted(REFUSED))
def test_what_cannot_be_seen_is_refused_by_name(model_type: str) -> None:
    assert REFUSED[model_type] in refusal(model_type)


def test_the_table_in_the_docs_is_what_holds(request: pytest.FixtureRequest) -> None:
    table = _table()
    if request.config.getoption("--write-families"):
        DOC.write_text(table, encoding="utf-8")
    assert DOC.read_text(encoding="utf-8") == table, "run `make families`"


_HEAD = """\
# Model families

Every Mixture-of-Experts causal language model of transformers {version}, tried on a tiny random
model. This page is written by the tests (`make families`); what it says of a family was run, not
read.

In every family of the first table the observed run gives the stock model's logits (float32, 1e-6
of the largest), every slot's output equals that expert run alone by transformers' own code, and
weights x outputs + shared experts give the block's output. The load-time proof repeats this on
your checkpoint.

- **residual**: how the block's output joins the residual stream. `r + B`: it is added. `r + s B`:
  with a stated factor. `r + norm(B)`: normed first, so states such as r + one expert are not sums.
  `other`: in a way that no known equation describes; routing and outputs are exact, `resid_mid`
  and the Gram matrix are refused.
- **choice rule**: the known rule that reproduces every id and weight of the router. With it,
  masking an expert equals the pruned model (1e-5, tested), and a smaller top-k is what the model
  itself would do. Without one, those policies are refused.
- **streamed**: whether decoder layers can be read from disk one at a time, which a model larger
  than memory needs. They cannot where layers share more than the residual stream.

| family | residual | shared experts | choice rule | streamed |
|---|---|---|---|---|
"""


def _table() -> str:
    lines = [_HEAD.format(version=transformers.__version__).rstrip("\n")]
    lines += [_row(name, proven(name)) for name in SUPPORTED]
    lines += ["", "## Refused", "", "| family | why |", "|---|---|"]
    lines += [f"| {name} | {_reason(refusal(name))} |" for name in sorted(REFUSED)]
    return "\n".join(lines) + "\n"


def _reason(message: str) -> str:
    """A refusal without the size of an error, which differs between machines."""
    return re.sub(r"relative error \d\.\d+e[+-]\d+, allowed \d+e[+-]\d+", "not equal", message)


def _row(name: str, model: MoEModel) -> str:
    facts = [layer.facts for layer in model.layers]
    first = facts[-1]
    residual = "other"
    if first.post_norm:
        residual = "r + norm(B)"
    elif first.residual_scale is not None:
        residual = "r + B" if first.residual_scale == 1.0 else "r + s B"
    modules = model.layers[-1].modules
    shared = "none" if modules.shared is None else "yes"
    if modules.shared_gate is not None:
        shared = "gated"
    rules = sorted({"none known" if f.rule is None else f.rule.describe() for f in facts})
    streamed = "no" if model.stack is None else "yes"
    return f"| {name} | {residual} | {shared} | {'; '.join(rules)} | {streamed} |"


def test_every_family_is_in_one_of_the_two_tables() -> None:
    assert set(SUPPORTED) | set(REFUSED) == set(TINY_FAMILIES)
