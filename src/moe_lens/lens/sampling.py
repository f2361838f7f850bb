"""`sample_positions`: which tokens of a corpus are read, the same however it is batched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from moe_lens.corpus import TokenizedCorpus
from moe_lens.errors import CorpusError
from moe_lens.event import Tokens
from moe_lens.policies.draw import uniform_scores

_POSITION_BITS = 32


@dataclass(frozen=True, eq=False)
class SampledPositions:
    """Some (document, position) pairs of a corpus.

    Attributes:
        keys: document * 2**32 + position, rising.
        domain_of: The domain of each document of the corpus.
        per_domain: How many were asked for in each domain.
        seed: What the draw depends on, beside document and position.
    """

    keys: Int64[Tensor, " sample"]
    domain_of: tuple[str, ...]
    per_domain: int
    seed: int

    def contains(
        self, document: Int[Tensor, "*tok"], position: Int[Tensor, "*tok"]
    ) -> Bool[Tensor, "*tok"]:
        """Which of these tokens are in the sample."""
        keys = self.keys.to(document.device)
        wanted = _keys(document, position)
        if len(keys) == 0:
            return torch.zeros_like(wanted, dtype=torch.bool)
        place = torch.searchsorted(keys, wanted.contiguous()).clamp_max(len(keys) - 1)
        return keys[place] == wanted


def sample_positions(
    tokenized: TokenizedCorpus, *, per_domain: int, seed: int = 0
) -> SampledPositions:
    """Draw positions that have a true next token, equally likely within a domain.

    A position is eligible if it is counted and the next token is in the same window. Each gets a
    pseudo-random number from (seed, document, position) alone; a domain's lowest are taken, all
    of them where it has fewer.

    Args:
        tokenized: The corpus.
        per_domain: How many positions of each domain.
        seed: Another seed gives another draw.

    Raises:
        CorpusError: `per_domain` is not positive, or no position of the corpus is eligible.
    """
    if per_domain < 1:
        raise CorpusError(f"per_domain={per_domain}: at least 1 position")
    domain_of = tuple(document.domain for document in tokenized.corpus)
    skipped = 1 if tokenized.has_bos and not tokenized.count_bos else 0
    best: dict[str, tuple[Tensor, Tensor]] = {}
    for document, start, length in tokenized.windows():
        first = max(start, skipped)
        position = torch.arange(first, max(first, start + length - 1))
        draws = _draws(document, position, seed=seed)
        keys = _keys(torch.full_like(position, document), position)
        domain = domain_of[document]
        if domain in best:
            draws, keys = torch.cat([best[domain][0], draws]), torch.cat([best[domain][1], keys])
        order = draws.argsort(stable=True)[:per_domain]
        best[domain] = (draws[order], keys[order])
    chosen = torch.cat([keys for _, keys in best.values()]).sort().values
    if len(chosen) == 0:
        raise CorpusError(
            "no token of the corpus has a next token in the same window, so there is nothing to "
            "read; give longer documents, or a longer context"
        )
    return SampledPositions(chosen, domain_of, per_domain, seed)


def _keys(document: Int[Tensor, "*tok"], position: Int[Tensor, "*tok"]) -> Int64[Tensor, "*tok"]:
    return (document.long() << _POSITION_BITS) + position.long()


def _draws(document: int, position: Int64[Tensor, " tok"], *, seed: int) -> Tensor:
    tokens = Tokens(ids=position, document=torch.full_like(position, document), position=position)
    return uniform_scores(tokens, num_experts=1, layer=0, seed=seed).squeeze(1)
