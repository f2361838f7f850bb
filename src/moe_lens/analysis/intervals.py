"""Intervals that resample documents: tokens of one document are not independent.

A rate is a ratio of sums over documents. Its spread comes from leaving out one document at a time
(the jackknife, the linear form of resampling documents); in simulation this covers where the
bootstrap's percentiles do not, down to 20 documents of unequal length. Numbers that are not
smooth, such as n50, use the bootstrap proper.

Source: terms.md#document-resampling
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Num
from scipy import special, stats

MIN_DOCUMENTS = 5
"""With fewer documents there is no interval: every bound and p-value is nan (null in tables)."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimates:
    """Several ratios with their intervals; nan is what cannot be told.

    Attributes:
        value: The ratios.
        low: Lower ends.
        high: Upper ends.
        p_value: Two-sided, against the baseline; below 1 - confidence exactly where the baseline
            lies outside the interval. nan without a baseline.
    """

    value: Float64[np.ndarray, " stat"]
    low: Float64[np.ndarray, " stat"]
    high: Float64[np.ndarray, " stat"]
    p_value: Float64[np.ndarray, " stat"]


class _Spread(NamedTuple):
    """Weights of documents, variance of each ratio, and degrees of freedom of the variance."""

    weights: Float64[np.ndarray, " doc"]
    variance: Float64[np.ndarray, " stat"]
    dof: float


def rates(
    chosen: Num[np.ndarray, "doc stat"],
    tokens: Num[np.ndarray, " doc"],
    *,
    baseline: float | None = None,
    confidence: float = CONFIDENCE,
) -> Estimates:
    """Shares of tokens, each with an interval: sum of `chosen` over sum of `tokens`.

    The interval is Student's t on the logit scale. Its variance is the jackknife's, scaled to be
    unbiased for documents of these lengths; its degrees of freedom are Bell and McCaffrey's for
    these lengths, or the effective number of documents that carry the chosen (or the other)
    tokens less one, whichever is smaller: a rate that hangs on two documents is known from two.
    Where few documents chose at all, the exact bound that holds even if a document chooses with
    all of its tokens or none can be tighter, and is taken.

    Args:
        chosen: Tokens of each document that count, 0 to `tokens`.
        tokens: Tokens of each document; documents without tokens are left out.
        baseline: Rate to test against, 0 to 1.
        confidence: Of the interval.

    Raises:
        ValueError: More tokens chosen than there are, or no tokens at all.
    """
    chosen, tokens = _documents(chosen, tokens)
    if (chosen < 0).any() or (chosen > tokens[:, None]).any():
        raise ValueError("a document has fewer than 0, or more chosen tokens than tokens")
    value = chosen.sum(axis=0) / tokens.sum()
    if len(tokens) < MIN_DOCUMENTS:
        return _untold(value)
    spread = _spread(chosen, tokens)
    inside = (value > 0) & (value < 1)
    between = value * (1 - value)
    # Documents that all agree to the digit: the spread of independent tokens is the least.
    variance = np.where(spread.variance > 0, spread.variance, between / tokens.sum())
    error = np.sqrt(variance[inside]) / between[inside]
    dof = np.minimum(spread.dof, _carriers(chosen, tokens[:, None] - chosen))[inside]
    low, high = np.zeros_like(value), np.ones_like(value)
    centre = special.logit(value[inside])
    reach = stats.t.ppf((1 + confidence) / 2, dof) * error
    low[inside], high[inside] = special.expit(centre - reach), special.expit(centre + reach)

    effective = 1 / (spread.weights @ spread.weights)
    users = _snap(spread.weights @ (chosen > 0))
    others = _snap(spread.weights @ (chosen < tokens[:, None]))
    tail = (1 - confidence) / 2
    high = np.minimum(high, _whole_document_bound(users, effective, tail))
    low = np.maximum(low, 1 - _whole_document_bound(others, effective, tail))
    if baseline is None:
        return Estimates(value, low, high, np.full_like(value, np.nan))
    p_value = np.ones_like(value)
    with np.errstate(divide="ignore"):
        distance = (centre - special.logit(baseline)) / error
    p_value[inside] = 2 * stats.t.sf(np.abs(distance), dof)
    by_document = np.where(
        value < baseline,
        _whole_document_tail(users, effective, baseline),
        _whole_document_tail(others, effective, 1 - baseline),
    )
    p_value = np.where(value == baseline, 1.0, np.minimum(p_value, 2 * by_document))
    return Estimates(value, low, high, p_value)


def means(
    sums: Num[np.ndarray, "doc stat"],
    weights: Num[np.ndarray, " doc"],
    *,
    baseline: float | None = None,
    confidence: float = CONFIDENCE,
) -> Estimates:
    """Means of an unbounded quantity, each with an interval: sum of `sums` over sum of `weights`.

    As `rates`, without a transformation. Pairs are compared by giving differences: the logarithm
    of a ratio of perplexities is the mean of the differences of the losses.

    Args:
        sums: Each document's sum over its tokens.
        weights: Each document's tokens, or 1 for a mean over documents.
        baseline: Mean to test against.
        confidence: Of the interval.

    Raises:
        ValueError: Weights are negative, or all 0.
    """
    sums, weights = _documents(sums, weights)
    value = sums.sum(axis=0) / weights.sum()
    if len(weights) < MIN_DOCUMENTS:
        return _untold(value)
    spread = _spread(sums, weights)
    error = np.sqrt(spread.variance)
    reach = stats.t.ppf((1 + confidence) / 2, spread.dof) * error
    p_value = np.full_like(value, np.nan)
    if baseline is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.abs(value - baseline) / error
        distance = np.where(value == baseline, 0.0, distance)
        p_value = 2 * stats.t.sf(distance, spread.dof)
    return Estimates(value, value - reach, value + reach, p_value)


def bootstrap_weights(
    num_documents: int, *, num_draws: int, seed: int
) -> Float64[np.ndarray, "draw doc"]:
    """How often each draw of the bootstrap takes each document; rows sum to the documents.

    Times a matrix of sums per document this gives the sums of every draw at once.
    """
    share = np.full(num_documents, 1 / num_documents)
    draws = np.random.default_rng(seed).multinomial(num_documents, share, size=num_draws)
    return draws.astype(np.float64)


def effective_documents(weights: Num[np.ndarray, " doc"]) -> float:
    """How many documents of equal weight would tell as much (Kish)."""
    return float(weights.sum() ** 2 / (weights.astype(np.float64) ** 2).sum())


def _documents(
    sums: Num[np.ndarray, "doc stat"], weights: Num[np.ndarray, " doc"]
) -> tuple[Float64[np.ndarray, "kept stat"], Float64[np.ndarray, " kept"]]:
    if (weights < 0).any() or not (weights > 0).any():
        raise ValueError("documents need weights from 0 up, and at least one above 0")
    kept = weights > 0
    if sums[~kept].any():
        raise ValueError("a document without tokens has a sum that is not 0")
    return sums[kept].astype(np.float64), weights[kept].astype(np.float64)


def _untold(value: Float64[np.ndarray, " stat"]) -> Estimates:
    unknown = np.full_like(value, np.nan)
    return Estimates(value, unknown, unknown, unknown)


def _spread(sums: Float64[np.ndarray, "doc stat"], weights: Float64[np.ndarray, " doc"]) -> _Spread:
    """The jackknife's variance, and what is known of it where documents' own rates vary alike.

    The ratio of sums is the mean of the documents' rates with these weights. For rates of equal
    variance the jackknife is a quadratic form r' A r; its trace says by how much it is too large
    on average, and trace(A)^2 / trace(A^2) how many degrees of freedom it has.
    """
    share = weights / weights.sum()
    value = sums.sum(axis=0) / weights.sum()
    residual = sums / weights.sum() - share[:, None] * value
    # Rounding is no spread: documents with the same rate differ in the last digit.
    scale = np.abs(sums / weights.sum()) + share[:, None] * np.abs(value)
    residual[np.abs(residual) < 1e-12 * scale] = 0.0
    jackknife = ((residual / (1 - share)[:, None]) ** 2).sum(axis=0)
    d, s = (share / (1 - share)) ** 2, share @ share
    c = s / 2 - share
    trace = (d * (1 + 2 * c)).sum()
    trace_of_square = 2 * d.sum() * (d @ c**2) + 2 * (d @ c) ** 2 + (d**2 * (1 + 4 * c)).sum()
    return _Spread(share, jackknife * (s / trace), float(trace**2 / trace_of_square))


def _carriers(
    chosen: Float64[np.ndarray, "doc stat"], other: Float64[np.ndarray, "doc stat"]
) -> Float64[np.ndarray, " stat"]:
    """Effective number of documents that the rarer outcome comes from, less one, at least 1/2."""

    def kish(part: Float64[np.ndarray, "doc stat"]) -> Float64[np.ndarray, " stat"]:
        squares = np.maximum((part**2).sum(axis=0), np.finfo(float).tiny)
        return np.asarray(part.sum(axis=0) ** 2 / squares)

    return np.asarray(np.maximum(np.minimum(kish(chosen), kish(other)) - 1, 0.5))


def _snap(share: Float64[np.ndarray, " stat"]) -> Float64[np.ndarray, " stat"]:
    """A share that is 1 up to rounding is 1."""
    return np.where(share > 1 - 1e-9, 1.0, share)


def _whole_document_bound(
    users: Float64[np.ndarray, " stat"], effective: float, tail: float
) -> Float64[np.ndarray, " stat"]:
    """Clopper and Pearson's upper bound on a rate, a document counting wholly if it counts at all.

    `users` is the share of weight in such documents, `effective` the number of documents.
    """
    bound = np.ones_like(users)
    some = users < 1
    bound[some] = stats.beta.isf(tail, effective * users[some] + 1, effective * (1 - users[some]))
    return bound


def _whole_document_tail(
    users: Float64[np.ndarray, " stat"], effective: float, rate: float
) -> Float64[np.ndarray, " stat"]:
    """Chance of so few or fewer such documents at this rate: what the bound inverts."""
    tail = np.ones_like(users)
    some = users < 1
    tail[some] = stats.beta.sf(rate, effective * users[some] + 1, effective * (1 - users[some]))
    return tail
