"""`lens_grid`: the extended logit lens on one prompt, every position, layer and state."""

from __future__ import annotations

from functools import partial
from typing import Any

import polars as pl
import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from moe_lens.errors import CorpusError, InputError
from moe_lens.event import LayerEvent
from moe_lens.lens.decode import decode
from moe_lens.lens.groups import MAX_HELD_BYTES, groups_within
from moe_lens.lens.states import LENS_FIELDS, LensStates, lens_states, residual_scales
from moe_lens.lens.unembed import Norm, Unembedding, find_unembedding
from moe_lens.models.model import MoEModel
from moe_lens.observing import record

SCHEMA: dict[str, Any] = {
    "position": pl.Int64,
    "token": pl.String,
    "layer": pl.Int64,
    "state": pl.String,
    "expert": pl.Int64,
    "weight": pl.Float64,
    "top_token": pl.String,
    "probability": pl.Float64,
    "next_tokens": pl.List(pl.String),
    "next_probabilities": pl.List(pl.Float64),
}
NUM_NEXT = 5
MAX_TOKENS = 128


def lens_grid(
    model: MoEModel,
    prompt: str,
    *,
    norm: Norm = "final",
    count_bos: bool = False,
    max_tokens: int = MAX_TOKENS,
    unembedding: Unembedding | None = None,
) -> pl.DataFrame:
    """What each state of each layer would say next, at each position of a prompt.

    One row for each position, MoE layer and state. Columns as in docs/tables.md: `expert` and
    `weight` only for `rank{j}`; `top_token` with its `probability`; `next_tokens` the five that
    follow it, falling. Tokens are text as the tokenizer spells them, to be escaped where shown.

    Args:
        model: A loaded model with a tokenizer.
        prompt: Text.
        norm: "final" or "none"; see `Unembedding.inputs`.
        count_bos: Whether the token that begins a text has rows too.
        max_tokens: The longest prompt that is accepted: rows grow as positions x layers x states.
        unembedding: The model's, where it was found before; None looks for it and proves it.

    Raises:
        InputError: The model has no tokenizer.
        CorpusError: The prompt is empty or too long.
        UnsupportedModel: The model's logits, or its residual stream, are not of a known form.
    """
    tokenizer = check_prompt(model, prompt, max_tokens=max_tokens)
    unembedding = unembedding or find_unembedding(model)
    scales = residual_scales(model)
    has_shared = {x.modules.index: x.modules.shared is not None for x in model.layers}
    events = record(model, prompt, fields=LENS_FIELDS, count_bos=count_bos)
    states = [
        lens_states(event, scale=scales[event.layer], has_shared=has_shared[event.layer])
        for event in events
    ]
    num_top = min(1 + NUM_NEXT, unembedding.head.vocab_size)
    frames: list[pl.DataFrame] = []
    for group in groups_within([s.values.nbytes for s in states], MAX_HELD_BYTES):
        inputs = [unembedding.inputs(s.values, norm=norm) for s in states[group]]
        found = decode(unembedding.head, torch.cat(inputs, dim=1), num_top=num_top)
        widths = [len(s.names) for s in states[group]]
        frames += map(
            partial(_rows, tokenizer),
            events[group],
            states[group],
            found.top_ids.split(widths, dim=1),
            found.top_log_probs.exp().split(widths, dim=1),
        )
    order = ["position", "layer"]
    return pl.concat(frames).sort(order, maintain_order=True)


def check_prompt(
    model: MoEModel, prompt: str, *, max_tokens: int = MAX_TOKENS
) -> PreTrainedTokenizerBase:
    """Refuse a prompt that `lens_grid` would refuse, before any work; gives the tokenizer.

    Raises:
        InputError: The model has no tokenizer.
        CorpusError: The prompt is empty or too long.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError(
            f"{model.source}: no tokenizer lies beside the weights (tokenizer.json), so tokens "
            f"cannot be named; copy the model's tokenizer files there"
        )
    if not prompt.strip():
        raise CorpusError("the prompt of the lens grid is empty; give at least one word")
    limit = min(max_tokens, model.context_length or max_tokens)
    num_tokens = len(tokenizer(prompt)["input_ids"])
    if num_tokens > limit:
        raise CorpusError(
            f"the prompt has {num_tokens} tokens, the grid takes at most {limit}: shorten it, or "
            f"read a corpus with CorpusLens"
        )
    return tokenizer


def _rows(
    tokenizer: PreTrainedTokenizerBase,
    event: LayerEvent,
    states: LensStates,
    top_ids: Int64[Tensor, "tok state top"],
    top_probabilities: Float64[Tensor, "tok state top"],
) -> pl.DataFrame:
    """A layer's rows."""
    ids, probabilities = top_ids.tolist(), top_probabilities.tolist()
    present, position = states.present.tolist(), event.tokens.position.tolist()
    experts, weights = event.routing.experts.tolist(), event.routing.weights.tolist()
    names = {token: _text(tokenizer, token) for token in {i for r in ids for s in r for i in s}}
    rows: list[dict[str, Any]] = []
    for tok, token in enumerate(event.tokens.ids.tolist()):
        for place, state in enumerate(states.names):
            if not present[tok][place]:
                continue
            slot = int(state.removeprefix("rank")) - 1 if state.startswith("rank") else None
            top = [names[i] for i in ids[tok][place]]
            rows.append(
                {
                    "position": position[tok],
                    "token": _text(tokenizer, token),
                    "layer": event.layer,
                    "state": state,
                    "expert": None if slot is None else experts[tok][slot],
                    "weight": None if slot is None else weights[tok][slot],
                    "top_token": top[0],
                    "probability": probabilities[tok][place][0],
                    "next_tokens": top[1:],
                    "next_probabilities": probabilities[tok][place][1:],
                }
            )
    return pl.DataFrame(rows, schema=SCHEMA)


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token as text: its own piece of the vocabulary where it is not a character by itself."""
    text: str = tokenizer.decode([token])
    if "\ufffd" not in text and text != "":
        return text
    piece = tokenizer.convert_ids_to_tokens(token)
    return f"<{token}>" if piece is None else str(piece)
