"""`CorpusLens`: the extended logit lens over sampled positions of a corpus.

Fed by a session or a sweep: `update` with each event, then `finish` with each batch and its last
hidden states. A batch's states wait, in memory or in files, as the head reads them, and are decoded
together with others: one pass over the head for as many layers and batches as memory may hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, final

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from moe_lens.corpus import TokenBatch
from moe_lens.event import LayerEvent
from moe_lens.lens.decode import decode
from moe_lens.lens.groups import MAX_HELD_BYTES, groups_within
from moe_lens.lens.reading import SCHEMA, Reading, sums_by_document
from moe_lens.lens.sampling import SampledPositions
from moe_lens.lens.states import LENS_FIELDS, lens_states, residual_scales, state_names
from moe_lens.lens.unembed import Norm, Unembedding, find_unembedding
from moe_lens.lens.waiting import State, Waiting, from_file, in_file, inputs_of
from moe_lens.models.model import MoEModel


class _Held(NamedTuple):
    """A batch's sampled tokens, until they are decoded."""

    document: Int[Tensor, " tok"]
    position: Int[Tensor, " tok"]
    layers: tuple[Waiting, ...]
    targets: Int[Tensor, " tok"]
    reference: Float[Tensor, "tok d_model"]


@final
class CorpusLens:
    """Sums of the lens for each document, layer and state.

    The cost is one GEMM row of the head for each sampled token, layer and state (about 2 k + 3
    states a layer), plus a few per cent.

    Args:
        model: A loaded model.
        sample: Which positions are read.
        norm: "final" or "none"; see `Unembedding.inputs`.
        unembedding: The model's, where it was found before; None looks for it and proves it.
        max_held_bytes: Decode whenever the states kept take more memory than this.

    Raises:
        UnsupportedModel: The model's logits, or its residual stream, are not of a known form.
    """

    needs = LENS_FIELDS

    def __init__(
        self,
        model: MoEModel,
        sample: SampledPositions,
        *,
        norm: Norm = "final",
        unembedding: Unembedding | None = None,
        max_held_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        self._scales = residual_scales(model)
        self._unembedding = unembedding or find_unembedding(model)
        self._has_shared = {x.modules.index: x.modules.shared is not None for x in model.layers}
        self._top_k = model.layers[0].modules.top_k
        self._sample, self._norm, self._max_held_bytes = sample, norm, max_held_bytes
        self._states: tuple[State, ...] = ()
        self._pending: dict[int, list[Waiting]] = {}
        self._folder: Path | None = None
        self._held: list[_Held] = []
        self._read: list[Reading] = []

    def update(self, event: LayerEvent) -> None:
        """Keep the states of one layer's sampled tokens."""
        rows = self._sample.contains(event.tokens.document, event.tokens.position)
        states = lens_states(
            _select(event, rows.nonzero().squeeze(1)),
            scale=self._scales[event.layer],
            has_shared=self._has_shared[event.layer],
        )
        names = tuple(State(event.layer, name) for name in states.names)
        inputs = self._unembedding.inputs(states.values, norm=self._norm)
        waiting = Waiting(names, inputs, states.present)
        if self._folder is not None:
            waiting = in_file(self._file(event.batch, event.layer), waiting)
        self._pending.setdefault(event.batch, []).append(waiting)

    def wait_in(self, folder: Path) -> None:
        """Let the states of batches that are under way wait in files of a folder.

        Where all batches go through a layer before the next, there are more than memory holds.
        """
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def go_on(self, numbers: Sequence[int], *, layer: int) -> None:
        """Take up the batches of these numbers, whose files of the layers below `layer` are there.

        Their states are those that another lens, stopped since, let wait in the same folder.
        """
        for number in numbers:
            self._pending[number] = [
                from_file(self._file(number, index), self._names(index))
                for index in sorted(self._has_shared)
                if index < layer
            ]

    @property
    def waiting_bytes(self) -> int:
        """Bytes that all sampled tokens' states take while they wait."""
        states = sum(len(self._names(index)) for index in self._has_shared)
        return len(self._sample.keys) * states * (4 * self._unembedding.head.weight.shape[1] + 1)

    def _names(self, layer: int) -> tuple[State, ...]:
        names = state_names(self._top_k, has_shared=self._has_shared[layer])
        return tuple(State(layer, name) for name in names)

    def _file(self, number: int, layer: int) -> Path:
        assert self._folder is not None
        return self._folder / f"lens-{number:06d}-{layer:05d}.safetensors"

    def finish(
        self, batch: TokenBatch, hidden: Float[Tensor, "seq pos d_model"], *, number: int = 0
    ) -> None:
        """Take the end of a batch, all of whose events have come.

        Args:
            batch: The batch.
            hidden: Its last hidden states, after the final norm: what the session's `run` gives.
            number: What its events call it.

        Raises:
            ValueError: The events of this number are not those of this batch.
        """
        device = hidden.device
        document, position = batch.document.to(device), batch.position.to(device)
        row = self._sample.contains(document, position) & batch.counted.to(device)
        pending = tuple(self._pending.pop(number, []))
        num_rows = int(row.sum())
        states = tuple(state for waiting in pending for state in waiting.names)
        fits = all(waiting.num_rows == num_rows for waiting in pending)
        if not fits or (self._states and states != self._states):
            raise ValueError(
                "the events since the last batch do not belong to this one; call finish once "
                "after each batch, with the session's own result"
            )
        self._states = states
        if num_rows == 0:
            return
        following = batch.input_ids.to(device).roll(-1, dims=1)
        held = _Held(
            document=document[row],
            position=position[row],
            layers=pending,
            targets=following[row],
            reference=hidden[row].float(),
        )
        self._held.append(held)
        if self._num_bytes(self._states) > self._max_held_bytes:
            self._decode()

    def table(self) -> pl.DataFrame:
        """One row for each document, layer and state with sampled tokens; decodes what is held.

        Columns: domain, document, layer, state, num_tokens, agree_layer and agree_output (tokens
        whose likeliest token is that of the layer's output, of the model's output), and the sums
        kl_output_nats and logprob_true_nats; ranks_true lists the true token's rank for each
        token, by rising position.
        """
        self._decode()
        if not self._read:
            return pl.DataFrame(schema=SCHEMA)
        return sums_by_document(Reading.joined(self._read), self._states, self._sample.domain_of)

    def _num_bytes(self, states: Sequence[State]) -> int:
        """What these states of all tokens that are held take in memory."""
        num_rows = sum(len(one.targets) for one in self._held)
        return 4 * self._unembedding.head.weight.shape[1] * num_rows * len(states)

    def _decode(self) -> None:
        """Read what is held, as many layers at a time as memory may hold."""
        if not self._held:
            return
        layers = list(zip(*(one.layers for one in self._held), strict=True))
        sizes = [self._num_bytes(layer[0].names) for layer in layers]
        groups = [layers[span] for span in groups_within(sizes, self._max_held_bytes)]
        held = tuple(self._held)
        self._held.clear()
        self._read.append(Reading.beside([self._read_layers(held, group) for group in groups]))

    def _read_layers(self, held: Sequence[_Held], layers: Sequence[tuple[Waiting, ...]]) -> Reading:
        """What the lens says of some layers' states, of all tokens that are held."""
        states = [state for layer in layers for state in layer[0].names]
        names = {state: column for column, state in enumerate(states)}
        # H_1 is resid_mid with rank 1 alone, and needs no second look.
        kept = [column for state, column in names.items() if state.name != "top1"]
        place = {column: i for i, column in enumerate(kept)}
        columns = [
            place[names[State(s.layer, "rank1")] if s.name == "top1" else names[s]] for s in states
        ]
        inputs, present = inputs_of(layers)
        found = decode(
            self._unembedding.head,
            inputs,
            targets=torch.cat([one.targets for one in held]),
            reference=torch.cat([one.reference for one in held]),
        )
        assert found.true_log_prob is not None
        assert found.true_rank is not None
        assert found.kl_reference is not None
        assert found.reference_top is not None
        top = found.top_ids[:, columns, 0]
        of_layer = [names[State(state.layer, "layer")] for state in states]
        return Reading(
            document=torch.cat([one.document for one in held]).cpu().numpy(),
            position=torch.cat([one.position for one in held]).cpu().numpy(),
            present=present.cpu().numpy(),
            agree_layer=(top == top[:, of_layer]).cpu().numpy(),
            agree_output=(top == found.reference_top.unsqueeze(1)).cpu().numpy(),
            kl=found.kl_reference[:, columns].cpu().numpy(),
            log_prob=found.true_log_prob[:, columns].cpu().numpy(),
            rank=found.true_rank[:, columns].cpu().numpy(),
        )


def _select(event: LayerEvent, rows: Int[Tensor, " row"]) -> LayerEvent:
    """The sampled tokens of an event."""

    def pick(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.index_select(0, rows)

    return LayerEvent(
        layer=event.layer,
        tokens=event.tokens,
        routing=event.routing.select(rows),
        outputs=pick(event.outputs),
        shared=pick(event.shared),
        resid_mid=pick(event.resid_mid),
        layer_output=pick(event.layer_output),
    )
