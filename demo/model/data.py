"""Documents to packed rows of tokens, and the order in which training meets them.

A row holds tokens of one domain. Documents are shuffled once, joined as BOS text EOS, and
cut into rows; positions start again at 0 at every BOS, so that documents in one row do
not see each other. Which rows make a step is a function of the seed and the step alone:
a resumed run needs no other state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from demo.tokenizer import CONTEXT

# Rows of each domain in a step's 16 rows.
SHARES: Mapping[str, int] = {
    "code": 3,
    "english": 3,
    "french": 3,
    "chinese": 3,
    "gsm": 1,
    "aime": 1,
    "science": 2,
}


@dataclass(frozen=True)
class Batch:
    """Rows of tokens to predict from, what to predict, positions in the document."""

    inputs: Tensor
    targets: Tensor
    positions: Tensor


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def data_hashes(data: Path) -> dict[str, str]:
    """Digest of every file that training reads, by its path under `data`."""
    files = [
        data / domain / f"{split}.jsonl" for domain in SHARES for split in ("train", "heldout")
    ]
    return {str(path.relative_to(data)): sha256(path) for path in files}


def pack(path: Path, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> NDArray[np.uint16]:
    """Rows of CONTEXT + 1 tokens from the file's documents; neighbours share one token.

    Raises:
        ValueError: The file has too little text for one row.
    """
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    order = np.random.default_rng(seed).permutation(len(texts))
    backend, eos = tokenizer.backend_tokenizer, tokenizer.eos_token_id
    stream: list[NDArray[np.uint16]] = []
    for start in range(0, len(order), 256):
        encodings = backend.encode_batch([texts[i] for i in order[start : start + 256]])
        stream.extend(np.array([*e.ids, eos], dtype=np.uint16) for e in encodings)
    tokens = np.concatenate(stream) if stream else np.empty(0, np.uint16)
    num_rows = (len(tokens) - 1) // CONTEXT
    if num_rows < 1:
        raise ValueError(f"{path} holds {len(tokens)} tokens; one row takes {CONTEXT + 1}.")
    starts = np.arange(num_rows) * CONTEXT
    rows: NDArray[np.uint16] = tokens[starts[:, None] + np.arange(CONTEXT + 1)]
    return rows


def packed_rows(
    data: Path, tokenizer: PreTrainedTokenizerFast, cache: Path, *, split: str, seed: int
) -> dict[str, NDArray[np.uint16]]:
    """Each domain's rows, kept in `cache` under a name that changes with their content."""
    key = {"hashes": data_hashes(data), "tokenizer": tokenizer.backend_tokenizer.to_str()}
    digest = hashlib.sha256(json.dumps([key, split, seed, CONTEXT]).encode()).hexdigest()
    path = cache / f"{split}-{digest[:16]}.safetensors"
    if not path.exists():
        rows = {d: pack(data / d / f"{split}.jsonl", tokenizer, seed=seed) for d in SHARES}
        cache.mkdir(parents=True, exist_ok=True)
        save_file(rows, path)
    return load_file(path)


def to_batch(rows: NDArray[np.uint16], bos: int) -> Batch:
    """Inputs, targets and positions of packed rows."""
    tokens = torch.from_numpy(rows.astype(np.int64))
    inputs = tokens[:, :-1].contiguous()
    index = torch.arange(inputs.shape[1]).expand_as(inputs)
    starts = torch.where(inputs == bos, index, 0).cummax(dim=1).values
    return Batch(inputs, tokens[:, 1:].contiguous(), index - starts)


def step_rows(
    rows: Mapping[str, NDArray[np.uint16]], step: int, *, seed: int
) -> NDArray[np.uint16]:
    """The rows of one step: SHARES of each domain, every epoch of a domain in a new order.

    Even and odd rows have about the same mix.
    """
    chosen: list[tuple[float, NDArray[np.uint16]]] = []
    for number, (domain, share) in enumerate(SHARES.items()):
        for i in range(share):
            epoch, row = divmod(step * share + i, len(rows[domain]))
            order = np.random.default_rng([seed, number, epoch]).permutation(len(rows[domain]))
            chosen.append(((i + 0.5) / share + 1e-3 * number, rows[domain][order[row]]))
    return np.stack([row for _, row in sorted(chosen, key=lambda pair: pair[0])])
