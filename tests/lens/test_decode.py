"""Chunked decoding against the whole matrix of logits in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_lens.lens.decode import Decoded, decode
from moe_lens.lens.unembed import OutputHead

D_MODEL = 16


def head_of(vocab_size: int, *, seed: int = 0, bias: bool = True, scale: float = 0.5) -> OutputHead:
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(vocab_size, D_MODEL, generator=rng)
    return OutputHead(weight, torch.randn(vocab_size, generator=rng) if bias else None, scale)


def draw(num_tokens: int, num_states: int, *, vocab_size: int, seed: int = 1) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_tokens, num_states, D_MODEL, generator=rng) * 2
    reference = torch.randn(num_tokens, D_MODEL, generator=rng) * 2
    return [inputs, torch.randint(vocab_size, (num_tokens,), generator=rng), reference]


def full_log_probs(head: OutputHead, inputs: Tensor) -> Tensor:
    logits = inputs.double() @ head.weight.double().T
    if head.bias is not None:
        logits = logits + head.bias.double()
    return (logits * head.scale).log_softmax(-1)


def assert_matches(found: Decoded, head: OutputHead, *given: Tensor, num_top: int) -> None:
    inputs, targets, reference = given
    logs, of_reference = full_log_probs(head, inputs), full_log_probs(head, reference)
    best = logs.topk(num_top)
    assert torch.equal(found.top_ids, best.indices)
    torch.testing.assert_close(found.top_log_probs, best.values, rtol=0, atol=2e-5)
    own = logs.gather(2, targets[:, None, None].expand(*logs.shape[:2], 1))
    torch.testing.assert_close(found.true_log_prob, own.squeeze(2), rtol=0, atol=2e-5)
    assert torch.equal(found.true_rank, (logs > own).sum(-1) + 1)
    kl = (of_reference.exp().unsqueeze(1) * (of_reference.unsqueeze(1) - logs)).sum(-1)
    torch.testing.assert_close(found.kl_reference, kl, rtol=1e-5, atol=2e-5)
    assert torch.equal(found.reference_top, of_reference.argmax(-1))


@settings(max_examples=40)
@given(
    vocab_size=st.integers(3, 90),
    num_tokens=st.integers(0, 7),
    num_states=st.integers(1, 4),
    vocab_chunk=st.integers(1, 100),
    block_rows=st.integers(1, 20),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_chunking_gives_what_the_whole_matrix_gives(
    vocab_size: int,
    num_tokens: int,
    num_states: int,
    vocab_chunk: int,
    block_rows: int,
    bias: bool,
    seed: int,
) -> None:
    head = head_of(vocab_size, seed=seed, bias=bias)
    inputs, targets, reference = draw(num_tokens, num_states, vocab_size=vocab_size, seed=seed)
    asked = {"num_top": 3, "targets": targets, "reference": reference}
    found = decode(head, inputs, **asked, vocab_chunk=vocab_chunk, block_rows=block_rows)
    assert_matches(found, head, inputs, targets, reference, num_top=3)
    whole = decode(head, inputs, **asked)
    assert torch.equal(found.top_ids, whole.top_ids)
    assert torch.equal(found.true_rank, whole.true_rank)
    for name in ("top_log_probs", "log_normalizer", "true_log_prob", "kl_reference"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("vocab_chunk", [1, 7, 500])
def test_a_float64_head_agrees_to_the_last_digits(vocab_chunk: int) -> None:
    plain = head_of(60)
    assert plain.bias is not None
    head = OutputHead(plain.weight.double(), plain.bias.double(), plain.scale)
    inputs, targets, reference = draw(5, 3, vocab_size=60)
    found = decode(
        head, inputs, targets=targets, reference=reference, vocab_chunk=vocab_chunk, block_rows=4
    )
    logs, of_reference = full_log_probs(head, inputs), full_log_probs(head, reference)
    kl = (of_reference.exp().unsqueeze(1) * (of_reference.unsqueeze(1) - logs)).sum(-1)
    torch.testing.assert_close(found.kl_reference, kl, rtol=1e-10, atol=1e-12)
    own = logs.gather(2, targets[:, None, None].expand(5, 3, 1)).squeeze(2)
    torch.testing.assert_close(found.true_log_prob, own, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("vocab_chunk", [1, 2, 3, 5, 6, 50])
@pytest.mark.parametrize("num_top", [1, 4])
def test_among_equal_scores_the_lowest_id_comes_first(vocab_chunk: int, num_top: int) -> None:
    rows = torch.tensor([0, 2, 1, 2, 2, 1, 0, 2])  # scores by hand
    head = OutputHead(rows.float().unsqueeze(1))
    inputs = torch.ones(1, 1, 1)
    found = decode(
        head, inputs, num_top=num_top, targets=torch.tensor([2]), vocab_chunk=vocab_chunk
    )
    assert found.top_ids[0, 0].tolist() == [1, 3, 4, 7][:num_top]
    assert found.true_rank is not None
    assert found.true_rank.item() == 5  # four are higher; the equal one does not count


def test_numbers_by_hand() -> None:
    head = OutputHead(torch.tensor([[0.0], [1.0], [2.0], [3.0]]).log1p())
    found = decode(
        head, torch.ones(1, 1, 1), targets=torch.tensor([1]), reference=torch.zeros(1, 1)
    )  # probabilities 0.1, 0.2, 0.3, 0.4 against 1/4 each
    assert found.top_ids.item() == 3
    assert found.top_log_probs.exp().item() == pytest.approx(0.4)
    assert found.log_normalizer.exp().item() == pytest.approx(10)
    assert found.true_log_prob is not None
    assert found.true_log_prob.exp().item() == pytest.approx(0.2)
    assert found.true_rank is not None
    assert found.true_rank.item() == 3
    kl = torch.tensor([0.25 / p for p in (0.1, 0.2, 0.3, 0.4)]).log().mean()
    assert found.kl_reference is not None
    assert found.kl_reference.item() == pytest.approx(kl.item(), rel=1e-6)


def test_a_state_equal_to_the_reference_has_no_divergence() -> None:
    head = head_of(200)
    _, _, reference = draw(6, 1, vocab_size=200)
    found = decode(head, reference.unsqueeze(1), reference=reference, vocab_chunk=17)
    assert found.kl_reference is not None
    assert float(found.kl_reference.max()) < 2e-6
    assert torch.equal(found.top_ids[:, 0, 0], found.reference_top)


def test_large_scores_do_not_overflow() -> None:
    head = OutputHead(torch.arange(12.0).unsqueeze(1))
    found = decode(
        head,
        torch.tensor([[[1000.0]], [[-1000.0]]]),
        targets=torch.tensor([11, 11]),
        vocab_chunk=5,
    )
    assert found.top_ids.flatten().tolist() == [11, 0]
    assert found.true_log_prob is not None
    assert found.true_log_prob.flatten().tolist() == [0.0, -11000.0]


def test_a_bfloat16_head_is_read_in_float32() -> None:
    plain = head_of(60)
    assert plain.bias is not None
    head = OutputHead(plain.weight.bfloat16(), plain.bias.bfloat16(), plain.scale)
    inputs, targets, reference = draw(4, 2, vocab_size=60)
    found = decode(head, inputs, num_top=2, targets=targets, reference=reference, vocab_chunk=13)
    assert_matches(found, head, inputs, targets, reference, num_top=2)


def test_inputs_stay_as_they_were() -> None:
    head = head_of(40)
    inputs, targets, reference = draw(4, 2, vocab_size=40)
    before = [x.clone() for x in (inputs, targets, reference, head.weight)]
    decode(head, inputs, targets=targets, reference=reference, vocab_chunk=9)
    after = (inputs, targets, reference, head.weight)
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_memory_does_not_grow_with_the_vocabulary() -> None:
    sizes = []
    for vocab_size in (2_000, 20_000):
        head = head_of(vocab_size, bias=False)
        inputs, targets, reference = draw(8, 4, vocab_size=vocab_size)
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            decode(head, inputs, targets=targets, reference=reference, vocab_chunk=500)
        largest = [e.cpu_memory_usage for e in profile.events() if e.name.startswith("aten::")]
        sizes.append(max(largest))
    assert sizes[0] == sizes[1] == 2 * (8 * 5) * 500 * 4  # two buffers of scores


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.tensor([0, 9])}, r"targets run from 0 to 9, but the head knows 9"),
        ({"vocab_chunk": 0}, "vocab_chunk=0"),
        ({"block_rows": 0}, "block_rows=0"),
        ({"num_top": 10}, "num_top=10: from 0 to the vocabulary's 9"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    inputs, _, _ = draw(2, 1, vocab_size=9)
    with pytest.raises(ValueError, match=message):
        decode(head_of(9), inputs, **change)  # type: ignore[arg-type]
