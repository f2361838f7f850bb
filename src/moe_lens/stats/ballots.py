"""`Ballots`: the router's scores of a uniform sample of tokens, kept whole.

Statistics that ask again how a token would choose need all of its scores, and those of a corpus
are too many. The sample is the tokens with the smallest hash of where they are: it does not
depend on batches or order, and two samples merge into the one of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, final

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from moe_lens.event import Field, LayerEvent, Tokens
from moe_lens.stats.accumulator import Accumulator

DEFAULT_CAPACITY = 8192
"""Tokens kept of each layer: 2 MB for 64 experts."""

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


class Sample(NamedTuple):
    """Tokens of one layer, by rising hash."""

    keys: Int64[Tensor, " tok"]
    documents: Int64[Tensor, " tok"]
    scores: Float32[Tensor, "tok expert"]


@final
class Ballots(Accumulator):
    """For each layer, the scores of at most `capacity` tokens; all of them where there are fewer.

    The same tokens at every layer.

    Args:
        capacity: The most tokens that are kept.

    Raises:
        ValueError: The capacity is not positive.
    """

    needs = frozenset({Field.SCORES})

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"capacity = {capacity}: keep at least 1 token")
        self._capacity = capacity
        self._samples: dict[int, Sample] = {}

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers seen so far, in rising order."""
        return tuple(sorted(self._samples))

    def sample(self, layer: int) -> Sample:
        """What is kept of a layer."""
        return self._samples[layer]

    def update(self, event: LayerEvent) -> None:
        """Offer a layer's tokens to the sample.

        Raises:
            ValueError: The event has no scores, or the layer other experts than before.
        """
        scores = event.routing.scores
        if scores is None:
            raise ValueError(f"layer {event.layer}: ballots need the scores (Field.SCORES)")
        keys = hashes(event.tokens).cpu()
        small = keys.argsort()[: self._capacity]
        if event.layer in self._samples and len(self._samples[event.layer].keys) == self._capacity:
            small = small[keys[small] < self._samples[event.layer].keys[-1]]
        rows = small.to(scores.device)
        documents = event.tokens.document.to(scores.device)[rows].cpu().long()
        self._offer(event.layer, Sample(keys[small], documents, scores[rows].float().cpu()))

    def merge(self, other: Ballots) -> None:
        """Add another's sample.

        Raises:
            ValueError: The other keeps another number of tokens, or has other experts.
        """
        if self._capacity != other._capacity:
            raise ValueError(
                f"samples of {self._capacity} and {other._capacity} tokens cannot join"
            )
        for layer, sample in other._samples.items():
            self._offer(layer, sample)

    def state(self) -> Mapping[str, Tensor]:
        """Capacity, and keys, documents and scores of each layer."""
        parts: dict[str, Tensor] = {"capacity": torch.tensor(self._capacity)}
        for layer, sample in self._samples.items():
            for name, value in sample._asdict().items():
                parts[f"{name}.{layer}"] = value.clone()
        return parts

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Ballots:
        """The sample that `state` came from."""
        found = cls(int(state["capacity"]))
        for key, keys in state.items():
            head, _, layer = key.partition(".")
            if head == "keys":
                documents, scores = state[f"documents.{layer}"], state[f"scores.{layer}"]
                found._samples[int(layer)] = Sample(keys.clone(), documents.clone(), scores.clone())
        return found

    def _offer(self, layer: int, new: Sample) -> None:
        before = self._samples.get(layer)
        if before is None:
            keys, documents, scores = new
        else:
            if before.scores.shape[1] != new.scores.shape[1]:
                raise ValueError(
                    f"layer {layer}: scores of {new.scores.shape[1]} experts after "
                    f"{before.scores.shape[1]}; were the events recorded from different models?"
                )
            if not len(new.keys):
                return
            keys, documents, scores = (torch.cat(pair) for pair in zip(before, new, strict=True))
        small = keys.argsort()[: self._capacity]
        self._samples[layer] = Sample(keys[small], documents[small], scores[small])


def hashes(tokens: Tokens) -> Int64[Tensor, " tok"]:
    """A hash of each token's document and position.

    Source: splitmix64 (Steele et al., 2014).
    """
    return _mix(_mix(tokens.document.long()) ^ tokens.position.long())


def _mix(state: Tensor) -> Tensor:
    state = state + _GOLDEN
    state = (state ^ _shift_right(state, 30)) * _MIX_1
    state = (state ^ _shift_right(state, 27)) * _MIX_2
    return state ^ _shift_right(state, 31)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical, not arithmetic."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
