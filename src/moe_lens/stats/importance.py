"""`Importance`: the sums that every importance criterion of an expert is made of.

One pass over the text, and only what the router chose is computed. Sums are kept apart for groups
of documents, so that scores of domains, of halves of a domain, and of everything together are read
from the same state.

Source: terms.md#importance
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import polars as pl
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from moe_lens.choice import ChoiceRule
from moe_lens.event import Field, LayerEvent
from moe_lens.routing import Routing
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.ranks import refuse_unweighted, unweighted
from moe_lens.stats.reroute import reroute_squares
from moe_lens.stats.sums import LayerSums, add_at, count_at

SUMS = (
    "gate_sum",
    "norm_sum",
    "norm_square_sum",
    "gate_norm_sum",
    "easy_ep_sum",
    "soft_sum",
    "reroute_square_sum",
)
"""Float64 sums over tokens, for each expert."""

SCHEMA = pl.Schema(
    {
        "group": pl.Int64,
        "layer": pl.Int64,
        "expert": pl.Int64,
        "num_tokens": pl.Int64,
        "num_group_tokens": pl.Int64,
        **dict.fromkeys(SUMS, pl.Float64),
        "max_abs": pl.Float64,
    }
)


@dataclass(frozen=True, eq=False)
class LayerTerms:
    """What is known of a layer beyond its events, and with it what can be summed.

    Attributes:
        rule: The layer's proven choice rule; without one, no `soft_sum`.
        routed_scale: What the block multiplies the routed sum by.
        residual_scale: What the layer multiplies its block's output by as it adds it to
            resid_mid; None where it is no such sum, and then there is no `easy_ep_sum`.
        reroutes: Whether `reroute_square_sum` is wanted: the last state of the Gram must be the
            expert that is next in line, and the scores must be in the events.
    """

    rule: ChoiceRule | None = None
    routed_scale: float = 1.0
    residual_scale: float | None = None
    reroutes: bool = False


@final
class Importance(Accumulator):
    """Counts, sums and maxima of each expert, for each layer and group of documents.

    What an event does not carry is not summed: norms come from the Gram, or else from the
    outputs; `max_abs` needs the outputs, `easy_ep_sum` the Gram, `soft_sum` the scores. Such sums
    stay 0; `scoring.criteria` says what a model can give before anything is run.

    Args:
        group_of: The group of each document, from 0.
        terms: What is known of each layer; a layer that is not named has no rule and no scales.
            A restored accumulator has none: merge it into one that has, to add more events.
        needs: What events shall carry (`scoring.criteria.needs_of`).

    Source: terms.md#importance
    """

    def __init__(
        self,
        group_of: Int[Tensor, " document"],
        terms: Mapping[int, LayerTerms] | None = None,
        *,
        needs: frozenset[Field] = frozenset(),
    ) -> None:
        self.needs = needs
        self._group_of = group_of.cpu().long()
        self._num_groups = int(group_of.max()) + 1 if len(group_of) else 0
        self._terms = dict(terms or {})
        self._counts = LayerSums("counts")
        self._tokens = LayerSums("tokens")
        self._sums = LayerSums("sums")
        self._maxima: dict[int, Float64[Tensor, "group expert"]] = {}

    def update(self, event: LayerEvent) -> None:
        """Add one layer's work on some tokens.

        Raises:
            ValueError: The event has no weights, a document no group, or the layer other experts
                than before.
        """
        layer, routing = event.layer, event.routing
        refuse_unweighted(int(unweighted(routing).sum()), layer=layer, what="importance")
        device = routing.weights.device
        groups = self._groups(layer, event.tokens.document).to(device)
        shape = (self._num_groups, routing.num_experts)
        place = groups.unsqueeze(1) * routing.num_experts + routing.experts
        counts = self._counts.zeros(layer, shape, dtype=torch.int64, device=device)
        count_at(counts, place, active=routing.active)
        tokens = self._tokens.zeros(layer, shape[:1], dtype=torch.int64, device=device)
        count_at(tokens, groups, active=None)
        sums = self._sums.zeros(layer, (len(SUMS), *shape), dtype=torch.float64, device=device)
        terms = self._terms.get(layer, LayerTerms())
        for name, amount in slot_terms(event, terms).items():
            add_at(sums[SUMS.index(name)], place, amount.to(device))
        for name, table in dense_terms(event, terms).items():
            sums[SUMS.index(name)].index_add_(0, groups, table.to(device))
        if event.outputs is not None:
            self._raise_maxima(layer, place, event.outputs, shape)

    def merge(self, other: Importance) -> None:
        """Add another's sums.

        Raises:
            ValueError: The other was made for other groups, or for another model.
        """
        if not torch.equal(self._group_of, other._group_of):
            raise ValueError(
                "the two group the documents differently; were they made from the same corpus?"
            )
        self._counts.merge(other._counts)
        self._tokens.merge(other._tokens)
        self._sums.merge(other._sums)
        for layer, maxima in other._maxima.items():
            mine = self._maxima.get(layer)
            self._maxima[layer] = (
                maxima.clone() if mine is None else torch.maximum(mine, maxima.to(mine.device))
            )

    def state(self) -> Mapping[str, Tensor]:
        """Groups, counts, sums and maxima."""
        parts = self._counts.state() | self._tokens.state() | self._sums.state()
        parts |= {f"maxima.{layer}": m.cpu().clone() for layer, m in self._maxima.items()}
        return parts | {"group_of": self._group_of.clone()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Importance:
        """The accumulator that `state` came from, to be read and merged."""
        found = cls(state["group_of"])
        found._counts = LayerSums.from_state("counts", state)
        found._tokens = LayerSums.from_state("tokens", state)
        found._sums = LayerSums.from_state("sums", state)
        for key, maxima in state.items():
            head, _, layer = key.partition(".")
            if head == "maxima":
                found._maxima[int(layer)] = maxima.clone()
        return found

    def table(self) -> pl.DataFrame:
        """One row for each group, layer and expert: what the criteria are made of.

        Columns: group, layer, expert, num_tokens (that chose the expert), num_group_tokens, the
        names of `SUMS`, max_abs.
        """
        parts = [pl.DataFrame(schema=SCHEMA)]
        for layer in self._counts.layers:
            counts, tokens = self._counts.of(layer), self._tokens.of(layer)
            sums = self._sums.of(layer)
            num_groups, num_experts = counts.shape
            empty = torch.zeros(counts.shape, dtype=torch.float64)
            maxima = self._maxima.get(layer, empty).cpu()
            size = counts.numel()
            columns = {
                "group": torch.arange(num_groups).repeat_interleave(num_experts).numpy(),
                "layer": [layer] * size,
                "expert": torch.arange(num_experts).repeat(num_groups).numpy(),
                "num_tokens": counts.reshape(-1).numpy(),
                "num_group_tokens": tokens.repeat_interleave(num_experts).numpy(),
                **{name: sums[i].reshape(-1).numpy() for i, name in enumerate(SUMS)},
                "max_abs": maxima.reshape(-1).numpy(),
            }
            parts.append(pl.DataFrame(columns, schema=SCHEMA))
        return pl.concat(parts)

    def _raise_maxima(
        self,
        layer: int,
        place: Int[Tensor, "tok slot"],
        outputs: Float[Tensor, "tok slot d_model"],
        shape: Sequence[int],
    ) -> None:
        if layer not in self._maxima:
            self._maxima[layer] = torch.zeros(
                tuple(shape), dtype=torch.float64, device=outputs.device
            )
        peaks = torch.linalg.vector_norm(outputs, ord=torch.inf, dim=-1).double()
        flat = self._maxima[layer].view(-1)
        flat.scatter_reduce_(0, place.reshape(-1).to(flat.device), peaks.reshape(-1), "amax")

    def _groups(self, layer: int, document: Int[Tensor, " tok"]) -> Int[Tensor, " tok"]:
        if len(document) and int(document.max()) >= len(self._group_of):
            raise ValueError(
                f"layer {layer}: document {int(document.max())} has no group; groups are known "
                f"for {len(self._group_of)} documents"
            )
        return self._group_of.to(document.device)[document.long()]


def slot_terms(event: LayerEvent, terms: LayerTerms) -> dict[str, Float64[Tensor, "tok slot"]]:
    """What each slot of each token adds to its expert's sums; 0 in slots that are not active."""
    weights = event.routing.weights.double()
    found = {"gate_sum": weights}
    squares = output_squares(event)
    if squares is None:
        return found
    weights = weights.to(squares.device)
    norms = squares.sqrt()
    gate_norms = weights * norms
    found |= {"norm_sum": norms, "norm_square_sum": squares, "gate_norm_sum": gate_norms}
    if event.gram is not None and terms.residual_scale is not None:
        turned = turning(event.gram, weights, scale=terms.residual_scale)
        found["easy_ep_sum"] = gate_norms * turned.unsqueeze(1)
    return found


def dense_terms(event: LayerEvent, terms: LayerTerms) -> dict[str, Float64[Tensor, "tok expert"]]:
    """What each token adds to the sums of all experts, chosen or not."""
    scores = event.routing.scores
    if terms.rule is None or scores is None:
        return {}
    found = {"soft_sum": terms.rule.shares(scores.double())}
    if terms.reroutes:
        assert event.gram is not None
        found["reroute_square_sum"] = reroute_squares(
            event.gram, event.routing, terms.rule, routed_scale=terms.routed_scale
        )
    return found


def output_squares(event: LayerEvent) -> Float64[Tensor, "tok slot"] | None:
    """|E_j|^2 of each slot's ungated output: from the Gram, or else from the outputs."""
    routing: Routing = event.routing
    if event.gram is not None:
        squares = event.gram.double().diagonal(dim1=1, dim2=2)[:, 2 : 2 + routing.num_slots]
    elif event.outputs is not None:
        squares = torch.linalg.vector_norm(event.outputs, dim=-1, dtype=torch.float64) ** 2
    else:
        return None
    return squares.masked_fill(~routing.active.to(squares.device), 0.0)


def turning(
    gram: Float[Tensor, "tok state state"], weights: Float64[Tensor, "tok slot"], *, scale: float
) -> Float64[Tensor, " tok"]:
    """How far the routed experts turn the residual stream: max(0, 1 - cos(r, r + M_k)).

    Computed from the area that r and M_k span, since the plain difference of two numbers close to
    1 would lose the digits that matter. 0 where r or r + M_k is 0.

    Source: terms.md#easy_ep
    """
    G, num_slots = gram.double(), weights.shape[1]
    g = scale * weights.unsqueeze(2)
    rr = G[:, 0, 0]
    rm = (G[:, :1, 2 : 2 + num_slots] @ g).reshape(-1)
    mm = (g.mT @ G[:, 2 : 2 + num_slots, 2 : 2 + num_slots] @ g).reshape(-1)
    hh = rr + 2 * rm + mm
    squares = rr * hh
    defined = squares > 0
    size = torch.where(defined, squares, 1.0)
    cosine = ((rr + rm) / size.sqrt()).clamp(-1.0, 1.0)
    area = (rr * mm - rm**2).clamp_min(0.0)
    apart = torch.where(cosine > 0, area / size / (1 + cosine), 1 - cosine)
    return apart.masked_fill(~defined, 0.0)
