"""The demo model's training: kernels, optimiser, data order, resuming, measures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import demo.model.network
import numpy as np
import pytest
import torch
from demo.model.baselines import NGram, compressed_bits_per_byte
from demo.model.card import steps as card_steps
from demo.model.card import unseen as card_unseen
from demo.model.data import SHARES, pack, step_rows, to_batch
from demo.model.kernels import ATTENTION, IMPLEMENTATION, HeadLoss
from demo.model.measure import (
    HeldOut,
    measure_rows,
    mutual_information,
    specialisation,
    token_bytes,
)
from demo.model.muon import Muon, orthogonalise
from demo.model.network import Optimizers, new_model
from demo.model.score import experts_for_half, score_documents
from demo.model.state import Log, Progress, load_state, read_log, save_state
from demo.model.step import Workers, gradients
from demo.tokenizer import CONTEXT, balanced_sample, save, train_tokenizer
from demo.train import Run
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from moe_lens.models.deepseek import DeepseekConfig, DeepseekExperts, DeepseekForCausalLM


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    text = "the cat sat on the mat, 1234 times; 数学 est belle.\n    return x\n"
    return train_tokenizer(iter([text] * 4), vocab_size=300)


@pytest.fixture
def tiny(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[PreTrainedTokenizerFast], DeepseekForCausalLM]:
    def config(tokenizer: PreTrainedTokenizerFast) -> DeepseekConfig:
        return DeepseekConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24,
            moe_intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
            n_routed_experts=8, num_experts_per_tok=2, first_k_dense_replace=1,
            max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )  # fmt: skip

    monkeypatch.setattr(demo.model.network, "demo_config", config)
    return lambda tokenizer: new_model(tokenizer, torch.device("cpu"))


# --- tokenizer ---


def test_tokenizer_adds_bos_splits_digits_and_gives_the_text_back(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "the 1234 数学\n    À bientôt 🙂"
    ids = loaded(text)["input_ids"]
    assert ids[0] == loaded.bos_token_id == 0
    assert ids == tokenizer(text)["input_ids"]
    assert loaded.decode(ids, skip_special_tokens=True) == text
    tokens = loaded.convert_ids_to_tokens(ids)
    assert all(digit in tokens for digit in "1234")
    sizes = token_bytes(loaded)
    assert sizes[0] == 0
    assert sizes[ids].sum() == len(text.encode())


def test_tokenizer_is_the_same_every_time() -> None:
    texts = ["a b ab abc", "bc abc"]
    first, second = (train_tokenizer(iter(texts), vocab_size=262) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_an_empty_domain_is_refused(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.jsonl").touch()
    with pytest.raises(ValueError, match="needs every domain"):
        list(balanced_sample(tmp_path, {"code": 1.0}))


# --- kernels and optimiser ---


def test_grouped_experts_equal_the_eager_ones_with_gradients() -> None:
    torch.manual_seed(0)
    config = DeepseekConfig(
        hidden_size=32, moe_intermediate_size=16, n_routed_experts=8, num_experts_per_tok=3
    )
    experts = DeepseekExperts(config)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(50, 32, requires_grad=True)
    weights = torch.rand(50, 3, requires_grad=True)
    ids = torch.stack([torch.randperm(7)[:3] for _ in range(50)])  # expert 7 never chosen

    def run(implementation: str) -> list[Tensor]:
        config._experts_implementation = implementation
        out = experts(x, ids, weights)
        leaves = (x, weights, experts.gate_up_proj, experts.down_proj)
        return [out, *torch.autograd.grad((out * torch.arange(32)).sum(), leaves)]

    for stock, ours in zip(run("eager"), run(IMPLEMENTATION), strict=True):
        torch.testing.assert_close(ours, stock, atol=1e-4, rtol=1e-5)


def test_experts_in_bfloat16_are_near() -> None:
    torch.manual_seed(0)
    config = DeepseekConfig(
        hidden_size=32, moe_intermediate_size=16, n_routed_experts=8, num_experts_per_tok=3
    )
    config._experts_implementation = IMPLEMENTATION
    experts = DeepseekExperts(config)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(50, 32, requires_grad=True)
    weights = torch.rand(50, 3, requires_grad=True)
    ids = torch.stack([torch.randperm(8)[:3] for _ in range(50)])

    def run(enabled: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = experts(x, ids, weights)
        leaves = (x, weights, experts.gate_up_proj, experts.down_proj)
        return [out, *torch.autograd.grad((out * torch.arange(32)).sum(), leaves)]

    for exact, rounded in zip(run(False), run(True), strict=True):
        assert rounded.dtype == torch.float32
        error = (exact - rounded).norm() / exact.norm()
        assert 1e-5 < error < 0.02  # bfloat16 keeps 8 bits; less would mean float32 was used


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("length", [128, 300])
def test_block_attention_equals_the_stock_one_with_gradients(packed: bool, length: int) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 3, length, 8, requires_grad=True) for _ in range(3)]
    document = (torch.rand(2, length) < 0.05).cumsum(1)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = document[:, :, None] == document[:, None]
    mask = (causal & same if packed else causal.expand_as(same))[:, None]
    weight = torch.randn(2, 3, length, 8)
    stock = functional.scaled_dot_product_attention(*leaves, attn_mask=mask)
    forward = ALL_ATTENTION_FUNCTIONS[ATTENTION]
    ours = forward(torch.nn.Module(), *leaves, mask if packed else None)[0].transpose(1, 2)
    torch.testing.assert_close(ours, stock)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), leaves),
        torch.autograd.grad((stock * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_two_workers_give_the_gradients_of_one(
    tokenizer: PreTrainedTokenizerFast, tiny: Callable[..., DeepseekForCausalLM]
) -> None:
    rows = np.random.default_rng(0).integers(2, len(tokenizer), (16, 33)).astype(np.uint16)
    found = []
    for num in (1, 2):
        torch.manual_seed(0)
        model = tiny(tokenizer)
        with Workers(model, num, torch.float32) as workers:
            result = workers.gradients(rows, bos=0)
        found.append((result, [p.grad for p in model.parameters()]))
    assert found[0][0] == found[1][0]
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert a is not None
        assert torch.equal(a, b)


def test_rows_that_cannot_be_dealt_are_refused(
    tokenizer: PreTrainedTokenizerFast, tiny: Callable[..., DeepseekForCausalLM]
) -> None:
    with (
        Workers(tiny(tokenizer), 1, torch.float32) as workers,
        pytest.raises(ValueError, match=r"12 rows cannot be dealt to 1 workers in parts of 8"),
    ):
        workers.gradients(np.zeros((12, 9), np.uint16), bos=0)


def test_head_loss_equals_cross_entropy_with_gradients() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(700, 32, requires_grad=True)
    head = torch.randn(64, 32, requires_grad=True)
    targets = torch.randint(0, 64, (700,))
    expected = functional.cross_entropy(hidden @ head.T, targets)
    loss = HeadLoss.apply(hidden, head, targets)
    torch.testing.assert_close(loss, expected)
    for ours, stock in zip(
        torch.autograd.grad(3 * loss, (hidden, head)),
        torch.autograd.grad(3 * expected, (hidden, head)),
        strict=True,
    ):
        torch.testing.assert_close(ours, stock, atol=1e-6, rtol=1e-4)


def test_orthogonalised_matrices_keep_their_directions() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, 8, 20)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalise(matrices)
    singular = torch.linalg.svdvals(result)
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    in_basis = u.mT @ result @ v.mT
    off_diagonal = in_basis - torch.diag_embed(torch.diagonal(in_basis, dim1=1, dim2=2))
    assert off_diagonal.abs().max() < 1e-4


def test_muon_moves_every_expert_and_both_halves_by_the_same_amount() -> None:
    torch.manual_seed(0)
    tall, fused = (torch.nn.Parameter(torch.zeros(s)) for s in ((4, 12, 6), (4, 12, 8)))
    optimizer = Muon([tall], [fused], lr=0.1)
    tall.grad = torch.randn_like(tall) * torch.tensor([1.0, 1e-3, 1e3, 1.0])[:, None, None]
    fused.grad = torch.randn_like(fused)
    optimizer.step()
    tall_sizes = torch.linalg.svdvals(tall) / (0.1 * 2**0.5)  # 12 / 6
    fused_sizes = torch.linalg.svdvals(fused.view(8, 6, 8)) / 0.1
    for sizes in (tall_sizes, fused_sizes):
        assert sizes.min() > 0.6
        assert sizes.max() < 1.3
    assert ((tall * tall.grad).sum((1, 2)) < 0).all()


# --- data ---


def test_rows_hold_the_documents_in_one_stream(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    texts = [f"the cat {i} sat" * (i + 1) for i in range(40)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    rows = pack(path, tokenizer, seed=0)
    assert rows.shape[1] == CONTEXT + 1
    assert (rows[1:, 0] == rows[:-1, -1]).all()
    text = tokenizer.decode([*rows[:, :-1].ravel(), rows[-1, -1]])
    documents = [d.removeprefix("<|begin_of_text|>") for d in text.split("<|end_of_text|>")]
    assert set(documents[:-1]) <= set(texts)
    batch = to_batch(rows, bos=0)
    starts = batch.inputs == 0
    assert (batch.positions[starts] == 0).all()
    assert ((batch.positions[:, 1:] - batch.positions[:, :-1])[~starts[:, 1:]] == 1).all()
    assert torch.equal(batch.targets[:, :-1], batch.inputs[:, 1:])


def test_too_little_text_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"text": "the"}) + "\n")
    with pytest.raises(ValueError, match=r"one row takes 513"):
        pack(path, tokenizer, seed=0)


def test_every_step_has_the_stated_mix_and_an_epoch_meets_every_row_once() -> None:
    rows = {d: np.arange(12, dtype=np.uint16)[:, None] + 100 * i for i, d in enumerate(SHARES)}
    seen: dict[int, list[int]] = {i: [] for i in range(len(SHARES))}
    for step in range(12):
        chosen = step_rows(rows, step, seed=0)[:, 0]
        assert np.bincount(chosen // 100).tolist() == list(SHARES.values())
        for value in chosen:
            seen[value // 100].append(int(value % 100))
    for (domain, share), values in zip(SHARES.items(), seen.values(), strict=True):
        for epoch in range(share):
            assert sorted(values[12 * epoch : 12 * (epoch + 1)]) == list(range(12)), domain
    assert (step_rows(rows, 5, seed=0) == step_rows(rows, 5, seed=0)).all()


# --- progress ---


def test_rate_warms_up_holds_and_falls_to_zero() -> None:
    assert Progress(step=0).rate() == pytest.approx(0.05)
    assert Progress(step=500).rate() == 1.0
    planned = {"decay_start": 60, "total_steps": 100}
    assert Progress(step=60, **planned).rate() == 1.0
    assert Progress(step=80, **planned).rate() == pytest.approx(0.5)
    assert Progress(step=99, **planned).rate() == pytest.approx(1 / 40)
    assert Progress(step=100, **planned).done()


def test_the_fall_can_be_made_steeper(
    tokenizer: PreTrainedTokenizerFast, tiny: Callable[..., DeepseekForCausalLM], tmp_path: Path
) -> None:
    for domain in SHARES:
        (tmp_path / domain).mkdir()
        for part in ("train", "heldout"):
            path = tmp_path / domain / f"{part}.jsonl"
            path.write_text(json.dumps({"text": "the cat sat " * 400}) + "\n")
    save(tokenizer, tmp_path / "tokenizer")
    run = Run(tmp_path, tmp_path, device=torch.device("cpu"), seed=0, dtype=torch.float32)
    run.progress.step = 60
    (tmp_path / "anneal").touch()
    run.plan(None)
    assert run.progress == Progress(step=60, decay_start=60, total_steps=100)
    run.progress.step = 70
    (tmp_path / "finish").write_text("10\n")
    run.plan(None)
    assert run.progress == Progress(step=70, decay_start=60, total_steps=80)
    assert run.progress.rate() == pytest.approx(0.5)
    run.progress.step = 75
    run.plan(None)  # the order is carried out once
    assert run.progress.total_steps == 80


def test_a_killed_run_goes_on_bit_for_bit(
    tokenizer: PreTrainedTokenizerFast, tiny: Callable[..., DeepseekForCausalLM], tmp_path: Path
) -> None:
    def take(model: DeepseekForCausalLM, optimizers: Optimizers, steps: range) -> None:
        for step in steps:
            rng = np.random.default_rng(step)
            rows = rng.integers(2, len(tokenizer), (16, 33)).astype(np.uint16)
            gradients(model, to_batch(rows, bos=0))
            optimizers.step(0.5)

    torch.manual_seed(0)
    straight = tiny(tokenizer)
    optimizers = Optimizers.of(straight)
    take(straight, optimizers, range(2))
    save_state(tmp_path / "state.safetensors", straight, optimizers, Progress(step=2))
    take(straight, optimizers, range(2, 4))

    torch.manual_seed(1)
    resumed = tiny(tokenizer)
    again = Optimizers.of(resumed)
    assert load_state(tmp_path / "state.safetensors", resumed, again) == Progress(step=2)
    take(resumed, again, range(2, 4))
    for (name, a), b in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_training_learns(
    tokenizer: PreTrainedTokenizerFast, tiny: Callable[..., DeepseekForCausalLM]
) -> None:
    torch.manual_seed(0)
    model = tiny(tokenizer)
    optimizers = Optimizers.of(model)
    rows = np.tile(np.arange(2, 35, dtype=np.uint16), (16, 1))
    losses = []
    for _ in range(25):
        losses.append(gradients(model, to_batch(rows, bos=0)).loss)
        optimizers.step(1.0)
    assert losses[0] == pytest.approx(np.log(len(tokenizer)), abs=0.2)
    assert losses[-1] < 1


def test_log_drops_what_came_after_the_saved_state(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    Log(path, up_to_step=2).write(step=3, loss=1.0)
    assert read_log(path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 1.0}]


# --- measures ---


def test_mutual_information_known_answers() -> None:
    labels = np.array([0, 1])
    apart = np.array([[[4, 0], [2, 2]], [[0, 8], [4, 4]]])  # layer 0 tells all, layer 1 nothing
    assert mutual_information(apart, labels) == pytest.approx([1.0, 0.0])


def test_specialisation_beats_its_control_only_where_it_is_real() -> None:
    rng = np.random.default_rng(0)

    def domain(favoured: int) -> HeldOut:
        p = np.full(8, 0.05)
        p[favoured] = 0.65
        real = rng.multinomial(200, p, size=10)
        noise = rng.multinomial(200, np.full(8, 1 / 8), size=10)
        return HeldOut(1.0, np.stack([real, noise], axis=1))

    found = specialisation({"a": domain(0), "b": domain(1), "c": domain(2)})
    real, noise = found["mutual_information_bits"]
    assert real > 10 * found["shuffled_bits"][0]
    assert noise < 2 * found["shuffled_bits"][1]


def test_experts_for_half() -> None:
    assert experts_for_half(np.array([[5, 3, 2], [1, 1, 1]])) == 1.5


def test_bits_per_byte_of_a_flat_model_is_that_of_its_vocabulary(
    tokenizer: PreTrainedTokenizerFast, tiny: Callable[..., DeepseekForCausalLM]
) -> None:
    model = tiny(tokenizer).eval()
    torch.nn.init.zeros_(model.lm_head.weight)
    text = "the cat sat on the mat, " * 150  # longer than one window
    scores = score_documents(model, tokenizer, [text, "数学"])
    num_tokens = [len(tokenizer(t)["input_ids"]) - 1 for t in (text, "数学")]
    assert num_tokens[0] > CONTEXT
    assert scores.num_tokens.tolist() == num_tokens
    assert scores.choices.sum((1, 2)).tolist() == [n * 2 for n in num_tokens]
    expected = sum(num_tokens) * np.log2(len(tokenizer)) / len((text + "数学").encode())
    assert scores.bits_per_byte == pytest.approx(expected)

    ids = np.array([[0, *range(100, 100 + CONTEXT)]], dtype=np.uint16) % len(tokenizer)
    measured = measure_rows(model, ids, bos=0, num_bytes=token_bytes(tokenizer))
    assert measured.choices.shape == (1, 1, 8)


# --- baselines ---


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_ngram_equals_counting_by_hand(order: int) -> None:
    rng = np.random.default_rng(0)
    train = rng.integers(0, 5, 300)
    document = rng.integers(0, 6, 40)  # 5 was never seen
    expected = []
    for i in range(1, len(document)):
        p = 1 / 6
        for n in range(1, min(order, i + 1) + 1):
            context = document[i - n + 1 : i].tolist()
            after = [
                int(train[j + n - 1])
                for j in range(len(train) - n + 1)
                if train[j : j + n - 1].tolist() == context
            ]
            kinds = len(set(after))
            if after:
                p = (after.count(document[i]) + kinds * p) / (len(after) + kinds)
        expected.append(-np.log(p))
    model = NGram(train, order=order, vocab_size=6)
    np.testing.assert_allclose(model.nats(document), expected, rtol=1e-12)


def test_compressors_see_repetition() -> None:
    result: dict[str, Any] = compressed_bits_per_byte(["the same again " * 500])
    assert 0 < result["xz -9"] < 0.3
    assert 0 < result["gzip -9"] < 0.3


# --- card ---


def test_card_says_of_every_step_whether_it_costs() -> None:
    def step(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.001, "high": value + 0.001}

    result = {
        "perplexity": {"code": 20.0, "gsm": 9.0},
        "perplexity_step": {
            "5": {"code": step(1.01), "gsm": step(1.0)},
            "4": {"code": step(1.02), "gsm": step(0.9)},
        },
    }
    text = card_steps(result)
    assert "Of 4 steps of one expert less (2 in each of 2 domains)" in text
    assert "interval in 2." in text
    assert "no change in: gsm at 6 to 5." in text
    assert "**falls** in: gsm at 5 to 4." in text


def test_card_says_where_fewer_experts_mislead() -> None:
    def ratios(one: float) -> dict[str, dict[str, float]]:
        values = {"3": 1.0, "2": 1.0, "1": one}
        return {k: {"value": v, "low": v - 0.01, "high": v + 0.01} for k, v in values.items()}

    def found(one: float) -> dict[str, Any]:
        return {"num_documents": 3, "bits_per_byte": 2.0, "perplexity_ratio": ratios(one)}

    both = {"word-problems": found(0.9), "competition": found(0.95)}
    assert "**falls** with fewer experts" in card_unseen({"unseen_families": both})
    both["competition"] = found(0.995)
    assert "falls" not in card_unseen({"unseen_families": both})
