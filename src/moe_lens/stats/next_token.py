"""`NextTokenLoss`: how surprised the model is by each next token, summed for each document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import polars as pl
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from moe_lens.corpus import TokenBatch
from moe_lens.lens.decode import decode
from moe_lens.lens.unembed import OutputHead
from moe_lens.stats.document_sums import DocumentSums

_LAYER = 0  # the loss belongs to the model, so its sums have one place


def predicted(batch: TokenBatch) -> Bool[Tensor, "seq next"]:
    """Which places from the second on hold a counted token that another token comes before."""
    return batch.counted[:, 1:] & batch.attention_mask[:, 1:] & batch.attention_mask[:, :-1]


def next_token_nll(
    head: OutputHead, hidden: Float[Tensor, "tok d_model"], targets: Int[Tensor, " tok"]
) -> Float64[Tensor, " tok"]:
    """Negative log-likelihood of the token that followed each, in nats.

    Args:
        head: The model's output head (`lens.unembed.find_head`).
        hidden: Last hidden states, after the final norm.
        targets: The id that followed each.

    Raises:
        ValueError: A target is outside the vocabulary.
    """
    found = decode(head, hidden.unsqueeze(1), num_top=0, targets=targets)
    assert found.true_log_prob is not None
    return -found.true_log_prob.squeeze(1)


@final
class NextTokenLoss:
    """Sums of the negative log-likelihood of every counted token that follows another.

    The state at position p of a row predicts the token at p + 1 of the same row. A token that
    begins a row (a document, or a later window of one) is predicted by nothing; padding and
    tokens that are not counted are not predicted. A BOS that is not counted still predicts.

    It is no `Accumulator`, since it is fed by batches and not by layers; but merging and states
    follow the same law.

    Args:
        head: The model's output head (`lens.unembed.find_head`).
    """

    def __init__(self, head: OutputHead) -> None:
        self._head = head
        self._sums = DocumentSums()

    def update(self, batch: TokenBatch, hidden: Float[Tensor, "seq pos d_model"]) -> None:
        """Add a batch.

        Args:
            batch: The batch.
            hidden: Its last hidden states, after the final norm: what a session's `run` gives.

        Raises:
            ValueError: The hidden states are not those of this batch, or an id is outside the
                vocabulary.
        """
        if hidden.shape[:2] != batch.input_ids.shape:
            raise ValueError(
                f"hidden states of {tuple(hidden.shape[:2])} places do not fit a batch of "
                f"{tuple(batch.input_ids.shape)}; give what the session returned for this batch"
            )
        told = predicted(batch)
        if not bool(told.any()):
            return
        targets = batch.input_ids[:, 1:][told].to(hidden.device)
        nll = next_token_nll(self._head, hidden[:, :-1][told.to(hidden.device)], targets)
        self._sums.add(_LAYER, batch.document[:, 1:][told], nll.unsqueeze(1))

    def merge(self, other: NextTokenLoss) -> None:
        """Add another's sums."""
        self._sums.merge(other._sums)

    def state(self) -> Mapping[str, Tensor]:
        """Everything seen so far, as tensors that safetensors can hold."""
        return self._sums.state()

    @classmethod
    def from_state(cls, head: OutputHead, state: Mapping[str, Tensor]) -> NextTokenLoss:
        """The sums that `state` came from."""
        loss = cls(head)
        loss._sums = DocumentSums.from_state(state)
        return loss

    def documents(self) -> pl.DataFrame:
        """One row for each document with a predicted token.

        Columns: document, num_tokens (that were predicted), nll_nats (their sum).
        """
        schema = {"document": pl.Int64, "num_tokens": pl.Int64, "nll_nats": pl.Float64}
        if not self._sums.layers:
            return pl.DataFrame(schema=schema)
        documents, counts, sums = self._sums.rows(_LAYER)
        columns = [documents.numpy(), counts.numpy(), sums.squeeze(1).numpy()]
        return pl.DataFrame(columns, schema=schema)
