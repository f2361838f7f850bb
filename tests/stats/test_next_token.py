"""Next-token loss against transformers' own, and full float64 logits, padding included."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from moe_lens.corpus import Corpus, Document, TokenBatch, TokenizedCorpus, batches
from moe_lens.engine.session import Session
from moe_lens.event import LayerEvent
from moe_lens.lens.unembed import OutputHead, find_head
from moe_lens.models.model import MoEModel
from moe_lens.stats.next_token import NextTokenLoss, next_token_nll
from tests.engine.families import proven, token_batch


def ignore(event: LayerEvent) -> None:
    pass


def losses(model: MoEModel, *several: TokenBatch) -> NextTokenLoss:
    found = NextTokenLoss(find_head(model))
    with Session(model, sink=ignore) as session:
        for batch in several:
            found.update(batch, session.run(batch))
    return found


def rows(found: NextTokenLoss) -> list[tuple[int, int, float]]:
    return list(found.documents().iter_rows())


@pytest.mark.parametrize("family", ["deepseek", "olmoe", "granitemoe", "deepseek_v4"])
def test_each_document_has_the_loss_that_transformers_gives(family: str) -> None:
    model, lengths = proven(family), (9, 2, 6)
    batch = token_batch(*lengths, vocab_size=model.vocab_size)
    found = rows(losses(model, batch))
    assert [row[:2] for row in found] == [(0, 8), (1, 1), (2, 5)]
    for (document, count, nll), length in zip(found, lengths, strict=True):
        ids = batch.input_ids[document : document + 1, :length]
        with torch.no_grad():
            output = model.hf(input_ids=ids, labels=ids, use_cache=False)
        logs = output.logits[0, :-1].double().log_softmax(-1)
        exact = -logs.gather(1, ids[0, 1:, None]).sum()
        assert nll == pytest.approx(float(exact), rel=1e-5)
        assert nll / count == pytest.approx(float(output.loss), rel=1e-5)


def test_only_counted_targets_are_predicted() -> None:
    model = proven("olmoe")
    batch = token_batch(6, 4, vocab_size=128)
    every = rows(losses(model, batch))
    # A BOS that is not counted predicts, and is not predicted: it begins its row anyhow.
    bos = replace(batch, counted=batch.counted & (batch.position > 0))
    assert rows(losses(model, bos)) == every
    some = replace(batch, counted=batch.counted & (batch.position == 3))
    with torch.no_grad():
        logits = model.hf(input_ids=batch.input_ids[:1], use_cache=False).logits[0, 2].double()
    found = rows(losses(model, some))
    assert [row[:2] for row in found] == [(0, 1), (1, 1)]
    own = float(-logits.log_softmax(-1)[batch.input_ids[0, 3]])
    assert found[0][2] == pytest.approx(own, rel=1e-5)


def test_windows_add_up_to_their_document_and_predict_nothing_across() -> None:
    model = proven("olmoe")
    rng = torch.Generator().manual_seed(0)
    ids = tuple(torch.randint(3, 128, (n,), generator=rng, dtype=torch.int32) for n in (19, 1, 8))
    documents = tuple(Document(text="x", domain="d", id=str(i)) for i in range(3))
    tokenized = TokenizedCorpus(
        corpus=Corpus(documents=documents, domains=("d",)),
        ids=ids,
        has_bos=True,
        count_bos=False,
        context_length=8,
        on_long="split",
        vocab_size=128,
        num_long=1,
        num_cut=0,
    )
    found = rows(losses(model, *batches(tokenized, batch_tokens=16)))
    assert [row[:2] for row in found] == [(0, 7 + 7 + 2), (2, 7)]
    exact = 0.0
    for start in (0, 8, 16):
        window = ids[0][start : start + 8].long()[None]
        with torch.no_grad():
            output = model.hf(input_ids=window, labels=window, use_cache=False)
        exact += float(output.loss) * (window.shape[1] - 1)
    assert found[0][2] == pytest.approx(exact, rel=1e-5)
    other = rows(losses(model, *batches(tokenized, batch_tokens=64)))
    assert [row[:2] for row in other] == [row[:2] for row in found]
    assert [row[2] for row in other] == pytest.approx([row[2] for row in found], rel=1e-6)


def test_numbers_by_hand() -> None:
    head = OutputHead(torch.tensor([[0.0], [1.0], [2.0], [3.0]]).log1p())
    nll = next_token_nll(head, torch.tensor([[1.0], [0.0]]), torch.tensor([3, 0]))
    assert nll.tolist() == pytest.approx([-torch.tensor(p).log().item() for p in (0.4, 0.25)])


def test_merging_and_saved_states(tmp_path: object) -> None:
    model = proven("olmoe")
    first = token_batch(6, 4, vocab_size=128)
    second = replace(token_batch(5, 5, vocab_size=128, seed=2), document=first.document[:, :5] + 1)
    whole = losses(model, first, second)
    mine, other = losses(model, first), losses(model, second)
    before = rows(other)
    mine.merge(other)
    merged = rows(mine)
    assert [row[:2] for row in merged] == [row[:2] for row in rows(whole)]
    # Sums of the same numbers in another order: equal but for the last bit of a float64.
    assert [row[2] for row in merged] == pytest.approx([row[2] for row in rows(whole)], rel=1e-14)
    assert rows(other) == before
    save_file(dict(mine.state()), f"{tmp_path}/state.safetensors")
    state = load_file(f"{tmp_path}/state.safetensors")
    restored = NextTokenLoss.from_state(find_head(model), state)
    assert rows(restored) == merged
    restored.merge(other)
    assert rows(mine) == merged
    assert [row[1] for row in rows(restored)] == [5, 11, 8]


def test_nothing_to_predict_is_nothing() -> None:
    found = losses(proven("olmoe"), token_batch(1, vocab_size=128))
    assert rows(found) == []
    assert found.documents().columns == ["document", "num_tokens", "nll_nats"]


def test_hidden_states_of_another_batch_are_refused() -> None:
    model = proven("olmoe")
    batch = token_batch(6, 4, vocab_size=128)
    with pytest.raises(ValueError, match=r"of \(2, 5\) places do not fit a batch of \(2, 6\)"):
        NextTokenLoss(find_head(model)).update(batch, torch.zeros(2, 5, 32))
