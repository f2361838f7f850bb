"""Everything one pass over the text adds up, and how it is saved and joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl
import torch
from torch import Tensor

from moe_lens.corpus import TokenBatch, TokenizedCorpus
from moe_lens.event import Field, LayerEvent, Tokens, fields_of
from moe_lens.lens.corpus import CorpusLens
from moe_lens.lens.sampling import SampledPositions
from moe_lens.lens.states import residual_scales
from moe_lens.lens.unembed import Norm, OutputHead
from moe_lens.models.model import MoEModel
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.coactivation import Coactivation
from moe_lens.stats.documents import DocumentUsage
from moe_lens.stats.next_token import NextTokenLoss
from moe_lens.stats.similarity import Similarity
from moe_lens.stats.weight_mass import WeightMass
from moe_lens.study.abilities import Abilities
from moe_lens.study.states import state_of, together


@dataclass(eq=False)
class PassSums:
    """What a pass measures: any of its parts may be absent.

    Attributes:
        accumulators: By name; fed with every event.
        mass: Weight sums of each domain.
        loss: Next-token loss of each document, through `head`.
        lens: The lens over sampled positions.
        domain_of: The domain index of each document.
    """

    domain_of: Tensor
    accumulators: dict[str, Accumulator] = field(default_factory=dict)
    mass: list[WeightMass] = field(default_factory=list)
    loss: NextTokenLoss | None = None
    head: OutputHead | None = None
    lens: CorpusLens | None = None

    @property
    def fields(self) -> frozenset[Field]:
        """What the session's events must carry."""
        wanted = fields_of(accumulator.needs for accumulator in self.accumulators.values())
        return wanted if self.lens is None else wanted | self.lens.needs

    def update(self, event: LayerEvent) -> None:
        """Add one layer's event."""
        for accumulator in self.accumulators.values():
            accumulator.update(event)
        domains = self.domain_of.to(event.tokens.document.device)[event.tokens.document]
        for index, mass in enumerate(self.mass):
            rows = (domains == index).nonzero().squeeze(1)
            if len(rows):
                mass.update(_part(event, rows))
        if self.lens is not None:
            self.lens.update(event)

    def finish(self, batch: TokenBatch, hidden: Tensor, *, number: int) -> None:
        """Take a batch's last hidden states; `number` is what its events call it."""
        if self.loss is not None:
            self.loss.update(batch, hidden)
        if self.lens is not None:
            self.lens.finish(batch, hidden, number=number)

    def state(self) -> dict[str, Tensor]:
        """All sums but the lens's, under names that say whose they are."""
        parts: dict[str, Mapping[str, Tensor]] = {
            name: accumulator.state() for name, accumulator in self.accumulators.items()
        }
        parts |= {f"mass{index}": mass.state() for index, mass in enumerate(self.mass)}
        if self.loss is not None:
            parts["loss"] = self.loss.state()
        return together(parts)

    @property
    def waiting_bytes(self) -> int:
        """What its parts let wait on the disk, in a sweep layer by layer."""
        return 0 if self.lens is None else self.lens.waiting_bytes

    def lens_rows(self) -> pl.DataFrame | None:
        """The lens's sums for each document."""
        return None if self.lens is None else self.lens.table()

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Add what `state` of a part of the same pass gave."""
        for name, accumulator in self.accumulators.items():
            accumulator.merge(type(accumulator).from_state(state_of(state, name)))
        for index, mass in enumerate(self.mass):
            mass.merge(WeightMass.from_state(state_of(state, f"mass{index}")))
        if self.loss is not None:
            assert self.head is not None
            self.loss.merge(NextTokenLoss.from_state(self.head, state_of(state, "loss")))


def main_sums(
    model: MoEModel,
    tokenized: TokenizedCorpus,
    *,
    able: Abilities,
    sample: SampledPositions | None,
    norm: Norm,
) -> PassSums:
    """The sums of the pass with the model's own routing."""
    domain_of = torch.tensor(tokenized.corpus.domain_indices)
    sums = PassSums(domain_of)
    if "routing" in able.measures:
        sums.accumulators |= {"usage": DocumentUsage(), "pairs": Coactivation()}
        sums.mass = [WeightMass() for _ in tokenized.corpus.domains]
    if "similarity" in able.measures:
        sums.accumulators["similarity"] = Similarity(residual_scales(model), domain_of)
    if "perplexity" in able.measures:
        assert able.head is not None
        sums.head, sums.loss = able.head, NextTokenLoss(able.head)
    if "lens" in able.measures and sample is not None:
        sums.lens = CorpusLens(model, sample, norm=norm, unembedding=able.unembedding)
    return sums


def loss_sums(tokenized: TokenizedCorpus, *, able: Abilities) -> PassSums:
    """The sums of a pass that measures perplexity alone."""
    assert able.head is not None
    domain_of = torch.tensor(tokenized.corpus.domain_indices)
    return PassSums(domain_of, loss=NextTokenLoss(able.head), head=able.head)


def _part(event: LayerEvent, rows: Tensor) -> LayerEvent:
    tokens = event.tokens
    picked = Tokens(tokens.ids[rows], tokens.document[rows], tokens.position[rows])
    return LayerEvent(layer=event.layer, tokens=picked, routing=event.routing.select(rows))
