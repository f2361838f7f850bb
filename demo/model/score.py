"""Score the finished model on whole documents, with every expert or with fewer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from demo.model.measure import record_routing
from demo.tokenizer import CONTEXT
from moe_lens.models.deepseek import DeepseekForCausalLM, DeepseekRouter

STRIDE = CONTEXT // 2


@dataclass(frozen=True)
class DocumentScores:
    """Sums over each document's text tokens: nats, tokens, UTF-8 bytes.

    `choices` counts [document, layer, expert]: how often the document's tokens chose it.
    """

    nats: NDArray[np.float64]
    num_tokens: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    choices: NDArray[np.int64]

    @property
    def bits_per_byte(self) -> float:
        """Total bits over total bytes."""
        return float(self.nats.sum() / math.log(2) / self.num_bytes.sum())


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Token ids of each text, BOS first."""
    backend = tokenizer.backend_tokenizer
    return [np.array(e.ids, dtype=np.int64) for e in backend.encode_batch(list(texts))]


@torch.no_grad()
def score_documents(
    model: DeepseekForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> DocumentScores:
    """Score every token of every text once, with at least 256 tokens of context where there are.

    Longer texts are read in windows of 512 tokens that overlap by half.
    """
    num_experts = model.config.n_routed_experts
    nats, num_tokens, choices = [], [], []
    for ids in encode(tokenizer, texts):
        total = 0.0
        counts = np.zeros((), np.int64)
        for start in range(0, max(len(ids) - STRIDE, 1), STRIDE):
            window = torch.from_numpy(ids[start : start + CONTEXT])[None]
            with record_routing(model) as routing:
                logits = model(window, use_cache=False).logits[0, :-1].float()
            losses = functional.cross_entropy(logits, window[0, 1:], reduction="none")
            new = STRIDE if start else 1  # tokens below this index were counted before
            total += losses[new - 1 :].double().sum().item()
            counts = counts + np.stack(
                [
                    torch.bincount(e[new:].flatten(), minlength=num_experts).numpy()
                    for e in routing.experts
                ]
            )
        nats.append(total)
        num_tokens.append(len(ids) - 1)
        choices.append(counts)
    return DocumentScores(
        np.array(nats),
        np.array(num_tokens),
        np.array([len(text.encode()) for text in texts]),
        np.array(choices),
    )


@contextmanager
def active_experts(model: DeepseekForCausalLM, k: int) -> Iterator[None]:
    """Let every router choose k experts while the context is open; weights stay as they are."""
    routers = [m for m in model.modules() if isinstance(m, DeepseekRouter)]
    before = [router.top_k for router in routers]
    for router in routers:
        router.top_k = k
    try:
        yield
    finally:
        for router, top_k in zip(routers, before, strict=True):
            router.top_k = top_k


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval from resampling documents."""

    value: float
    low: float
    high: float


def perplexity_ratio(fewer: DocumentScores, full: DocumentScores) -> Interval:
    """Token-weighted perplexity with fewer experts over that with all, on the same tokens."""
    difference, tokens = fewer.nats - full.nats, full.num_tokens
    rng = np.random.default_rng(0)
    picks = rng.integers(len(tokens), size=(2000, len(tokens)))
    ratios = np.exp(difference[picks].sum(1) / tokens[picks].sum(1))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(np.exp(difference.sum() / tokens.sum())), float(low), float(high))


def experts_for_half(choices: NDArray[np.int64]) -> float:
    """n50, mean over layers: fewest experts that take half of the decisions [layer, expert]."""
    ordered = -np.sort(-choices, axis=-1)
    reached = ordered.cumsum(-1) * 2 >= ordered.sum(-1, keepdims=True)
    return float((reached.argmax(-1) + 1).mean())
