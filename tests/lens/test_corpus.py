"""The lens over a corpus against full float64 logits, position by position."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

from moe_lens.corpus import Corpus, Document, TokenBatch, TokenizedCorpus, batches
from moe_lens.engine.recorder import Recorder
from moe_lens.engine.session import Session
from moe_lens.errors import CorpusError
from moe_lens.event import LayerEvent
from moe_lens.lens.corpus import CorpusLens
from moe_lens.lens.decode import Decoded, decode
from moe_lens.lens.sampling import SampledPositions, sample_positions
from moe_lens.lens.states import LENS_FIELDS
from moe_lens.lens.unembed import OutputHead
from moe_lens.models.model import MoEModel
from tests.engine.families import proven, token_batch

LENGTHS = (9, 4, 13, 1, 7, 11)
DOMAINS = ("code", "code", "prose", "prose", "prose", "code")


def corpus_of(*, has_bos: bool = True, context: int = 8) -> TokenizedCorpus:
    rng = torch.Generator().manual_seed(5)
    documents = tuple(
        Document(text="x", domain=domain, id=str(i)) for i, domain in enumerate(DOMAINS)
    )
    ids = [torch.randint(3, 128, (n,), generator=rng, dtype=torch.int32) for n in LENGTHS]
    return TokenizedCorpus(
        corpus=Corpus(documents=documents, domains=("code", "prose")),
        ids=tuple(ids),
        has_bos=has_bos,
        count_bos=False,
        context_length=context,
        on_long="split",
        vocab_size=128,
        num_long=0,
        num_cut=0,
    )


def read(
    model: MoEModel,
    tokenized: TokenizedCorpus,
    sample: SampledPositions,
    *,
    batch_tokens: int = 32,
    norm: str = "final",
    max_held_bytes: int = 1 << 30,
) -> pl.DataFrame:
    lens = CorpusLens(model, sample, norm=norm, max_held_bytes=max_held_bytes)  # type: ignore[arg-type]
    with Session(model, sink=lens.update, fields=lens.needs) as session:
        for batch in batches(tokenized, batch_tokens=batch_tokens):
            lens.finish(batch, session.run(batch))
    return lens.table()


def one_window(tokenized: TokenizedCorpus, document: int, start: int) -> TokenBatch:
    ids = tokenized.ids[document][start : start + tokenized.context_length].long()[None]
    everything = torch.ones_like(ids, dtype=torch.bool)
    return TokenBatch(ids, everything, everything, torch.zeros_like(ids), torch.zeros_like(ids))


def explicit(event: LayerEvent, row: int, scale: float) -> dict[str, Tensor]:
    parts = (event.resid_mid, event.shared, event.layer_output, event.outputs)
    resid, shared, layer, outputs = (x[row].double() for x in parts if x is not None)
    states = {"layer": layer, "resid": resid}
    if shared.abs().sum() > 0:
        states |= {"resid_shared": resid + scale * shared, "shared": scale * shared}
    total = torch.zeros_like(resid)
    for slot, weight in enumerate(event.routing.weights[row].double()):
        part = scale * weight * outputs[slot]
        total = total + part
        states |= {f"rank{slot + 1}": resid + part, f"top{slot + 1}": resid + total}
    return states


def rms(model: MoEModel, state: Tensor) -> Tensor:
    norm = model.hf.get_submodule("model.norm")
    epsilon = getattr(norm, "variance_epsilon", 1e-6)
    return state / (state.pow(2).mean() + epsilon).sqrt() * norm.weight.double()


@torch.no_grad()
def brute_force(
    model: MoEModel, tokenized: TokenizedCorpus, keys: list[int], *, norm: str, scale: float
) -> dict[tuple[int, int, str], list[tuple[bool, bool, float, float, int]]]:
    head = model.hf.get_output_embeddings().weight.double()
    found: dict[tuple[int, int, str], list[tuple[bool, bool, float, float, int]]] = {}
    for key in keys:
        document, position = divmod(key, 2**32)
        row = position % tokenized.context_length
        batch = one_window(tokenized, document, position - row)
        recorder = Recorder(LENS_FIELDS)
        with Session(model, sink=recorder.update, fields=LENS_FIELDS) as session:
            session.run(batch)
        logits = model.hf(input_ids=batch.input_ids, use_cache=False).logits[0, row].double()
        output = logits.log_softmax(-1)
        target = int(batch.input_ids[0, row + 1])
        for event in recorder.events:
            logs = {
                name: (
                    head @ (rms(model, s) if norm == "final" else s) / _logit_scale(model)
                ).log_softmax(-1)
                for name, s in explicit(event, row, scale).items()
            }
            for name, log in logs.items():
                found.setdefault((document, event.layer, name), []).append(
                    (
                        bool(log.argmax() == logs["layer"].argmax()),
                        bool(log.argmax() == output.argmax()),
                        float((output.exp() * (output - log)).sum()),
                        float(log[target]),
                        int((log > log[target]).sum()) + 1,
                    )
                )
    return found


def _logit_scale(model: MoEModel) -> float:
    return float(getattr(model.hf.config, "logits_scaling", 1.0))


@pytest.mark.parametrize(
    ("family", "norm", "scale"),
    [("deepseek", "final", 1.0), ("granitemoeshared", "final", 0.5), ("olmoe", "none", 1.0)],
)
def test_every_sum_equals_brute_force(family: str, norm: str, scale: float) -> None:
    model, tokenized = proven(family), corpus_of()
    sample = sample_positions(tokenized, per_domain=6, seed=3)
    table = read(model, tokenized, sample, norm=norm)
    expected = brute_force(model, tokenized, sample.keys.tolist(), norm=norm, scale=scale)
    rows = {(r["document"], r["layer"], r["state"]): r for r in table.iter_rows(named=True)}
    assert rows.keys() == expected.keys()
    for key, tokens in expected.items():
        row = rows[key]
        agree_layer, agree_output, kl, log_prob, ranks = zip(*tokens, strict=True)
        assert row["domain"] == DOMAINS[key[0]]
        assert row["num_tokens"] == len(tokens)
        assert row["agree_layer"] == sum(agree_layer)
        assert row["agree_output"] == sum(agree_output)
        assert row["kl_output_nats"] == pytest.approx(math.fsum(kl), rel=1e-4, abs=1e-4)
        assert row["logprob_true_nats"] == pytest.approx(math.fsum(log_prob), rel=1e-4)
        assert row["ranks_true"] == list(ranks)


def test_the_last_layer_says_what_the_model_says() -> None:
    model, tokenized = proven("deepseek"), corpus_of()
    table = read(model, tokenized, sample_positions(tokenized, per_domain=9))
    last = table.filter(pl.col("layer") == 2, pl.col("state") == "layer")
    assert last["num_tokens"].sum() == 18
    assert last["agree_output"].sum() == last["agree_layer"].sum() == 18
    assert last["kl_output_nats"].max() < 1e-4  # type: ignore[operator]


def test_batching_and_flushing_change_nothing() -> None:
    model, tokenized = proven("deepseek"), corpus_of()
    sample = sample_positions(tokenized, per_domain=8)
    whole = read(model, tokenized, sample, batch_tokens=64)
    small = read(model, tokenized, sample, batch_tokens=9, max_held_bytes=0)
    exact = [pl.all().exclude("kl_output_nats", "logprob_true_nats")]
    assert whole.select(exact).equals(small.select(exact))
    for name in ("kl_output_nats", "logprob_true_nats"):
        assert (whole[name] - small[name]).abs().max() < 1e-4  # type: ignore[operator]


@pytest.mark.parametrize("allowed", [1 << 30, 1])
def test_layers_are_decoded_together_as_far_as_memory_may_hold(
    allowed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States that wait in files come to memory one layer of one batch at a time, or all at once."""
    decoded: list[tuple[int, int]] = []

    def spied(head: OutputHead, states: Tensor, **rest: Any) -> Decoded:
        decoded.append((states.shape[0], states.shape[1]))
        return decode(head, states, **rest)

    monkeypatch.setattr("moe_lens.lens.corpus.decode", spied)
    model, tokenized = proven("deepseek"), corpus_of()
    lens = CorpusLens(model, sample_positions(tokenized, per_domain=8), max_held_bytes=allowed)
    lens.wait_in(tmp_path)
    num_layers, num_sampled = len(model.layers), 16
    num_states = 2 * lens._top_k + 3  # H_1, one more, needs no second look
    with Session(model, sink=lens.update, fields=lens.needs) as session:
        for number, batch in enumerate(batches(tokenized, batch_tokens=32)):
            lens.finish(batch, session.run(batch, number=number), number=number)
    assert not lens.table().is_empty()
    assert sum(rows * states for rows, states in decoded) == num_sampled * num_layers * num_states
    if allowed > 1:
        assert decoded == [(num_sampled, num_layers * num_states)]
    else:
        assert {states for _, states in decoded} == {num_states}
        assert max(rows for rows, _ in decoded) < num_sampled


def test_a_sample_is_a_number_per_domain_with_a_next_token() -> None:
    tokenized = corpus_of()
    sample = sample_positions(tokenized, per_domain=6, seed=1)
    pairs = [divmod(key, 2**32) for key in sample.keys.tolist()]
    assert Counter(DOMAINS[document] for document, _ in pairs) == {"code": 6, "prose": 6}
    for document, position in pairs:
        assert 0 < position < LENGTHS[document] - 1
        assert position % 8 != 7  # the last of a window
    other = sample_positions(tokenized, per_domain=6, seed=2)
    assert sample.keys.tolist() != other.keys.tolist()
    assert torch.equal(sample.keys, sample_positions(tokenized, per_domain=6, seed=1).keys)


def test_a_larger_sample_contains_the_smaller_and_ends_with_all() -> None:
    tokenized = corpus_of(has_bos=False)
    small, large, every = (
        set(sample_positions(tokenized, per_domain=n).keys.tolist()) for n in (2, 5, 1000)
    )
    assert small < large < every
    windows = [min(8, n - s) for n in LENGTHS for s in range(0, n, 8)]
    assert len(every) == sum(n - 1 for n in windows)


def test_positions_are_drawn_evenly() -> None:
    ids = torch.ones(401, dtype=torch.int32)
    corpus = Corpus(documents=(Document(text="x", domain="a", id="0"),), domains=("a",))
    tokenized = replace(corpus_of(has_bos=False), corpus=corpus, ids=(ids,), context_length=401)
    drawn: Counter[int] = Counter()
    for seed in range(20):
        keys = sample_positions(tokenized, per_domain=100, seed=seed).keys.tolist()
        drawn.update(key // 50 for key in keys)
    assert drawn.total() == 2000
    assert sorted(drawn) == list(range(8))
    assert all(abs(count - 250) < 4 * 250**0.5 for count in drawn.values())


def test_what_cannot_be_sampled_is_said() -> None:
    with pytest.raises(CorpusError, match="per_domain=0"):
        sample_positions(corpus_of(), per_domain=0)
    with pytest.raises(CorpusError, match="no token of the corpus has a next token"):
        sample_positions(corpus_of(context=1), per_domain=3)


def test_events_of_another_batch_are_refused() -> None:
    model, tokenized = proven("deepseek"), corpus_of()
    lens = CorpusLens(model, sample_positions(tokenized, per_domain=50))
    with Session(model, sink=lens.update, fields=lens.needs) as session:
        first, second = list(batches(tokenized, batch_tokens=32))[:2]
        session.run(first)
        hidden = session.run(second)
    with pytest.raises(ValueError, match="do not belong to this one"):
        lens.finish(second, hidden)


def test_nothing_read_gives_an_empty_table() -> None:
    model, tokenized = proven("deepseek"), corpus_of()
    lens = CorpusLens(model, sample_positions(tokenized, per_domain=1))
    assert lens.table().is_empty()
    batch = token_batch(3, vocab_size=128)
    elsewhere = TokenBatch(
        batch.input_ids, batch.attention_mask, batch.counted, batch.document + 90, batch.position
    )
    with Session(model, sink=lens.update, fields=lens.needs) as session:
        lens.finish(elsewhere, session.run(elsewhere))
    assert lens.table().columns == list(lens.table().schema)
    assert lens.table().is_empty()
