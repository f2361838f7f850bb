"""`evaluate`: named policies on text, each paired with the full model on the same tokens.

The one place where the cost of a policy is measured: a frontier of dynamic policies, a simulated
pruning and an ablation all read what comes out here. Every policy sees every token; documents are
kept apart so that intervals can resample them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from moe_lens.corpus import TokenBatch, TokenizedCorpus
from moe_lens.engine.sweep import Stream, sweep
from moe_lens.errors import InputError
from moe_lens.event import LayerEvent
from moe_lens.lens.unembed import OutputHead, find_head
from moe_lens.models.model import MoEModel
from moe_lens.policies import Identity, Policy
from moe_lens.stats.expert_load import ExpertLoad, Steps, decoding_steps
from moe_lens.stats.paired_loss import PairedLoss
from moe_lens.study.chunks import Progress, chunks, undone
from moe_lens.study.files import STATE, read_tensors, write_tensors
from moe_lens.study.states import state_of, together

FULL = "full"
"""The name of the model as it is, which is always evaluated."""

_DECODED_TOGETHER = 8
"""Streams whose hidden states share a pass over the head."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What policies did, beside the full model (policy `full`), as sums.

    Attributes:
        documents: One row for each policy and document with a predicted token. Columns: policy,
            domain, document, num_tokens (predicted), nll_nats, kl_nats (KL(full || policy)),
            num_top1_agree; all summed over these tokens.
        usage: One row for each policy, domain, layer and expert. Columns: policy, domain, layer,
            expert, num_tokens (that it worked on), num_domain_tokens.
        steps: One row for each policy and layer: decoding steps of `step_sequences` sequences.
            Columns: policy, layer, num_steps, num_distinct (experts, summed over steps).
    """

    documents: pl.DataFrame
    usage: pl.DataFrame
    steps: pl.DataFrame


def evaluate(
    model: MoEModel,
    tokenized: TokenizedCorpus,
    policies: Mapping[str, Policy],
    *,
    directory: Path | None = None,
    batch_tokens: int = 4096,
    chunk_tokens: int = 65_536,
    step_sequences: int = 8,
    progress: Progress | None = None,
) -> Evaluation:
    """Run text through the full model and under each policy, and add up what they differ in.

    With a directory, finished chunks are kept under its `state/` and a killed evaluation goes on
    when called again with the same arguments; its result is that of an uninterrupted one, to the
    last bit. That the arguments are the same is for the caller to see to, by a manifest that is
    written first (`study.manifest.begin`) and names the policies.

    Args:
        model: A loaded model.
        tokenized: The text.
        policies: By name, in the order of the result; `full` comes first and is not among them.
        directory: Where to keep finished chunks; None keeps nothing.
        batch_tokens: Tokens in memory at a time, with a last hidden state for each policy.
        chunk_tokens: Tokens of work, over all policies, that a kill may lose; of a model that is
            streamed, tokens of text that go through its layers together.
        step_sequences: Sequences that decode side by side in a step. Steps come from batches
            that hold so many rows; other batches have none.
        progress: Told of tokens done; in all (policies + 1) x tokens.

    Raises:
        InputError: A policy is named `full`, or a number is not positive.
        UnsupportedModel: The output head cannot be told, or a policy needs what the model's
            router does not give.
    """
    if FULL in policies:
        raise InputError(f"a policy is named {FULL!r}, which is the model itself: rename it")
    if step_sequences < 1:
        raise InputError(f"step_sequences = {step_sequences}: a step has at least 1 sequence")
    job = _Job(model, tokenized, {FULL: Identity(), **policies}, step_sequences)
    # A streamed model reads its weights once a chunk, so its chunks are not made smaller.
    share = 1 if model.store is not None else len(job.policies)
    sizes = {"batch_tokens": batch_tokens, "chunk_tokens": max(1, chunk_tokens // share)}
    report: Progress = progress or (lambda num_tokens: None)
    if directory is None:
        sums = job.empty()
        for chunk in chunks(tokenized, **sizes):
            part = job.empty()  # as with a directory, so that sums are the same to the last bit
            job.run(chunk, part, report)
            sums.merge_state(part.state())
        return job.read(sums)
    places = _Places(directory)
    whole: Progress = lambda num_tokens: report(num_tokens * len(job.policies))  # noqa: E731
    for todo in undone(tokenized, **sizes, is_done=places.is_done, progress=whole):
        part = job.empty()
        job.run(todo.batches, part, report)
        write_tensors(places.file(todo.index), part.state())
    sums = job.empty()
    for file in places.files():
        sums.merge_state(read_tensors(file))
    return job.read(sums)


def forget(directory: Path) -> None:
    """Take away the chunks of an evaluation whose tables are written."""
    shutil.rmtree(directory / STATE, ignore_errors=True)


@dataclass(eq=False)
class _Sums:
    """Everything that is added up."""

    head: OutputHead
    loss: PairedLoss
    load: ExpertLoad

    def state(self) -> dict[str, Tensor]:
        return together({"loss": self.loss.state(), "load": self.load.state()})

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        self.loss.merge(PairedLoss.from_state(self.head, state_of(state, "loss")))
        self.load.merge_state(state_of(state, "load"))


class _Job:
    """The streams of an evaluation, and how a chunk goes through them."""

    def __init__(
        self,
        model: MoEModel,
        tokenized: TokenizedCorpus,
        policies: Mapping[str, Policy],
        step_sequences: int,
    ) -> None:
        self.policies = dict(policies)
        self._model, self._corpus = model, tokenized.corpus
        self._domain_of = torch.tensor(tokenized.corpus.domain_indices)
        self._head = find_head(model)
        self._step_sequences = step_sequences

    def empty(self) -> _Sums:
        load = ExpertLoad(len(self.policies), self._domain_of)
        return _Sums(self._head, PairedLoss(self._head), load)

    def run(self, chunk: list[TokenBatch], sums: _Sums, progress: Progress) -> None:
        """Send a chunk through the full model and every policy."""
        steps = _StepsOfBatches(chunk, self._step_sequences)

        def sink(stream: int) -> Callable[[LayerEvent], None]:
            return lambda event: sums.load.update(stream, event, steps.of(event))

        streams = [
            Stream(policy, sink(number)) for number, policy in enumerate(self.policies.values())
        ]
        for batch, (full, *others) in sweep(self._model, chunk, streams):
            sums.loss.update_full(0, batch, full)
            for first in range(0, len(others), _DECODED_TOGETHER):
                group = others[first : first + _DECODED_TOGETHER]
                sums.loss.update(batch, full, dict(enumerate(group, start=first + 1)))
            progress(batch.num_tokens * len(streams))

    def read(self, sums: _Sums) -> Evaluation:
        """The sums as tables, with names for numbers."""
        corpus = self._corpus
        policies = _names("stream", "policy", list(self.policies))
        domains = _names("domain", "name", list(corpus.domains))
        domain_of = pl.DataFrame(
            {"document": range(len(corpus)), "domain": [doc.domain for doc in corpus]},
            schema={"document": pl.Int64, "domain": pl.String},
        )
        documents = (
            sums.loss.documents()
            .join(policies, on="stream", maintain_order="left")
            .join(domain_of, on="document", maintain_order="left")
            .select("policy", "domain", "document", pl.col("^num_tokens|.*_nats|num_top1_agree$"))
        )
        usage = (
            sums.load.usage()
            .join(policies, on="stream", maintain_order="left")
            .join(domains, on="domain", maintain_order="left")
            .with_columns(domain="name")
            .sort("stream", "layer", "domain", "expert", maintain_order=True)
            .select("policy", "domain", "layer", "expert", "num_tokens", "num_domain_tokens")
        )
        steps = (
            sums.load.steps()
            .join(policies, on="stream", maintain_order="left")
            .sort("stream", "layer")
            .select("policy", "layer", "num_steps", "num_distinct")
        )
        return Evaluation(documents, usage, steps)


class _StepsOfBatches:
    """The decoding steps of the batches of a chunk; events of several batches may interleave."""

    def __init__(self, chunk: list[TokenBatch], num_sequences: int) -> None:
        self._steps: dict[tuple[int, int], Steps] = {}
        for batch in chunk:
            if batch.num_counted:
                first = batch.counted.nonzero()[0].unbind()
                key = (int(batch.document[first]), int(batch.position[first]))
                self._steps[key] = decoding_steps(batch, num_sequences=num_sequences)

    def of(self, event: LayerEvent) -> Steps:
        """Those of the batch that an event's first token is in: no token is in two."""
        tokens = event.tokens
        if not len(tokens.document):
            return Steps(torch.zeros(0, dtype=torch.int64), 0)
        return self._steps[int(tokens.document[0]), int(tokens.position[0])]


@dataclass(frozen=True)
class _Places:
    """Where the chunks of an evaluation lie."""

    directory: Path

    def file(self, index: int) -> Path:
        return self.directory / STATE / f"evaluation-{index:05d}.safetensors"

    def is_done(self, index: int) -> bool:
        return self.file(index).exists()

    def files(self) -> Iterator[Path]:
        index = 0
        while self.is_done(index):
            yield self.file(index)
            index += 1


def _names(number: str, name: str, names: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {number: range(len(names)), name: names}, schema={number: pl.Int64, name: pl.String}
    )
