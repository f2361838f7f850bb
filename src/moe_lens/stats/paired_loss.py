"""`PairedLoss`: several ways of running a model against the model itself, on the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from moe_lens.corpus import TokenBatch
from moe_lens.lens.decode import decode
from moe_lens.lens.unembed import OutputHead
from moe_lens.stats.document_sums import DocumentSums
from moe_lens.stats.next_token import next_token_nll, predicted


@final
class PairedLoss:
    """Per document and stream: negative log-likelihood, KL to the full model, same likeliest token.

    A *stream* is one way of running the model, by number. The full model is a stream like the
    others, whose KL is 0 and whose agreement is 1 by definition. Which tokens are predicted is
    what `NextTokenLoss` says. The vocabulary goes by in chunks: memory does not depend on it.

    Fed by batches, not by layers; merging and states follow the law of every statistic.

    Args:
        head: The model's output head (`lens.unembed.find_head`).

    Source: terms.md#kl, terms.md#agreement
    """

    def __init__(self, head: OutputHead) -> None:
        self._head = head
        self._sums = DocumentSums()

    def update_full(
        self, stream: int, batch: TokenBatch, hidden: Float[Tensor, "seq pos d_model"]
    ) -> None:
        """Add what the full model gave for a batch."""
        places = _Places(batch, hidden)
        if len(places.targets):
            nll = next_token_nll(self._head, places.states(hidden), places.targets)
            same = torch.stack([nll, torch.zeros_like(nll), torch.ones_like(nll)], dim=1)
            self._sums.add(stream, places.documents, same)

    def update(
        self,
        batch: TokenBatch,
        full: Float[Tensor, "seq pos d_model"],
        streams: Mapping[int, Float[Tensor, "seq pos d_model"]],
    ) -> None:
        """Add what some streams gave for a batch, beside what the full model gave for it.

        Args:
            batch: The batch.
            full: Last hidden states of the full model, after the final norm.
            streams: Those of each stream. All are decoded in one pass over the head.

        Raises:
            ValueError: Hidden states are not those of this batch, or an id is outside the
                vocabulary.
        """
        places = _Places(batch, full)
        if not len(places.targets):
            return
        states = torch.stack([places.states(hidden) for hidden in streams.values()], dim=1)
        found = decode(self._head, states, targets=places.targets, reference=places.states(full))
        assert found.true_log_prob is not None
        assert found.kl_reference is not None
        assert found.reference_top is not None
        agree = (found.top_ids[:, :, 0] == found.reference_top.unsqueeze(1)).double()
        values = torch.stack([-found.true_log_prob, found.kl_reference, agree], dim=2)
        for place, stream in enumerate(streams):
            self._sums.add(stream, places.documents, values[:, place])

    def merge(self, other: PairedLoss) -> None:
        """Add another's sums."""
        self._sums.merge(other._sums)

    def state(self) -> dict[str, Tensor]:
        """Everything seen so far, as tensors that safetensors can hold."""
        return self._sums.state()

    @classmethod
    def from_state(cls, head: OutputHead, state: Mapping[str, Tensor]) -> PairedLoss:
        """The sums that `state` came from."""
        loss = cls(head)
        loss._sums = DocumentSums.from_state(state)
        return loss

    def documents(self) -> pl.DataFrame:
        """One row for each stream and document with a predicted token.

        Columns: stream, document, num_tokens (that were predicted), nll_nats and kl_nats (sums
        over these), num_top1_agree.
        """
        schema = pl.Schema(
            {
                "stream": pl.Int64,
                "document": pl.Int64,
                "num_tokens": pl.Int64,
                "nll_nats": pl.Float64,
                "kl_nats": pl.Float64,
                "num_top1_agree": pl.Int64,
            }
        )
        parts = [pl.DataFrame(schema=schema)]
        for stream in self._sums.layers:
            documents, counts, sums = self._sums.rows(stream)
            nll, kl, agree = sums.T.contiguous()
            columns = [torch.full_like(documents, stream), documents, counts, nll, kl, agree.long()]
            parts.append(pl.DataFrame([column.numpy() for column in columns], schema=schema))
        return pl.concat(parts)


class _Places:
    """Where a batch predicts, and what."""

    def __init__(self, batch: TokenBatch, hidden: Float[Tensor, "seq pos d_model"]) -> None:
        self._shape = tuple(batch.input_ids.shape)
        told = predicted(batch)
        self.documents = batch.document[:, 1:][told]
        self.targets = batch.input_ids[:, 1:][told].to(hidden.device)
        self._told = told.to(hidden.device)

    def states(self, hidden: Float[Tensor, "seq pos d_model"]) -> Float[Tensor, "tok d_model"]:
        """The hidden states that predict."""
        if tuple(hidden.shape[:2]) != self._shape:
            raise ValueError(
                f"hidden states of {tuple(hidden.shape[:2])} places do not fit a batch of "
                f"{self._shape}; give what the session returned for this batch"
            )
        return hidden[:, :-1][self._told]
