"""`Similarity`: how close one expert and the residual come to the whole layer, with controls.

Everything follows from the Gram of each token and its weights; no expert output is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, final

import polars as pl
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from moe_lens.event import Field, LayerEvent
from moe_lens.stats.accumulator import Accumulator
from moe_lens.stats.document_sums import DocumentSums
from moe_lens.stats.ranks import refuse_unweighted, unweighted
from moe_lens.stats.sums import LayerSums, count_at

COSINE_BINS_PER_UNIT = 2000
RATIO_BINS_PER_DECADE = 500
NUM_BINS = 4000
"""Cosines: [-1, 1] in steps of 1/2000. Ratios: 1e-4 to 1e4 in steps of 0.46 % (10^(1/500))."""
QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.50, "p75": 0.75, "p95": 0.95}

_RATIO_DECADES = NUM_BINS // RATIO_BINS_PER_DECADE
_NUM_LEADING_STATES = 2
_COUNTED, _LEFT_OUT = 0, 1


def quantities(num_slots: int, *, with_random: bool) -> tuple[str, ...]:
    """The quantities of a layer, in order; `cos_random_hk` only where a probe expert was run."""
    return (
        "cos_h1_hk",
        "cos_resid_hk",
        *(f"cos_rank{j}_hk" for j in range(1, num_slots + 1)),
        *(("cos_random_hk",) if with_random else ()),
        "cos_m1_mk",
        "error_h1_hk",
        "norm_mk_resid",
    )


class Similarities(NamedTuple):
    """The quantities of each token, and which tokens have them."""

    names: tuple[str, ...]
    values: Float64[Tensor, "tok quantity"]
    defined: Bool[Tensor, " tok"]


def similarities(
    gram: Float[Tensor, "tok state state"], weights: Float[Tensor, "tok slot"], *, scale: float
) -> Similarities:
    """Cosines, relative errors and norms of a token's states, in float64.

    H_j = resid_mid + M_j with every contribution times `scale`, as the layer adds it. A token is
    not defined where resid_mid, H_k, M_k or one of the compared states is 0; its values are 0.

    Args:
        gram: Of [resid_mid, shared, E_1 .. E_k], and then, as an option, one expert that was not
            chosen, which enters at rank 1's weight.
        weights: Of the slots, by falling weight; 0 where inactive.
        scale: The layer's residual scale.

    Raises:
        ValueError: The Gram does not fit the weights, or a value is not finite.

    Source: terms.md#gram
    """
    num_slots = weights.shape[1]
    num_experts = gram.shape[1] - _NUM_LEADING_STATES
    if num_experts not in (num_slots, num_slots + 1):
        raise ValueError(
            f"a Gram of {gram.shape[1]} states does not fit {num_slots} slots: it has 2 + slots "
            f"rows, and one more with a probe expert"
        )
    G = gram.double()
    G = torch.cat([G[:, :1], G[:, _NUM_LEADING_STATES:]], dim=1)
    G = torch.cat([G[:, :, :1], G[:, :, _NUM_LEADING_STATES:]], dim=2)  # [r, E_1 .. E_k, probe]
    g = scale * weights.double().to(G.device)
    alone = torch.cat([g, g[:, :1]], dim=1) if num_experts > num_slots else g
    rr = G[:, 0, 0]
    with_r = alone * G[:, 0, 1:]  # <r, c_j>
    with_m = alone * (G[:, 1:, 1 : num_slots + 1] @ g.unsqueeze(2)).squeeze(2)  # <c_j, M_k>
    squares = alone**2 * G.diagonal(dim1=1, dim2=2)[:, 1:]  # <c_j, c_j>
    r_m, m_m = with_r[:, :num_slots].sum(1), with_m[:, :num_slots].sum(1)
    h_h = rr + 2 * r_m + m_m
    inner = torch.cat([(rr + r_m).unsqueeze(1), rr.unsqueeze(1) + with_r + r_m.unsqueeze(1)], 1)
    inner[:, 1:] += with_m
    norms = torch.cat([rr.unsqueeze(1), rr.unsqueeze(1) + 2 * with_r + squares], 1)
    tail = g[:, 1:].unsqueeze(2)  # M_k - c_1
    tail_G = G[:, 2 : num_slots + 1, 2 : num_slots + 1]
    rest = (tail * (tail_G @ tail)).sum((1, 2))
    cosines = inner / (norms * h_h.unsqueeze(1)).sqrt()
    update = with_m[:, 0] / (squares[:, 0] * m_m).sqrt()
    error = (rest.clamp_min(0.0) / m_m).sqrt()
    values = torch.cat(
        [
            cosines[:, 1:2],
            cosines,
            update.unsqueeze(1),
            error.unsqueeze(1),
            (m_m.clamp_min(0.0) / rr).sqrt().unsqueeze(1),
        ],
        dim=1,
    )
    values[:, :-2] = values[:, :-2].clamp(-1.0, 1.0)
    if not bool(torch.isfinite(G).all()):
        raise ValueError("a Gram is not finite: the model's activations overflowed")
    defined = (rr > 0) & (h_h > 0) & (m_m > 0) & (squares[:, 0] > 0) & (norms > 0).all(1)
    names = quantities(num_slots, with_random=num_experts > num_slots)
    return Similarities(names, values.masked_fill(~defined.unsqueeze(1), 0.0), defined)


@final
class Similarity(Accumulator):
    """Sums of every similarity quantity for each document, and their distribution for each domain.

    Tokens with no active slot, or whose M_k is 0, are left out of everything, and counted.

    Args:
        scales: The residual scale of each layer (`lens.states.residual_scales`).
        domain_of: The index of each document's domain; None puts all in domain 0.

    Source: terms.md#similarity
    """

    needs = frozenset({Field.GRAM})

    def __init__(
        self, scales: Mapping[int, float], domain_of: Int[Tensor, " document"] | None = None
    ) -> None:
        self._scales = dict(scales)
        self._domain_of = None if domain_of is None else domain_of.cpu().long()
        self._num_domains = 1 if domain_of is None else int(domain_of.max()) + 1
        self._kinds = LayerSums("kind")
        self._tokens = LayerSums("tokens")
        self._bins = LayerSums("bins")
        self._documents = DocumentSums()

    def update(self, event: LayerEvent) -> None:
        """Add one layer's states.

        Raises:
            ValueError: The event has no Gram or no weights, its layer or a document has no
                entry in the constructor's arguments, or it has other slots than before.
        """
        layer, routing, document = event.layer, event.routing, event.tokens.document
        if event.gram is None:
            raise ValueError(f"layer {layer}: similarity needs the Gram (Field.GRAM) in events")
        if layer not in self._scales:
            raise ValueError(
                f"layer {layer}: no residual scale was given; scales are known for layers "
                f"{', '.join(map(str, sorted(self._scales)))}"
            )
        refuse_unweighted(int(unweighted(routing).sum()), layer=layer, what="similarity of states")
        found = similarities(event.gram, routing.weights, scale=self._scales[layer])
        self._check_kind(layer, routing.num_slots, len(found.names))
        kept = found.defined & routing.active.any(1).to(found.defined.device)
        domains = self._domains(layer, document).to(kept.device)
        size = (self._num_domains, 2)
        counts = self._tokens.zeros(layer, size, dtype=torch.int64, device=kept.device)
        count_at(counts, domains * 2 + torch.where(kept, _COUNTED, _LEFT_OUT), active=None)
        values, rows = found.values[kept], kept.nonzero().squeeze(1)
        shape = (self._num_domains, len(found.names), NUM_BINS)
        bins = self._bins.zeros(layer, shape, dtype=torch.int64, device=kept.device)
        first = domains[rows].unsqueeze(1) * len(found.names)
        place = first + torch.arange(len(found.names), device=kept.device)
        count_at(bins, place * NUM_BINS + bin_of(values), active=None)
        self._documents.add(layer, document.to(kept.device)[rows], values)

    def merge(self, other: Similarity) -> None:
        """Add another's sums.

        Raises:
            ValueError: The other was made for other scales, domains or slots.
        """
        same_domains = (self._domain_of is None and other._domain_of is None) or (
            self._domain_of is not None
            and other._domain_of is not None
            and torch.equal(self._domain_of, other._domain_of)
        )
        if self._scales != other._scales or not same_domains:
            raise ValueError(
                "the two were made with different residual scales or domains; were the events "
                "recorded from different models?"
            )
        for layer, kind in other._kinds.items():
            self._check_kind(layer, int(kind[0]), int(kind[1]))
        self._tokens.merge(other._tokens)
        self._bins.merge(other._bins)
        self._documents.merge(other._documents)

    def state(self) -> Mapping[str, Tensor]:
        """Scales, domains, counts, bins and sums."""
        parts = self._kinds.state() | self._tokens.state() | self._bins.state()
        parts |= self._documents.state()
        for layer, scale in self._scales.items():
            parts[f"scale.{layer}"] = torch.tensor(scale, dtype=torch.float64)
        if self._domain_of is not None:
            parts["domain_of"] = self._domain_of.clone()
        return parts

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Similarity:
        """The accumulator that `state` came from."""
        scales = {
            int(key.partition(".")[2]): float(value)
            for key, value in state.items()
            if key.startswith("scale.")
        }
        found = cls(scales, state.get("domain_of"))
        found._kinds = LayerSums.from_state("kind", state)
        found._tokens = LayerSums.from_state("tokens", state)
        found._bins = LayerSums.from_state("bins", state)
        found._documents = DocumentSums.from_state(state)
        return found

    def documents(self) -> pl.DataFrame:
        """One row for each layer, document and quantity.

        Columns: layer, document, quantity, num_tokens, value_sum (over these tokens).
        """
        schema = {
            "layer": pl.Int64,
            "document": pl.Int64,
            "quantity": pl.String,
            "num_tokens": pl.Int64,
            "value_sum": pl.Float64,
        }
        frames = [pl.DataFrame(schema=schema)]
        for layer in self._documents.layers:
            names = self._names(layer)
            documents, counts, sums = self._documents.rows(layer)
            columns = {
                "layer": [layer] * sums.numel(),
                "document": documents.repeat_interleave(len(names)).numpy(),
                "quantity": list(names) * len(documents),
                "num_tokens": counts.repeat_interleave(len(names)).numpy(),
                "value_sum": sums.reshape(-1).numpy(),
            }
            frames.append(pl.DataFrame(columns, schema=schema))
        return pl.concat(frames)

    def quantiles(self) -> pl.DataFrame:
        """One row for each layer, domain (by index) and quantity that has tokens.

        Columns: layer, domain, quantity, num_tokens, num_left_out, p05, p25, p50, p75, p95. A
        quantile is the middle of the bin that holds the smallest value with at least that part
        of the tokens at or below it: exact to 1/4000 for cosines, to 0.23 % for ratios.
        """
        schema: dict[str, type[pl.DataType]] = {
            "layer": pl.Int64,
            "domain": pl.Int64,
            "quantity": pl.String,
            "num_tokens": pl.Int64,
            "num_left_out": pl.Int64,
        }
        schema |= dict.fromkeys(QUANTILES, pl.Float64)
        rows = []
        for layer in self._tokens.layers:
            names, tokens = self._names(layer), self._tokens.of(layer).tolist()
            middles, bins = bin_middles(len(names)), self._bins.of(layer)
            for domain, (num_tokens, num_left_out) in enumerate(tokens):
                if num_tokens == 0:
                    continue
                below = bins[domain].cumsum(-1)
                wanted = torch.tensor(list(QUANTILES.values()), dtype=torch.float64) * num_tokens
                ranks = wanted.ceil().long().clamp_min(1).expand(len(names), -1).contiguous()
                values = middles.gather(1, torch.searchsorted(below, ranks)).tolist()
                rows += [
                    (layer, domain, name, num_tokens, num_left_out, *value)
                    for name, value in zip(names, values, strict=True)
                ]
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _names(self, layer: int) -> tuple[str, ...]:
        num_slots, size = self._kinds.of(layer).tolist()
        plain = quantities(num_slots, with_random=False)
        return plain if len(plain) == size else quantities(num_slots, with_random=True)

    def _check_kind(self, layer: int, num_slots: int, size: int) -> None:
        kind = torch.tensor([num_slots, size])
        if layer not in self._kinds.layers:
            self._kinds.add(layer, kind)
            return
        before = self._kinds.of(layer)
        if not torch.equal(before, kind):
            raise ValueError(
                f"layer {layer}: {num_slots} slots and {size} quantities after "
                f"{int(before[0])} and {int(before[1])}; were the events recorded from different "
                f"models?"
            )

    def _domains(self, layer: int, document: Int[Tensor, " tok"]) -> Int64[Tensor, " tok"]:
        if self._domain_of is None:
            return torch.zeros_like(document).long()
        if len(document) and int(document.max()) >= len(self._domain_of):
            raise ValueError(
                f"layer {layer}: document {int(document.max())} has no domain; domains are known "
                f"for {len(self._domain_of)} documents"
            )
        return self._domain_of.to(document.device)[document.long()]


def bin_of(values: Float64[Tensor, "tok quantity"]) -> Int64[Tensor, "tok quantity"]:
    """The bin of each value: cosines by their steps, the last two columns by their logarithm."""
    cosines = ((values[:, :-2] + 1.0) * COSINE_BINS_PER_UNIT).floor()
    tiny = 10.0 ** (-_RATIO_DECADES / 2)
    ratios = values[:, -2:].clamp_min(tiny).log10()
    ratios = ((ratios + _RATIO_DECADES / 2) * RATIO_BINS_PER_DECADE).floor()
    return torch.cat([cosines, ratios], dim=1).clamp(0, NUM_BINS - 1).long()


def bin_middles(num_quantities: int) -> Float64[Tensor, "quantity bin"]:
    """The value in the middle of each bin; of ratios, on the logarithmic scale."""
    middle = torch.arange(NUM_BINS, dtype=torch.float64) + 0.5
    cosines = middle / COSINE_BINS_PER_UNIT - 1.0
    ratios = 10.0 ** (middle / RATIO_BINS_PER_DECADE - _RATIO_DECADES / 2)
    return torch.stack([*[cosines] * (num_quantities - 2), ratios, ratios])
