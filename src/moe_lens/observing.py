"""Run text through a model under observation: a few tokens whole, or a corpus into statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from moe_lens.corpus import Corpus, Document, TokenBatch, TokenizedCorpus, batches, tokenize
from moe_lens.corpus.tokens import OnLong
from moe_lens.engine.recorder import Recorder
from moe_lens.engine.sweep import Stream, sweep
from moe_lens.errors import CorpusError, InputError
from moe_lens.event import Field, LayerEvent, fields_of
from moe_lens.models.model import MoEModel
from moe_lens.policies import Identity, Policy
from moe_lens.stats.accumulator import Accumulator

DEFAULT_CONTEXT = 1024
DEFAULT_BATCH_TOKENS = 4096


def record(
    model: MoEModel,
    text: str,
    *,
    fields: Iterable[Field] = (),
    policy: Policy | None = None,
    count_bos: bool = False,
) -> list[LayerEvent]:
    """What every MoE layer did with one text, kept whole.

    Args:
        model: A loaded model with a tokenizer.
        text: Of any length; a text longer than the model's context is split into windows, and
            each window gives events of its own.
        fields: What to see beyond the routing; every field costs memory per token.
        policy: Replaces each router's decision.
        count_bos: Whether the token that begins a text is among the rows.

    Returns:
        One event for each MoE layer, in layer order, its rows the text's tokens.

    Raises:
        CorpusError: The text is empty, or the tokenizer does not fit the model.
        UnsupportedModel: The family does not have a field.
    """
    if not text.strip():
        raise CorpusError("the text is empty; give at least one word")
    corpus = Corpus(documents=(Document(text=text, domain="text", id="text"),), domains=("text",))
    tokenized = tokens_of(model, corpus, count_bos=count_bos)
    recorder = Recorder(fields)
    stream = Stream(policy or Identity(), recorder.update, recorder.fields)
    for _ in sweep(model, batches(tokenized, batch_tokens=DEFAULT_BATCH_TOKENS), [stream]):
        pass
    return sorted(recorder.events, key=lambda event: (event.batch, event.layer))


def observe(
    model: MoEModel,
    token_batches: Iterable[TokenBatch],
    accumulators: Sequence[Accumulator],
    *,
    policy: Policy | None = None,
    sink: Callable[[LayerEvent], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Run batches through a model and feed every layer's event to accumulators.

    Args:
        model: A loaded model.
        token_batches: From `batches(tokens_of(model, corpus), ...)`.
        accumulators: They get what they ask for, and add to themselves.
        policy: Replaces each router's decision.
        sink: Called with each event too, such as a trace writer's `update`.
        progress: Called as work goes on with tokens done, in all those of the batches.

    Raises:
        UnsupportedModel: The family does not have what an accumulator asks for.
    """

    def feed(event: LayerEvent) -> None:
        for accumulator in accumulators:
            accumulator.update(event)
        if sink is not None:
            sink(event)

    fields = fields_of(accumulator.needs for accumulator in accumulators)
    for _ in sweep(
        model, token_batches, [Stream(policy or Identity(), feed, fields)], progress=progress
    ):
        pass


def tokens_of(
    model: MoEModel,
    corpus: Corpus,
    *,
    context_length: int | None = None,
    on_long: OnLong = "split",
    count_bos: bool = False,
) -> TokenizedCorpus:
    """A corpus in the tokens of a model.

    Args:
        model: A loaded model with a tokenizer.
        corpus: The text.
        context_length: Tokens the model sees at once; None for 1,024, or the model's own limit
            if that is shorter.
        on_long: What is done about longer documents: "split", "truncate" or "error".
        count_bos: Whether the token that begins a text is counted.

    Raises:
        InputError: The model has no tokenizer, or a shorter context than asked for.
        CorpusError: A text does not fit.
    """
    if model.tokenizer is None:
        raise InputError(
            f"{model.source}: no tokenizer lies beside the weights (tokenizer.json), so text "
            f"cannot be turned into tokens; copy the model's tokenizer files there"
        )
    limit = model.context_length
    if context_length is None:
        context_length = min(DEFAULT_CONTEXT, limit or DEFAULT_CONTEXT)
    elif limit is not None and context_length > limit:
        raise InputError(
            f"context of {context_length} tokens, but {model.source} was made for {limit}; "
            f"ask for at most that"
        )
    return tokenize(
        corpus,
        model.tokenizer,
        context_length=context_length,
        vocab_size=model.vocab_size,
        on_long=on_long,
        count_bos=count_bos,
    )
