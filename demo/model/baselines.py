"""What the demo model must beat on the same text: compressors and n-gram models."""

from __future__ import annotations

import gzip
import lzma
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def compressed_bits_per_byte(texts: Sequence[str]) -> dict[str, float]:
    """Bits per byte of `gzip -9` and `xz -9` on the texts as one file.

    They adapt to these texts only; the models have seen the domain's training text.
    """
    data = "\n".join(texts).encode()
    sizes = {
        "gzip -9": len(gzip.compress(data, compresslevel=9, mtime=0)),
        "xz -9": len(lzma.compress(data, preset=9)),
    }
    return {name: 8 * size / len(data) for name, size in sizes.items()}


class NGram:
    """Witten-Bell interpolated n-gram model over token ids.

    p_n(w | c) = (count(c w) + types(c) p_{n-1}(w | c')) / (count(c) + types(c)), where
    types(c) is how many different tokens followed c. Order 0 is uniform.
    """

    def __init__(self, tokens: Ids, *, order: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._tables = []
        for n in range(1, order + 1):
            grams, first, counts = np.unique(
                self._keys(tokens, n), return_index=True, return_counts=True
            )
            contexts = self._keys(tokens[:-1] if n > 1 else tokens, n - 1)
            context_ids, context_counts = np.unique(contexts, return_counts=True)
            types = np.unique(contexts[first], return_counts=True)[1]
            self._tables.append((grams, counts, context_ids, context_counts, types))

    @staticmethod
    def _keys(tokens: Ids, n: int) -> NDArray[np.uint64]:
        """One 64-bit hash for each run of n tokens."""
        length = len(tokens) - n + 1 if n else len(tokens)
        keys = np.full(length, 14695981039346656037, dtype=np.uint64)
        with np.errstate(over="ignore"):
            for i in range(n):
                part = tokens[i : i + length].astype(np.uint64) + np.uint64(1)
                keys = (keys ^ part) * np.uint64(1099511628211 * 2**20 + 435)
                keys ^= keys >> np.uint64(29)
        return keys

    def nats(self, tokens: Ids) -> NDArray[np.float64]:
        """-ln p of every token but the first, which only serves as context."""
        p = np.full(len(tokens) - 1, 1.0 / self._vocab_size)
        for n, (grams, counts, contexts, context_counts, types) in enumerate(self._tables, 1):
            start = max(n - 1, 1)  # first token that has a whole context
            here = slice(start - 1, None)
            gram_keys = self._keys(tokens[start - n + 1 :], n)
            context_keys = self._keys(tokens[start - n + 1 : -1] if n > 1 else tokens[1:], n - 1)
            count = _look_up(grams, counts, gram_keys)
            total = _look_up(contexts, context_counts, context_keys)
            kinds = _look_up(contexts, types, context_keys)
            known = total > 0
            mixed = (count + kinds * p[here]) / np.maximum(total + kinds, 1)
            p[here] = np.where(known, mixed, p[here])
        nats: NDArray[np.float64] = -np.log(p)
        return nats


def _look_up(
    keys: NDArray[np.uint64], values: NDArray[np.int64], wanted: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Values of the wanted keys; 0 where a key is not there."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found: NDArray[np.int64] = np.where(keys[at] == wanted, values[at], 0)
    return found


def ngram_bits_per_byte(
    train: Ids, documents: Sequence[Ids], *, order: int, vocab_size: int, num_bytes: int
) -> float:
    """Bits per byte of documents (each beginning with BOS) under an n-gram model of `train`."""
    model = NGram(train, order=order, vocab_size=vocab_size)
    nats = math.fsum(model.nats(document).sum() for document in documents)
    return nats / math.log(2) / num_bytes
